"""Ask a question about a video: `python -m stts_jax.ask VIDEO "QUESTION" --checkpoint DIR`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from stts_jax.arguments import Parser
from stts_jax.command_line import add_checkpoint_options, open_checkpoint, run
from stts_jax.evaluation.single import ask
from stts_jax.progress import doing


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="python -m stts_jax.ask", description="Ask a question about a video.")
    parser.add_argument("video", type=Path, help="any file that FFmpeg reads")
    parser.add_argument("question")
    parser.add_argument("--options", nargs="+", default=[], help="to choose the answer from")
    add_checkpoint_options(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the answer; the exit code."""
    options = parse(arguments)

    def command() -> None:
        model, config = open_checkpoint(options)
        choices = tuple(options.options)
        with doing("reading the video, compiling and answering"):
            said = ask(model, config, options.video, options.question, choices, options.frames)
        print(said)

    return run("ask", command)


if __name__ == "__main__":
    sys.exit(main())
