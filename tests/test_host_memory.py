"""Freed memory is there for the next step, without being asked for page by page again."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from stts_jax import host_memory

# Blocks of 64 MB, as a program's temporaries are: freed and allocated again, in a process of its
# own, since the setting is one of the whole process.
SECOND_TIME = """
import resource, sys
import numpy as np
from stts_jax.host_memory import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = np.ones(2**23)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    del block
print(faults)
"""


def faults_of_the_second_time(way: str) -> int:
    command = [sys.executable, "-c", SECOND_TIME, way]
    here = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=here)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's setting, and Linux's counts")
def test_what_was_freed_is_not_fetched_from_linux_again():
    assert faults_of_the_second_time("kept") < 10 < faults_of_the_second_time("given back")


# Holes that a block of another size finds no place in, as two programs' temporaries leave them.
HELD = """
import sys
from pathlib import Path
import numpy as np
from stts_jax import host_memory

host_memory.keep_freed_memory()
host_memory.MUCH = float(sys.argv[1])
blocks = [np.ones(2**20) for _ in range(32)]
del blocks[::2]
host_memory.give_back_much()
print(int(Path("/proc/self/statm").read_text().split()[1]) * 4 // 1024)
"""


def megabytes_held(much: float) -> int:
    command = [sys.executable, "-c", HELD, str(much)]
    here = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return int(subprocess.run(command, capture_output=True, text=True, check=True, env=here).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's setting, and Linux's counts")
def test_a_process_that_holds_much_gives_freed_memory_back():
    assert megabytes_held(1.0) - megabytes_held(0.0) > 100


@pytest.mark.parametrize(
    ("platforms", "found", "computes"),
    [
        ("cpu", True, True),
        ("cuda,cpu", False, False),
        (None, False, True),
        (None, True, False),
    ],
)
def test_only_where_a_cpu_computes(platforms, found, computes, monkeypatch):
    config = SimpleNamespace(jax_platforms=platforms)
    monkeypatch.setattr(host_memory, "jax", SimpleNamespace(config=config))
    monkeypatch.setattr(host_memory, "find_spec", lambda name: found or None)
    assert host_memory._computes_here() is computes
