"""Show what is kept of a video: `python -m stts_jax.show VIDEO --checkpoint DIR`.

Writes a contact sheet (`VIDEO_kept.png`: frames with dropped tokens dark above, scores below), an
mp4 (`VIDEO_kept.mp4`: the frames, what is kept of them and the scores, side by side) and the
configuration that they were made with (`VIDEO_kept.json`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from stts_jax.arguments import Parser, path_or_address
from stts_jax.buckets.whole_files import written_here
from stts_jax.command_line import (
    add_auto_option,
    add_checkpoint_options,
    add_media_options,
    add_ratio_option,
    asked_of,
    open_config,
    open_encoder,
    run,
)
from stts_jax.evaluation.model_fits import require_model_fits
from stts_jax.evaluation.overlay import contact_sheet, overlay_video
from stts_jax.evaluation.single import kept_of, prepare
from stts_jax.terminal import doing
from stts_jax.training.checkpointing.checkpoint_errors import writing
from stts_jax.training.checkpointing.run_folder import require_writable


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = Parser(
        prog="python -m stts_jax.show",
        description="Show which tokens of a video, or of pictures, are kept.",
    )
    add_media_options(parser)
    parser.add_argument(
        "--output", type=path_or_address, default=Path(), help="folder (default: here)"
    )
    add_checkpoint_options(parser)
    add_ratio_option(parser)
    add_auto_option(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the pictures; returns the exit code."""
    options = parse(arguments)

    def command() -> None:
        asked = asked_of(options)
        require_writable(options.output)
        checkpoint, config = open_config(options)
        with doing("reading what is shown"):
            prepared = prepare(config, asked, options.frames)
        require_model_fits(
            checkpoint,
            config,
            prepared.budget,
            scoring=True,
            weights=[options.weights],
        )
        encoder = open_encoder(checkpoint, config, options.weights)
        with doing("compiling and scoring its tokens"):
            kept = kept_of(encoder, prepared)
        sheet = options.output / f"{(options.video or options.images[0]).stem}_kept.png"
        video, settings = sheet.with_suffix(".mp4"), sheet.with_suffix(".json")
        frames, times = kept.video.frames, kept.video.timestamps
        with writing(sheet), written_here(sheet) as here:
            contact_sheet(frames, times, kept.keep, kept.scores).save(here)
        with writing(video), written_here(video) as here:
            overlay_video(here, frames, kept.keep, kept.scores, config.data.fps)
        with writing(settings):
            config.write(settings)
        share = kept.keep.mean()
        print(f"kept {kept.keep.sum()} of {kept.keep.size} tokens ({share:.0%}): {sheet}, {video}")

    return run("show", command)


if __name__ == "__main__":
    sys.exit(main())
