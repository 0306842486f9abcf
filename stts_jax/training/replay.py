"""Repeats a step whose loss was not finite: `python -m stts_jax.training.replay DUMP`.

The dump holds the batch, the config and the seed, not the parameters: they come from the run's
checkpoint before the step, or are initialised as at its start if there was none. So if the loss is
not finite here, it is because of the batch; if it is finite here, because of updates since that
checkpoint.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from stts_jax.arguments import Parser, path_or_address
from stts_jax.batch import Batch
from stts_jax.buckets.address import path_of
from stts_jax.buckets.errors import BucketError
from stts_jax.budget import Budget
from stts_jax.config import Config, ConfigError, replace
from stts_jax.model.video_language_model import VideoLanguageModel
from stts_jax.parallel.mesh import BATCH_AXES, make_mesh, parameter_shardings, shard_batch
from stts_jax.parallel.parameters import key_of_seed
from stts_jax.terminal import end_quietly, is_stdout_closed
from stts_jax.train_ratios import RatioDraw, at_ratio, step_budget
from stts_jax.training.checkpointing.adapted_start import adapted_state, open_start
from stts_jax.training.checkpointing.checkpoint_errors import CheckpointError
from stts_jax.training.checkpointing.load import initialize_from, load_model
from stts_jax.training.dump import Dump, fingerprint, read_dump
from stts_jax.training.run_mesh import run_mesh
from stts_jax.training.step import loss_and_gradients
from stts_jax.training.teacher import open_teacher

_LEFT_OPEN = {"data": 0, "fsdp": 0, "tensor": 1, "context": 1}


def replay(folder: Path, checkpoint: Path | None = None) -> dict[str, float]:
    """Computes and prints loss and gradients of a dumped step.

    Args:
      folder: of the dump.
      checkpoint: whose parameters to use, by default the dump's.

    Returns:
      metrics of `loss_fn`, and `gradient_norm`.

    Raises:
      FileNotFoundError: if there is no dump, or its checkpoint is gone.
      CheckpointError: if the dump or the checkpoint is damaged.
    """
    dump, run_config, batch = read_dump(folder)
    mesh = _mesh(run_config, dump)
    ratio = RatioDraw.of(run_config).ratio_of(dump.step - 1)
    config, budget = at_ratio(run_config, ratio), step_budget(run_config, ratio)
    model = _model(config, dump, mesh, checkpoint)
    key = jax.random.fold_in(key_of_seed(dump.seed), dump.step - 1)
    parts = config.train.accumulate
    order = _order(len(batch.images), parts, dump, mesh)
    rows = jax.tree.map(lambda array: array[order], batch)
    teacher = open_teacher(config, mesh)
    metrics, bad = _gradients(model, config, budget, mesh, rows, key, teacher)
    print(f"step {dump.step}, batch {dump.fingerprint} (of all processes: {fingerprint(batch)})")
    source = checkpoint or dump.checkpoint or dump.init_from
    print(f"parameters: {source or 'as first initialised'}")
    for name, value in metrics.items():
        print(f"{name:16s} {value:.6g}   then: {dump.metrics.get(name, '-')}")
    if not bad:
        print("all finite here: updates after this checkpoint are the cause, not the batch")
    for name in bad:
        print(f"not finite: gradient of {name}")
    return metrics


def _mesh(config: Config, dump: Dump) -> Mesh:
    """Returns the run's mesh if there are enough devices, else a mesh of all devices."""
    devices = jax.devices()
    shape = dump.mesh or {"data": 1}
    if math.prod(shape.values()) <= len(devices):
        return make_mesh(shape, devices[: math.prod(shape.values())])
    try:
        return run_mesh(replace(config, {f"train.mesh.{a}": n for a, n in _LEFT_OPEN.items()}))
    except ConfigError:  # they can't share the rows evenly
        return make_mesh(devices=devices[:1])


def _order(rows: int, parts: int, dump: Dump, mesh: Mesh) -> np.ndarray:
    """Returns the order of the batch's rows in which each part has the rows that it had in the run.

    A part takes rows of every device, see `accumulate`, and has a key of its own.
    """
    then, now = (_sharers(shape) for shape in (dump.mesh or dict(mesh.shape), dict(mesh.shape)))
    of_parts = np.arange(rows).reshape(then, parts, -1).swapaxes(0, 1)
    return of_parts.reshape(parts, now, -1).swapaxes(0, 1).reshape(rows)


def _sharers(shape: Mapping[str, int]) -> int:
    return math.prod(shape.get(axis, 1) for axis in BATCH_AXES)


def _model(config: Config, dump: Dump, mesh: Mesh, chosen: Path | None) -> VideoLanguageModel:
    checkpoint = chosen or dump.checkpoint
    if config.train.has_base:
        start = open_start(_existing(path_of(checkpoint or dump.init_from or "")))
        return adapted_state(config, mesh, key_of_seed(dump.seed), start).model
    if checkpoint is not None:
        return load_model(_existing(path_of(checkpoint)), config, mesh)[0]

    # As the run made it: a scorer that the checkpoint lacks is initialised from the seed.
    def make(key: jax.Array) -> VideoLanguageModel:
        return VideoLanguageModel(config.model, key=key)

    key = key_of_seed(dump.seed)
    shardings = parameter_shardings(jax.eval_shape(make, key), mesh)
    model = jax.jit(make, out_shardings=shardings)(key)
    return initialize_from(model, _existing(path_of(dump.init_from))) if dump.init_from else model


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"checkpoint '{folder}' is gone; name another one with --checkpoint"
        )
    return folder


def _gradients(
    model: VideoLanguageModel,
    config: Config,
    budget: Budget,
    mesh: Mesh,
    batch: Batch,
    key: jax.Array,
    teacher: VideoLanguageModel | None,
) -> tuple[dict[str, float], list[str]]:
    """Returns metrics, and names of parameters whose gradients are not finite."""

    @jax.jit
    def run(
        model: VideoLanguageModel,
        batch: Batch,
        key: jax.Array,
        teacher: VideoLanguageModel | None,
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        (total, metrics), gradients = loss_and_gradients(
            config, budget, mesh, model, batch, key, teacher
        )
        squares = {name: jax.numpy.sum(gradient**2) for name, gradient in gradients.items()}
        return metrics | {"total_loss": total}, squares

    metrics, squares = jax.device_get(run(model, shard_batch(batch, mesh), key, teacher))
    found = {name: float(value) for name, value in metrics.items()}
    found["gradient_norm"] = float(np.sqrt(sum(squares.values())))
    return found, [name for name, square in squares.items() if not np.isfinite(square)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0 if all is finite, 1 if not, 2 if it can't be replayed."""
    parser = Parser(prog="python -m stts_jax.training.replay", description=__doc__)
    parser.add_argument("dump", type=path_or_address, help="folder OUTPUT/dumps/step-N")
    parser.add_argument("--checkpoint", type=path_or_address, help="whose parameters to use")
    options = parser.parse_args(arguments)
    try:
        metrics = replay(options.dump, options.checkpoint)
        sys.stdout.flush()
    except BrokenPipeError:
        if not is_stdout_closed():
            raise
        return end_quietly()
    except (FileNotFoundError, BucketError, CheckpointError, ConfigError) as error:
        print(f"replay: {error}", file=sys.stderr)
        return 2
    return 0 if all(np.isfinite(value) for value in metrics.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
