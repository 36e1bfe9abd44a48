"""How often a race finds the choice of all images, and at what cost."""

import numpy as np
import pytest

from experiments import races

LABELS = np.repeat(np.arange(6), 30)


@pytest.mark.slow
def test_the_command_prints_how_often_the_choice_is_the_same(tmp_path, capsys):
    rng = np.random.default_rng(0)
    means = rng.normal(size=(6, 12))
    features = {
        f"features/m{i}": i * means[LABELS] + rng.normal(size=(180, 12)) for i in range(1, 4)
    }
    file = str(tmp_path / "birds.npz")
    np.savez(file, labels=LABELS, **features)
    races.main([file, "--orders", "3", "--methods", "parc"])
    *_, row, _ = capsys.readouterr().out.splitlines()
    name, models, method, same, cost = (cell.strip() for cell in row.strip("│ ").split("│"))
    assert (name, models, method, same) == ("birds", "3", "parc", "100%")
    assert 0.3 < float(cost) < 1
    with pytest.raises(SystemExit, match="2"):
        races.main([file, "--methods", "mean(parc,knn)"])
    assert "cannot be raced" in capsys.readouterr().err
