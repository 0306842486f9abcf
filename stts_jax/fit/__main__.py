"""Reports whether a run fits: `python -m stts_jax.fit --config NAME --topology v5e:16x16`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

# Nothing is run on a device of this machine, so none is started.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Programs for devices that aren't here can be cached but not loaded.
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")

from stts_jax.arguments import Parser, path_or_address, weights_type
from stts_jax.command_line import add_set_option, run
from stts_jax.config import Config, ConfigError
from stts_jax.fit.compiler import Compiler, compile_wholly
from stts_jax.fit.memory import Memory
from stts_jax.fit.plan import plan
from stts_jax.fit.ratios import analyse_run
from stts_jax.fit.report import Report, as_dict
from stts_jax.fit.report_text import as_text
from stts_jax.fit.search import find_mesh, mesh_shapes
from stts_jax.fit.setting import Program, make_setting, parse_mesh, sized_config
from stts_jax.fit.topologies import EXAMPLES, Topology, get_topology
from stts_jax.parallel.mesh import slices_of
from stts_jax.training.checkpointing.run_folder import require_writable

EPILOG = f"""\
examples:
  python -m stts_jax.fit --config molmo2_4b_stts_50 --topology v5e:16x16
  python -m stts_jax.fit --config molmo2_4b_stts_50 --topology h100:8 --mesh fsdp=8
  python -m stts_jax.fit --config molmo2_8b_stts_50 --topology v5p:2x2x2 --frames 384 --videos 1
  python -m stts_jax.fit --config molmo2_4b --topology v6e:2x4 --prefill --frames 384
  python -m stts_jax.fit --config molmo2_4b --topology v5e:1x1 --decode --weights int8
  python -m stts_jax.fit --config molmo2_4b_stts_50 --topology v6e:2x4 --search --plan

Nothing is run, and no such hardware is needed: the program is compiled for it here, in minutes.
Topologies: {EXAMPLES}. TPUs need the extra [tpu], h100 and gpu [cuda], cpu none.
The exit code is 0 if it fits, 1 if it doesn't, 2 if the question makes no sense and 3 for a defect.
docs/fit.md says what the figures mean.
"""
# The exit code of a crash, distinct from that of an answer.
DEFECT = 3


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = Parser(
        prog="python -m stts_jax.fit",
        description="Compile for hardware that isn't here: does it fit, and how fast could it be.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, help="a setup's name, or a file")
    parser.add_argument("--topology", required=True, help=EXAMPLES)
    parser.add_argument(
        "--mesh", help="data=2,fsdp=128 for example (default: what train.py would choose)"
    )
    parser.add_argument("--frames", type=int, help="of each video (default: the setup's)")
    parser.add_argument("--videos", type=int, help="in a row of training (default: the setup's)")
    parser.add_argument(
        "--rows-per-device",
        type=int,
        metavar="N",
        help="rows of each of the parts that data and fsdp cut the batch into (default 1)",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--prefill", action="store_true", help="reading prompts, not training")
    which.add_argument("--decode", action="store_true", help="one more token, not training")
    parser.add_argument(
        "--weights",
        type=weights_type,
        default="compute",
        metavar="TYPE",
        help="with --prefill and --decode: int8 for weights of ViT and LLM in int8",
    )
    parser.add_argument(
        "--search", action="store_true", help="find the most rows per device, and a mesh for them"
    )
    parser.add_argument(
        "--plan",
        action="store_true",
        help="TPUs: stop before machine code is written, which takes most of the time",
    )
    parser.add_argument("--output", type=path_or_address, help="also write everything as JSON")
    add_set_option(parser)
    return parser.parse_args(arguments)


def program_of(options: argparse.Namespace) -> Program:
    """Returns the program that the options name."""
    return "prefill" if options.prefill else "decode" if options.decode else "train"


def compiler_of(options: argparse.Namespace) -> Compiler:
    """Returns the compiler: to the end, or to its plan."""
    return plan if options.plan else compile_wholly


def require_heeded(options: argparse.Namespace) -> None:
    """Raises a `ConfigError` for an option that has no effect with the others."""
    program = program_of(options)
    if program != "train" and options.videos not in (None, 1):
        raise ConfigError(
            f"--videos is {options.videos}, but --{program} is about a prompt with one video; "
            "leave it out, and use --rows-per-device for more prompts"
        )
    if program == "train" and options.weights != "compute":
        raise ConfigError(
            f"--weights is {options.weights}, but training has whole weights; add --prefill or "
            "--decode, or leave it out"
        )
    if options.search and options.rows_per_device is not None:
        raise ConfigError(
            f"--rows-per-device is {options.rows_per_device}, but --search finds that number; "
            "leave out one of them"
        )


def require_output(file: Path) -> None:
    """Makes the folder of the JSON file; raises before compiling if it can't be written."""
    if file.is_dir():
        raise ConfigError(
            f"--output '{file}' is a folder; name a file in it, as {file / 'fit.json'}"
        )
    require_writable(file.parent)


def search(options: argparse.Namespace, config: Config, topology: Topology) -> Report:
    """Reports the largest batch that fits; prints a line for each compilation."""
    reports: dict[tuple[str, int], Report] = {}

    def memory_on(shape: Mapping[str, int], rows: int) -> Memory:
        setting = make_setting(
            config,
            topology,
            program=program_of(options),
            shape=shape,
            rows_per_device=rows,
            weights=options.weights,
        )
        report = analyse_run(setting, compiler_of(options))
        reports[str(shape), rows] = report
        verdict = "fits" if report.memory.fits else "does not fit"
        print(f"mesh {dict(shape)}, {rows} rows per device: {verdict}", flush=True)
        return report.memory

    shapes = [parse_mesh(options.mesh)] if options.mesh else None
    devices = topology.devices
    shapes = shapes or mesh_shapes(config, len(devices), slices_of(devices))
    each = config.train.accumulate if program_of(options) == "train" else 1
    shape, rows = find_mesh(shapes, memory_on, each)
    return reports[str(shape), rows]


def main(arguments: Sequence[str] | None = None) -> int:
    """Compiles and reports; returns the exit code."""
    options = parse(arguments)
    fits = False

    def command() -> None:
        nonlocal fits
        require_heeded(options)
        config = sized_config(options.config, options.frames, options.videos, options.overrides)
        shape = parse_mesh(options.mesh) if options.mesh else None
        topology = get_topology(options.topology)
        if options.output:
            require_output(options.output)
        if options.search:
            report = search(options, config, topology)
        else:
            setting = make_setting(
                config,
                topology,
                program=program_of(options),
                shape=shape,
                rows_per_device=1 if options.rows_per_device is None else options.rows_per_device,
                weights=options.weights,
            )
            report = analyse_run(setting, compiler_of(options))
        print(as_text(report))
        if options.output:
            options.output.write_text(json.dumps(as_dict(report), indent=2) + "\n")
        fits = report.memory.fits

    try:
        code = run("fit", command)
    except Exception:
        traceback.print_exc()
        return DEFECT
    return code or int(not fits)


if __name__ == "__main__":
    sys.exit(main())
