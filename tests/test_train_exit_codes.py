"""The exit codes of `train.py` itself, by which Slurm and Kubernetes start a run again.

Its update is a cheap one: compiling the real one three times would take a minute of the tests.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest
from goldens_folder import REPOSITORY
from process_runs import TIMEOUT, losses, until
from quick_compile import QUICK_COMPILE
from training_cases import small_config

from stts_jax.data.synthetic import ensure_synthetic
from stts_jax.training.checkpointing.run_folder import checkpoint_steps

CACHE = {
    "JAX_COMPILATION_CACHE_DIR": str(REPOSITORY / ".jax_cache"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    """A file with the settings of a run that would take long."""
    folder = tmp_path_factory.mktemp("setup")
    data = ensure_synthetic(folder / "set", videos=6, seed=0, progress=False)
    small_config(
        *(f"data.train={data}/train.jsonl", "data.batch_rows=2", "data.row_text_tokens=700"),
        *("model.llm.vocab_size=512", "train.steps=100000", "train.save_every=0"),
    ).save(folder)
    return folder / "config.json"


def start(stack, setup, output, **environment):
    script = REPOSITORY / "tests" / "train_with_toy_step.py"
    command = [sys.executable, str(script), "--config", str(setup), "--output", str(output)]
    flags = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(QUICK_COMPILE)}
    environment = os.environ | CACHE | flags | environment
    index = environment.get("JAX_PROCESS_ID", "0")
    with output.with_name(f"run-{index}.txt").open("w") as log:
        process = subprocess.Popen(
            command, env=environment, cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT
        )
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


@pytest.mark.parametrize("count", [1, 2])
def test_a_run_of_which_one_process_is_told_to_stop_ends_with_143_everywhere(
    setup, tmp_path, count
):
    output = tmp_path / "run"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    several = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": str(count)}
    with ExitStack() as stack:
        processes = [
            start(stack, setup, output, **(several | {"JAX_PROCESS_ID": str(index)}))
            if count > 1
            else start(stack, setup, output)
            for index in range(count)
        ]
        until(lambda: losses(output) or processes[0].poll() is not None, "a step", pause=0.1)
        processes[-1].send_signal(signal.SIGTERM)
        codes = [process.wait(timeout=TIMEOUT) for process in processes]
    said = (tmp_path / "run-0.txt").read_text()
    assert codes == [128 + signal.SIGTERM] * count, said
    (step,) = checkpoint_steps(output)
    assert f"stopped at step {step} by SIGTERM; the checkpoint is saved" in said
