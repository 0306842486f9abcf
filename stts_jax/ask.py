"""Ask a question about a video: `python -m stts_jax.ask VIDEO "QUESTION" --checkpoint DIR`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from stts_jax.arguments import Parser
from stts_jax.command_line import (
    add_auto_option,
    add_checkpoint_options,
    add_media_options,
    add_ratio_option,
    asked_of,
    open_config,
    open_model,
    run,
)
from stts_jax.evaluation.model_fits import require_model_fits
from stts_jax.evaluation.single import answer_of, prepare
from stts_jax.terminal import doing

EXAMPLES = """\
examples:
  python -m stts_jax.ask a.mp4 "What is opened?" --checkpoint runs/mine
  python -m stts_jax.ask a.mp4 "Where is it?" --options left right --checkpoint runs/mine
  python -m stts_jax.ask a.mp4 "Who calls?" --clip 2 9.5 --subtitle "Come!" --checkpoint runs/mine
  python -m stts_jax.ask a.mp4 "What is opened?" --checkpoint runs/mine --k 65
  python -m stts_jax.ask "What changed?" --images 1.png 2.png --checkpoint runs/mine
"""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = Parser(
        prog="python -m stts_jax.ask",
        description="Ask a question about a video, or about pictures.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_media_options(parser)
    parser.add_argument("question")
    parser.add_argument(
        "--options",
        nargs="+",
        default=[],
        help="to choose the answer from: the one that is most likely as an answer is printed",
    )
    add_checkpoint_options(parser)
    add_ratio_option(parser)
    add_auto_option(parser)
    # The video may be missing, and options may come between it and the question.
    return parser.parse_intermixed_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the answer; returns the exit code."""
    options = parse(arguments)

    def command() -> None:
        asked = asked_of(options, options.question, options.options)
        checkpoint, config = open_config(options)
        with doing("reading what is asked about"):
            prepared = prepare(config, asked, options.frames)
        require_model_fits(checkpoint, config, prepared.budget, weights=[options.weights])
        model = open_model(checkpoint, config, options.weights)
        with doing("compiling and answering"):
            said = answer_of(model, config, prepared)
        print(said)

    return run("ask", command)


if __name__ == "__main__":
    sys.exit(main())
