"""How often intervals hold, measured on draws from the same images."""

import numpy as np
import pytest

from experiments import coverage


def files(tmp_path, counts=(80, 60), models="ab"):
    """Write probe files that share 20 images."""
    rng = np.random.default_rng(0)
    labels = np.arange(160) % 4
    features = {m: 0.5 * np.eye(4)[labels] @ rng.normal(size=(4, 9)) for m in models}
    features = {m: (x + rng.normal(size=x.shape)).astype(np.float16) for m, x in features.items()}
    paths, start = [], 0
    for k, count in enumerate(counts):
        kept = slice(start, start + count)
        arrays = {f"features/{m}": x[kept] for m, x in features.items()}
        paths.append(tmp_path / f"set_{k}.npz")
        np.savez(paths[-1], labels=labels[kept], **arrays)
        start += count - 20
    return paths


def test_the_images_of_all_files_are_pooled_once(tmp_path):
    found = coverage.pool(files(tmp_path))
    assert sorted(found.features) == ["a", "b"]
    assert len(found.labels) == 120
    assert all(len(x) == 120 for x in found.features.values())


def test_coverage_is_that_of_the_draws(tmp_path):
    given = coverage.pool(files(tmp_path))
    found = coverage.coverage(given, ("knn", "parc"), images=60, draws=30, best=2)
    for of_scores, of_differences in found.values():
        assert of_scores.ratio.shape == (2,)
        assert of_differences.ratio.shape == (1,)
        assert np.all((of_scores.ratio > 0.5) & (of_scores.ratio < 2))
        assert np.all(of_scores.covered > 0.8)


def test_values_with_known_errors_are_covered_as_often_as_normal_numbers_are():
    rng = np.random.default_rng(0)
    parts = rng.normal(size=(400, 3, 50))
    found = coverage._coverage(parts.mean(axis=-1), parts, overlap=1.0)
    np.testing.assert_allclose(found.ratio, 1, atol=0.1)
    np.testing.assert_allclose(found.covered, 0.95, atol=0.03)
    half = coverage._coverage(parts.mean(axis=-1), parts, overlap=0.5)
    np.testing.assert_allclose(half.ratio, found.ratio / 2)


def test_the_command_prints_a_row_per_method(tmp_path, capsys):
    paths = list(map(str, files(tmp_path)))
    coverage.main([*paths, "--methods", "knn", "parc", "--images", "60", "--draws", "5"])
    printed = capsys.readouterr().out
    assert "2 models, 120 images" in printed
    assert "knn" in printed
    assert "parc" in printed


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--images", "120"], "--images is 120; expected 3 to 119, of 120 images"),
        (["--images", "60", "--methods", "no"], "unknown method 'no'"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit, match="2"):
        coverage.main([*map(str, files(tmp_path)), *flags])
    assert message in capsys.readouterr().err
