"""Loads a checkpoint and prints the bytes of its parameters, and by how much memory grew for them.

python loading_process.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jax

from stts_jax.parallel.mesh import make_mesh
from stts_jax.training.checkpointing.load import load_to_answer
from stts_jax.training.checkpointing.run_folder import config_of


def memory(kind: str) -> int:
    """Bytes of this process in main memory: `VmRSS` now, `VmHWM` at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(kind))


def main(folder: str) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 1)
    config, mesh = config_of(Path(folder)), make_mesh()
    jax.block_until_ready(jax.numpy.zeros(3))
    Path("/proc/self/clear_refs").write_text("5")  # what was held at most so far is forgotten
    before = memory("VmRSS")
    model, _ = load_to_answer(Path(folder), config, mesh)
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(model))
    print(json.dumps([held, memory("VmHWM") - before]))


if __name__ == "__main__":
    main(sys.argv[1])
