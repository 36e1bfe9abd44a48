"""A Ray cluster on this machine, which loses one of its two nodes."""

import contextlib
import time

import pytest


@contextlib.contextmanager
def two_nodes(monkeypatch):
    """A cluster of two nodes with a processor each, which commands with --executor ray find.

    Yields a function that waits until something is there, while a process runs, and kills a node.
    """
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        lost = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)

        def lose_one(process, is_there):
            deadline = time.monotonic() + 240
            while not is_there():
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            cluster.remove_node(lost, allow_graceful=False)

        yield lose_one
    finally:
        cluster.shutdown()
