"""Two processes of two devices each train as one process on one device does."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import distributed
import numpy as np
import pytest


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """One process with one device."""
    file = tmp_path_factory.mktemp("one") / "one.npz"
    code = (
        "import sys, numpy, distributed; x = distributed.trained(True);"
        "numpy.savez(sys.argv[1], losses=x[0], accuracy=x[1], weights=x[2])"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(file)], env=environment(), check=True, timeout=300
    )
    return np.load(file)


def environment():
    """With this package before one that is installed."""
    tests = Path(distributed.__file__).parent
    paths = os.pathsep.join(map(str, (tests, tests.parent)))
    return {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": paths}


@pytest.mark.slow
def test_two_processes_of_two_devices_give_the_losses_of_one(expected, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    command = [sys.executable, distributed.__file__, address]
    processes = [
        subprocess.Popen([*command, str(i), str(tmp_path)], env=environment()) for i in range(2)
    ]
    try:
        assert [process.wait(timeout=300) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    for name in ("0_True", "1_True", "0_False", "1_False"):
        found = np.load(tmp_path / f"{name}.npz")
        np.testing.assert_allclose(found["losses"], expected["losses"], rtol=0, atol=1e-4)
        np.testing.assert_allclose(found["weights"], expected["weights"], rtol=1e-4)
        # an image may fall on the other side
        assert abs(found["accuracy"] - expected["accuracy"]) <= 100 / 40
