"""One of several processes that restore a checkpoint together; says what it read and holds.

python restoring_process.py CHECKPOINT PORT COUNT INDEX
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jax

from stts_jax.parallel.mesh import make_mesh
from stts_jax.parallel.parameters import named_parameters
from stts_jax.training.checkpointing.load import load_model


def bytes_read() -> int:
    """By this process so far, with all its threads."""
    counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counts["rchar"])


def main(checkpoint: str, port: str, count: str, index: str) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(f"localhost:{port}", int(count), int(index))
    mesh = make_mesh({"fsdp": jax.device_count()})
    before = bytes_read()
    model, _ = load_model(Path(checkpoint), mesh=mesh)
    read = bytes_read() - before
    sums = {name: float(jax.jit(abs_sum)(array)) for name, array in named_parameters(model).items()}
    print(json.dumps({"read": read, "sums": sums}))


def abs_sum(array: jax.Array) -> jax.Array:
    return abs(array).sum()


if __name__ == "__main__":
    main(*sys.argv[1:])
