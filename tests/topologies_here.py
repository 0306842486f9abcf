"""Topologies of the tests that need a compiler; without it they are skipped, with its name."""

from __future__ import annotations

import pytest

from stts_jax.config import ConfigError
from stts_jax.fit.topologies import Topology, get_topology


def topology_or_skip(name: str) -> Topology:
    """Returns a topology; skips the test where its compiler isn't installed, and only there."""
    try:
        return get_topology(name)
    except ConfigError as error:
        if "needs the package" not in str(error):
            raise
        pytest.skip(str(error))
