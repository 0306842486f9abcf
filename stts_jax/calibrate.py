"""Finds the thresholds on scores that drop shares of the validation videos' tokens.

`stts calibrate --checkpoint DIR` keeps them beside the checkpoint, for `--auto` of the commands
that answer, and prints the one of `--k` as a setting.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from stts_jax.arguments import Parser, at_least_one
from stts_jax.batch import Batch
from stts_jax.command_line import (
    add_checkpoint_options,
    add_ratio_option,
    open_config,
    open_encoder,
    run,
)
from stts_jax.config import Config, ConfigError, replace
from stts_jax.data.evaluation_batches import batches_of_prompts, examples_of
from stts_jax.data.synthetic import DEFAULT_FOLDER
from stts_jax.model.vision import VisionEncoder
from stts_jax.parallel.mesh import mesh_of, on_mesh, put_whole_batch, rows_for
from stts_jax.pruning.adaptive import calibrated_threshold
from stts_jax.terminal import doing
from stts_jax.training.checkpointing.thresholds import (
    RATIOS,
    calibrated_folder,
    save_thresholds,
    threshold_for,
)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = Parser(
        prog="python -m stts_jax.calibrate",
        description="Find the scores below which shares of the validation videos' tokens are.",
    )
    add_checkpoint_options(parser)
    add_ratio_option(parser)
    parser.add_argument(
        "--limit", type=at_least_one, default=256, help="questions to look at (%(default)s)"
    )
    parser.add_argument(
        "--data-dir", type=Path, default=DEFAULT_FOLDER, help="of the procedural set (%(default)s)"
    )
    return parser.parse_args(arguments)


def scores_of_videos(
    encoder: VisionEncoder, config: Config, folder: Path, limit: int, frames_scale: float = 1.0
) -> Iterator[np.ndarray]:
    """Yields the scores of each video of the validation set, (T, P); pictures are left out.

    Args:
      encoder: ViT and scorer.
      config: of the run, with a `topk` above 0.
      folder: of the procedural set.
      limit: questions of the set, the first.
      frames_scale: times `data.max_frames` frames are taken.
    """
    examples, mesh = examples_of(config, "validation", folder, limit), mesh_of(encoder)
    rows = rows_for(min(config.eval.batch_rows, len(examples)), mesh)
    asked = list(enumerate(examples))
    batches = batches_of_prompts(config, asked, rows=rows, frames_scale=frames_scale)
    encoder = VisionEncoder(encoder.vit, encoder.scorer, batches.model)
    for batch, prompts, _ in batches:
        with on_mesh(mesh):
            ranked, prunable = jax.device_get(_ranked(encoder, put_whole_batch(batch, mesh)))
        for row in range(len(prompts)):
            if prunable[row].any():
                yield ranked[row][prunable[row]]


@jax.jit
def _ranked(encoder: VisionEncoder, batch: Batch) -> tuple[jax.Array, jax.Array]:
    scored = encoder.score(batch, key=jax.random.key(0))
    return scored.ranked, scored.frames.prunable


def main(arguments: Sequence[str] | None = None) -> int:
    """Finds and keeps the thresholds; returns the exit code."""
    options = parse(arguments)

    def command() -> None:
        checkpoint, config = open_config(options)
        config = replace(config, {"model.prune.threshold": 0.0})
        prune = config.model.prune
        if prune.method != "scorer" or not prune.topk:
            raise ConfigError(
                f"a threshold needs scores and a share to drop, but model.prune.method is "
                f"'{prune.method}' and topk {prune.topk}; give --k, for a model with a scorer"
            )
        folder = calibrated_folder(checkpoint)
        encoder = open_encoder(checkpoint, config, options.weights)
        with doing("scoring the validation set"):
            videos = list(
                scores_of_videos(encoder, config, options.data_dir, options.limit, options.frames)
            )
        if not videos:
            raise ConfigError(
                f"data.validation is '{config.data.validation}', which shows no video among the "
                f"first {options.limit} questions; raise --limit or name another set"
            )
        thresholds = [calibrated_threshold(videos, ratio) for ratio in RATIOS]
        file = save_thresholds(folder, thresholds)
        threshold = threshold_for(folder, prune.topk)
        shares = [float((video < threshold).mean()) for video in videos]
        print(
            f"--set model.prune.threshold={threshold:.6g} model.prune.topk={prune.topk:g}\n"
            f"drops {100 * np.mean(shares):.1f} % of a video's tokens on average, from "
            f"{100 * min(shares):.0f} to {100 * max(shares):.0f} %\n"
            f"thresholds for 1 to 99 % are in '{file}'; with --auto commands use them"
        )

    return run("calibrate", command)


if __name__ == "__main__":
    sys.exit(main())
