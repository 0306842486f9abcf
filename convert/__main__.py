"""Convert checkpoints: `python -m convert SRC DST`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from convert.request import TARGETS, Request, carry_out
from convert.sources import DEFAULT_TOPK
from convert.stored_dtype import DTYPES
from convert.tensor_reader import ConvertError
from stts_jax.arguments import Parser, path_or_address
from stts_jax.buckets.errors import BucketError
from stts_jax.config import ConfigError
from stts_jax.terminal import end_quietly, is_stdout_closed

EXAMPLES = """\
examples:
  python -m convert Molmo2-4B runs/molmo2_4b              # Hugging Face folder -> ours
  python -m convert runs/sft/step6250 runs/mine --dry-run # what would be done
  python -m convert runs/stts runs/stts_hf --to hf        # ours -> Hugging Face
  python -m convert runs/lora runs/merged                 # adapters, merged into their base
  python -m convert runs/lora runs/peft --to peft         # adapters alone, for peft
  python -m convert peft_folder/ runs/lora --base runs/molmo2_4b
  python -m convert --init siglip2/ Qwen3-4B/ runs/start --config molmo2_4b_stts_50

SRC may be a folder of the reference (with model.pt, with model_and_optim, or of step* folders), a
Hugging Face folder, or one of ours; it is recognised by its files. No code in it is run.
"""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        prog="python -m convert",
        description="Bring a PyTorch Molmo2 or STTS checkpoint, or take one back.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source", type=path_or_address, nargs="?", metavar="SRC", help="a checkpoint"
    )
    parser.add_argument(
        "target", type=path_or_address, nargs="?", metavar="DST", help="a new folder"
    )
    parser.add_argument(
        "--init",
        type=path_or_address,
        nargs=2,
        metavar=("VIT", "LLM"),
        help="start from a vision tower and a language model instead of SRC; needs --config",
    )
    parser.add_argument("--config", help="of the model that --init assembles")
    parser.add_argument(
        "--to",
        choices=TARGETS,
        default="orbax",
        help="default: orbax; adapters are merged into their base, but with peft",
    )
    parser.add_argument(
        "--base",
        type=path_or_address,
        metavar="DIR",
        help="model of the adapters in SRC (default: where it was when they were trained)",
    )
    parser.add_argument(
        "--dtype",
        choices=sorted(DTYPES),
        help="to store in (default: as in SRC, bfloat16 where it is bfloat16, else float32)",
    )
    parser.add_argument("--step", type=int, help="of a folder of steps (default: the latest)")
    parser.add_argument(
        "--bidirectional",
        choices=("none", "image_tokens", "within_image"),
        help="which image tokens see each other, where the checkpoint doesn't say "
        "(default: image_tokens, what Hugging Face's code does)",
    )
    parser.add_argument(
        "--add-scorer",
        action="store_true",
        help="give a model without a scorer a new one",
    )
    parser.add_argument(
        "--topk",
        type=float,
        help=f"share of tokens to drop, where the checkpoint doesn't say (default: {DEFAULT_TOPK})",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the table of names and write nothing"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert; the exit code is 2 for what the user can fix."""
    options = parse(arguments)
    try:
        carry_out(Request(**vars(options)))
        sys.stdout.flush()
    except BrokenPipeError:
        if not is_stdout_closed():
            raise
        return end_quietly()
    except (BucketError, ConvertError, ConfigError) as error:
        print(f"convert: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"convert: {error}; give access to it, or choose another one", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("convert: interrupted; nothing is left", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
