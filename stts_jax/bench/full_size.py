"""Measures the commands on a model of full size: `python -m stts_jax.bench.full_size DIR`.

Every stage runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stts_jax.arguments import Parser, at_least_one, local_path
from stts_jax.bench.full_size_parts import (
    ADAPTED,
    CLIP,
    EXPORTED,
    LINES,
    OURS,
    QUESTION,
    THEIRS,
)
from stts_jax.terminal import to_stderr

RESULTS, SIZES = "full_size.json", "sizes"
EPILOG = """\
stages: write (random weights in bfloat16 shards), convert, ask, ask again (compiled programs are
cached), ask the folder itself without a converted copy, prefill and tokens in bfloat16 and float32,
the same with transformers where it is installed, the comparison of their logits, a step of LoRA
on two frames, export. A stage that is done isn't repeated, unless --again names it. The 4B takes
28 GB of disk.
"""


@dataclass(frozen=True)
class Stage:
    """One program that is measured.

    Attributes:
      name: in the table, and for --stages and --again.
      command: arguments of Python.
      figures: name of a JSON file below the folder that the program leaves, if it leaves one.
      needs: packages without which the stage is left out.
    """

    name: str
    command: tuple[str, ...]
    figures: str = ""
    needs: tuple[str, ...] = ()

    @property
    def missing(self) -> str:
        """Returns the name of a package that isn't installed, or nothing."""
        return next((name for name in self.needs if not importlib.util.find_spec(name)), "")


def stages(options: argparse.Namespace) -> list[Stage]:
    """Returns all stages in order."""
    folder: Path = options.folder
    parts = "stts_jax.bench.full_size_parts"

    def part(name: str, *more: str) -> tuple[str, ...]:
        return ("-m", parts, name, str(folder), *more)

    def ask(checkpoint: str, *more: str) -> tuple[str, ...]:
        settings = (f"data.max_frames={options.frames}", "eval.max_new_tokens=4")
        question = ("-m", "stts_jax.ask", str(folder / CLIP), QUESTION)
        return (*question, "--checkpoint", str(folder / checkpoint), *more, "--set", *settings)

    size = ["--setup", options.setup, "--width", str(options.width)]
    size += ["--tokenizer", str(options.tokenizer)] if options.tokenizer else []
    frames = ("--frames", str(options.frames))
    torch = ("torch", "transformers")
    found = [
        Stage("write", part("write", *size)),
        Stage("convert", ("-m", "convert", str(folder / THEIRS), str(folder / OURS))),
        Stage("ask", ask(OURS)),
        Stage("ask again", ask(OURS)),
        Stage("ask in place", ask(THEIRS, "--no-cache")),
    ]
    for dtype in ("bfloat16", "float32"):
        typed = ("--dtype", dtype)
        theirs = part("transformers", *typed)
        found += [
            Stage(f"ours {dtype}", part("answer", *typed, *frames), f"ours_{dtype}"),
            Stage(f"transformers {dtype}", theirs, f"transformers_{dtype}", torch),
        ]
    exported = ("-m", "convert", str(folder / OURS), str(folder / EXPORTED), "--to", "hf")
    return [
        *found,
        Stage("compare", part("compare"), "compare", torch),
        Stage("LoRA step", _train(folder)),
        Stage("export", exported),
    ]


def _train(folder: Path) -> tuple[str, ...]:
    """Returns the command that trains adapters for a step, on two frames at 50 %."""
    lines = folder / LINES
    settings = (
        *(f"data.{split}={lines}" for split in ("train", "validation", "test")),
        *("data.max_frames=2", "data.max_images=1", "data.row_frames=2", "data.row_examples=1"),
        *("data.row_text_tokens=384", "data.batch_rows=1", "data.workers=0"),
        *("model.prune.method=scorer", "model.prune.topk=0.5"),
        *("train.lora.rank=16", "train.frozen_weights=bfloat16", "train.steps=1"),
        *("train.accumulate=1", "train.evaluate_every=0", "train.save_every=0"),
    )
    started = ("--init-from", str(folder / OURS), "--output", str(folder / ADAPTED), "--no-resume")
    config = ("--config", str(folder / OURS / "config.json"))
    return ("-m", "stts_jax", "train", *config, *started, "--set", *settings)


def measured(stage: Stage, folder: Path) -> dict[str, Any]:
    """Runs a stage; returns its seconds, peak memory and figures.

    Its standard error goes to ours, its answer is the last line of its standard output.
    """
    to_stderr(f"full_size: {stage.name}")
    began = time.perf_counter()
    output = folder / "output.txt"
    with output.open("w") as file:
        process = subprocess.Popen([sys.executable, *stage.command], stdout=file)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    lines = output.read_text().splitlines()
    result: dict[str, Any] = {
        "code": process.returncode,
        "seconds": time.perf_counter() - began,
        "core_seconds": usage.ru_utime + usage.ru_stime,
        # Kilobytes on Linux, bytes on macOS.
        "peak_bytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "said": lines[-1] if lines else "",
    }
    written = folder / f"{stage.figures}.json"
    if stage.figures and process.returncode == 0:
        result |= json.loads(written.read_text())
    return result


def table(results: dict[str, dict[str, Any]]) -> str:
    """Formats the results as a table in Markdown."""
    lines = ["| stage | seconds | core-seconds | peak GB | more |", "|---|---|---|---|---|"]
    for name, result in results.items():
        if result["code"]:
            lines.append(f"| {name} | failed with {result['code']} | | | |")
            continue
        usual = ("code", "seconds", "core_seconds", "peak_bytes", "said", SIZES)
        more = ", ".join(f"{key} {value:.3g}" for key, value in result.items() if key not in usual)
        seconds, core = result["seconds"], result["core_seconds"]
        peak = result["peak_bytes"] / 1e9
        lines.append(f"| {name} | {seconds:.1f} | {core:.1f} | {peak:.2f} | {more} |")
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = Parser(
        prog="python -m stts_jax.bench.full_size",
        description="Measure each command on a model of full size, with random weights.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=local_path, metavar="DIR", help="for weights and results")
    parser.add_argument("--setup", default="molmo2_4b", help="its sizes (default molmo2_4b)")
    parser.add_argument(
        "--width", type=float, default=1.0, help="times as wide, 0.125 to try it (default 1)"
    )
    parser.add_argument("--frames", type=at_least_one, default=8, help="of the clip (default 8)")
    parser.add_argument(
        "--tokenizer", type=local_path, help="folder of one (default: that of the tiny model)"
    )
    parser.add_argument("--stages", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--again", nargs="+", default=[], metavar="NAME", help="repeat these")
    return parser.parse_args(arguments)


def sizes_of(options: argparse.Namespace) -> str:
    """Returns the sizes that results are of."""
    return f"{options.setup}, {options.width:g} times as wide, {options.frames} frames"


def problem_of(options: argparse.Namespace, results: dict[str, dict[str, Any]]) -> str:
    """Returns what is wrong with the options, or nothing."""
    names = [stage.name for stage in stages(options)]
    unknown = [name for name in (*(options.stages or ()), *options.again) if name not in names]
    if unknown:
        return f"there is no stage '{unknown[0]}'; the stages are {', '.join(names)}"
    others = {str(own.get(SIZES)) for own in results.values()} - {sizes_of(options)}
    if others:
        return (
            f"'{options.folder}' has results of {others.pop()}, and these are "
            f"{sizes_of(options)}; choose another folder"
        )
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what isn't done and prints the table; returns 1 if a stage failed."""
    options = parse(arguments)
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RESULTS
    results: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    if problem := problem_of(options, results):
        to_stderr(f"full_size: {problem}")
        return 2
    for stage in stages(options):
        if options.stages and stage.name not in options.stages:
            continue
        if results.get(stage.name, {}).get("code") == 0 and stage.name not in options.again:
            continue
        if stage.missing:
            to_stderr(f"full_size: {stage.name} is left out, as '{stage.missing}' isn't installed")
            continue
        results[stage.name] = measured(stage, folder) | {SIZES: sizes_of(options)}
        path.write_text(json.dumps(results, indent=2) + "\n")
        if results[stage.name]["code"]:
            break
    print(table(results))
    return int(any(result["code"] for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
