"""Convert checkpoints: `python -m convert SRC DST`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from convert.adapters import export_adapter, import_adapter, is_peft
from convert.assemble import assemble_start
from convert.cache import local_checkpoint
from convert.pipeline import Plan, convert, plan, table_lines
from convert.sources import DEFAULT_TOPK, Options, open_source
from convert.stored_dtype import DTYPES
from convert.tensor_reader import ConvertError
from stts_jax.arguments import Parser, path_or_address
from stts_jax.buckets.errors import BucketError
from stts_jax.config import ConfigError, load_config
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
        choices=("orbax", "hf", "peft"),
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
        _convert(options)
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


def _convert(options: argparse.Namespace) -> None:
    if options.to == "peft" or (options.source is not None and is_peft(options.source)):
        _convert_adapter(options)
        return
    planned, target = _plan(options)
    print(f"{planned.source.folder}: {planned.source.kind}, {planned.parameters:,} parameters")
    for note in planned.notes:
        print(f"  {note}")
    if options.dry_run:
        print("\n".join(table_lines(planned)))
        return
    if target is None:
        raise ConvertError("DST is missing; name the folder to write")
    convert(planned, target, to=options.to, dtype=options.dtype)
    print(f"written to '{target}'")


def _convert_adapter(options: argparse.Namespace) -> None:
    """Converts adapters alone, from PEFT or to it."""
    source, target = options.source, options.target
    if source is None or target is None:
        raise ConvertError("SRC or DST is missing; name the folder of adapters and a new folder")
    base = None if options.base is None else local_checkpoint(options.base)
    if options.to == "peft":
        print(f"{source}: {export_adapter(source, target, base)}")
    elif base is None:
        raise ConvertError(f"'{source}' is an adapter of PEFT; name its model with --base")
    elif options.to == "orbax":
        import_adapter(source, target, base)
    else:
        raise ConvertError(
            f"'{source}' is an adapter of PEFT; convert it without --to first, and that to hf"
        )
    print(f"written to '{target}'")


def _plan(options: argparse.Namespace) -> tuple[Plan, Path | None]:
    if options.init is None:
        if options.source is None:
            raise ConvertError("SRC is missing; name the folder of a checkpoint, or give --init")
        base = None if options.base is None else local_checkpoint(options.base)
        given = Options(options.step, options.bidirectional, options.topk, base)
        source = open_source(options.source, given)
        return plan(source, add_scorer=options.add_scorer, topk=options.topk), options.target
    if options.config is None:
        raise ConvertError("--init needs --config: the setup of the model, molmo2_4b for example")
    if options.target is not None:
        raise ConvertError("--init takes no SRC; give DST alone")
    vit, llm = options.init
    return assemble_start(vit, llm, load_config(options.config).model), options.source


if __name__ == "__main__":
    sys.exit(main())
