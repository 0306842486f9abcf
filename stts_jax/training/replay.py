"""Look at a step whose loss was not finite: `python -m stts_jax.training.replay DUMP`.

The dump holds the batch, the setup and the randomness, not the parameters: they come from the run's
checkpoint before the step, or are made as at its start if there was none. So a loss that is not
finite here is the batch's doing; one that is finite here says that the parameters had gone astray
since then.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from stts_jax.budget import Budget, row_budget
from stts_jax.config import Config, ConfigError
from stts_jax.model.video_language_model import VideoLanguageModel
from stts_jax.parallel.mesh import make_mesh, shard_batch
from stts_jax.parallel.parameters import named_parameters
from stts_jax.training.checkpoint import CheckpointError, initialize_from, load_model
from stts_jax.training.dump import Dump, fingerprint, read_dump
from stts_jax.training.loss import loss_fn


def replay(folder: Path, checkpoint: Path | None = None) -> dict[str, float]:
    """Loss and gradients of a dumped step, on one device; prints what it finds.

    Args:
      folder: of the dump.
      checkpoint: whose parameters to use, by default those of the dump's.

    Returns:
      metrics of `loss_fn`, and `gradient_norm`.

    Raises:
      FileNotFoundError: if there is no dump, or its checkpoint is gone.
    """
    dump, config, batch = read_dump(folder)
    model = _model(config, dump, checkpoint)
    budget = row_budget(config.model, config.data)
    key = jax.random.fold_in(jax.random.key(dump.seed), dump.step - 1)
    metrics, bad = _gradients(model, config, budget, batch, key)
    print(f"step {dump.step}, batch {dump.fingerprint} (of all processes: {fingerprint(batch)})")
    source = checkpoint or dump.checkpoint or dump.init_from
    print(f"parameters: {source or 'as first initialised'}")
    for name, value in metrics.items():
        print(f"{name:16s} {value:.6g}   then: {dump.metrics.get(name, '-')}")
    if not bad:
        print("all finite here: the parameters went astray after this checkpoint, not the batch")
    for name in bad:
        print(f"not finite: gradient of {name}")
    return metrics


def _model(config: Config, dump: Dump, chosen: Path | None) -> VideoLanguageModel:
    if chosen is not None or dump.checkpoint is not None:
        folder = _there(chosen or Path(dump.checkpoint))
        return load_model(folder, config, make_mesh(devices=jax.devices()[:1]))[0]
    # As the run made it: a scorer that the checkpoint lacks is that of the seed.
    make = jax.jit(lambda key: VideoLanguageModel(config.model, key=key))
    model = make(jax.random.key(dump.seed))
    return initialize_from(model, _there(Path(dump.init_from))) if dump.init_from else model


def _there(folder: Path) -> Path:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"checkpoint '{folder}' is gone; name another one with --checkpoint"
        )
    return folder


def _gradients(
    model: VideoLanguageModel,
    config: Config,
    budget: Budget,
    batch: Mapping[str, np.ndarray],
    key: jax.Array,
) -> tuple[dict[str, float], list[str]]:
    """Metrics, and names of parameters whose gradients are not finite."""

    @jax.jit
    def run(
        model: VideoLanguageModel, batch: dict[str, jax.Array], key: jax.Array
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        def loss_of(model: VideoLanguageModel) -> tuple[jax.Array, dict[str, jax.Array]]:
            return loss_fn(model, batch, budget, config.train, key=key, train=True)

        (total, metrics), gradients = jax.value_and_grad(loss_of, has_aux=True)(model)
        squares = {n: jax.numpy.sum(g**2) for n, g in named_parameters(gradients).items()}
        return metrics | {"total_loss": total}, squares

    placed = shard_batch(batch, make_mesh(devices=jax.devices()[:1]))
    metrics, squares = jax.device_get(run(model, placed, key))
    found = {name: float(value) for name, value in metrics.items()}
    found["gradient_norm"] = float(np.sqrt(sum(squares.values())))
    return found, [name for name, square in squares.items() if not np.isfinite(square)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Replay; the exit code: 0 if all is finite, 1 if not, 2 for what can't be replayed."""
    parser = argparse.ArgumentParser(prog="python -m stts_jax.training.replay", description=__doc__)
    parser.add_argument("dump", type=Path, help="folder OUTPUT/dumps/step-N")
    parser.add_argument("--checkpoint", type=Path, help="whose parameters to use")
    options = parser.parse_args(arguments)
    try:
        metrics = replay(options.dump, options.checkpoint)
    except (FileNotFoundError, CheckpointError, ConfigError) as error:
        print(f"replay: {error}", file=sys.stderr)
        return 2
    return 0 if all(np.isfinite(value) for value in metrics.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
