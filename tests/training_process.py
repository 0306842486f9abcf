"""Processes of training runs, for tests that kill, stop and restart them.

It imports what they need once, then forks a process for each line on stdin, a JSON object:
`output` (folder), `overrides` (settings), and optionally `run` (folder or address of the run, by
default `output`), `devices` (1), `environment` (variables), `step` (`real`, or `toy`: a cheap
update that depends on all that must survive), `data` (`random` batches, or `files`: those that the
settings name), `hang` (`data`, `evaluate` or `compile`: that waits for minutes, after
`output/hanging` is made), `first_hangs` (only the first process does). It answers with the process
id, and to `{"wait": id}` with the exit code. What a process prints goes to `output/log-INDEX.txt`.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from goldens_folder import REPOSITORY
from quick_compile import QUICK_COMPILE

os.environ["XLA_FLAGS"] = " ".join(QUICK_COMPILE)
import jax
import jax.numpy as jnp

sys.path.insert(0, str(REPOSITORY))
from stts_jax.buckets.address import path_of
from stts_jax.parallel.mesh import batch_sharding, replicated
from stts_jax.training import run
from stts_jax.training.distributed import join_processes, leave_processes
from stts_jax.training.run import RunParts
from stts_jax.training.step import abstract_state, state_shardings


def main() -> None:
    gc.set_threshold(100_000, 50, 100)  # as in conftest.py
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            code = os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1])
            print(code, flush=True)
            continue
        if str(order.get("run", "")).startswith("gs://"):
            import stts_jax.buckets.bucket_path  # noqa: F401  (takes a second, once for all forks)
        child = os.fork()
        if child == 0:
            run_and_leave(order)
        print(child, flush=True)


def run_and_leave(order: dict[str, Any]) -> None:
    os.environ.update(order.get("environment", {}))
    output = Path(order["output"])
    output.mkdir(parents=True, exist_ok=True)
    index = os.environ.get("JAX_PROCESS_ID", "0")
    log = os.open(output / f"log-{index}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    try:
        code = train(order, output)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        code = 1
    sys.stdout.flush()
    os._exit(code)


def train(order: dict[str, Any], output: Path) -> int:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", order.get("devices", 1))
    jax.config.update("jax_default_matmul_precision", "highest")
    jax.config.update("jax_compilation_cache_dir", str(REPOSITORY / ".jax_cache"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    join_processes()
    # After that only, as it makes an array.
    from training_cases import FakeBatches, random_state, small_config

    hangs = order.get("hang", "")
    if order.get("first_hangs") and jax.process_index() > 0:
        hangs = ""

    def hang() -> None:
        (output / "hanging").touch()
        time.sleep(600)

    class Batches(FakeBatches):
        def __next__(self):
            if hangs == "data" and self.number == 2:
                hang()
            return super().__next__()

    def evaluate(model: Any, step: int) -> dict[str, float]:
        if hangs == "evaluate" and step == 2:
            hang()
        return {"accuracy": step % 3 / 10}

    parts = RunParts(plot=lambda _: None)
    if order.get("data", "random") == "random":
        parts = replace(parts, open_data=Batches)
    if order.get("step") == "toy":
        parts = replace(parts, make_step=toy_step, init_state=random_state)
    if hangs == "compile":
        parts = replace(parts, make_step=lambda *_: SlowToCompile(hang))
    config = small_config(*order["overrides"])
    result = run.train(config, path_of(order.get("run", output)), evaluate=evaluate, parts=parts)
    names = ("step", "stopped", "left_running", "seconds")
    leave_processes()
    print(json.dumps({name: getattr(result, name) for name in names}), flush=True)
    return 0


class SlowToCompile:
    def __init__(self, hang):
        self.hang = hang

    def lower(self, *_):
        return self

    def compile(self) -> None:
        self.hang()


def toy_step(config, _, mesh):
    """Parameters, moments, batch, step and key all have a part in the next loss.

    All arrays are moved as one: each one by itself would be a program that takes seconds to
    compile, and one to read from the cache.
    """
    shardings = state_shardings(abstract_state(config, mesh))

    def step(state, batch, key):
        noise = jax.random.uniform(jax.random.fold_in(key, state.step))
        seen = batch.images.astype(jnp.float32).mean() + 1e-3 * batch.text.input_ids.sum() + noise
        moments = 0.9 * as_one(state.optimizer) + 0.01 * seen
        parameters = 0.9 * as_one(state.model) + 1e-6 * moments.sum()
        names = ("z_loss", "auxiliary_loss", "accuracy", "kept", "total_loss")
        names += ("learning_rate/llm", "gradient_norm/llm")
        loss = 50 * jnp.abs(parameters).mean()
        metrics = dict.fromkeys(names, noise) | {"loss": loss, "tokens": jnp.int32(1)}
        model, optimizer = cut_up(parameters, state.model), cut_up(moments, state.optimizer)
        return type(state)(model, optimizer, state.step + 1, state.spikes), metrics

    return jax.jit(
        step,
        in_shardings=(shardings, batch_sharding(mesh), replicated(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )


def as_one(tree):
    """All floating-point numbers of a tree in a row."""
    leaves = (leaf for leaf in jax.tree.leaves(tree) if leaf.dtype == jnp.float32)
    return jnp.concatenate([leaf.ravel() for leaf in leaves])


def cut_up(numbers, like):
    """A tree with these floating-point numbers; its integers are one more."""
    leaves, structure = jax.tree.flatten(like)
    new, start = [], 0
    for leaf in leaves:
        if leaf.dtype == jnp.float32:
            part = jax.lax.slice(numbers, (start,), (start + leaf.size,))
            new.append(part.reshape(leaf.shape))
            start += leaf.size
        else:
            new.append(leaf + 1)
    return jax.tree.unflatten(structure, new)


if __name__ == "__main__":
    main()
