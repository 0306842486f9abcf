"""Checks and times this machine's kernels: `stts doctor`, or `python -m stts_jax.doctor`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stts_jax.arguments import Parser, path_or_address
from stts_jax.buckets.address import is_bucket
from stts_jax.buckets.whole_files import write_whole
from stts_jax.doctor.machine import machine
from stts_jax.doctor.report import as_dict, as_text, failures
from stts_jax.doctor.supervisor import Found, supervise
from stts_jax.terminal import progress_bar, to_stderr

# With what a check that has begun may take longer, five minutes.
SECONDS = 270.0
EPILOG = """\
Says what is here and which backend each attention takes, runs every kernel of this device against
float32, forward and backward, at Molmo2-4B's sizes, and times products, memory and one block of ViT
and LLM, pruned and unpruned, against the arithmetic. Needs no data, no network and no checkpoint.
The exit code is 0 if all is well, 1 if a kernel fails or differs, 2 if an option is wrong.
docs/performance.md says what the figures mean, and how to send them in.
"""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = Parser(
        prog="stts doctor",
        description="Check this machine's kernels, and time them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--output",
        type=path_or_address,
        default=Path("doctor.json"),
        help="file (default doctor.json)",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=SECONDS,
        help=f"after which no more check begins (default {SECONDS:.0f}); what is left is reported",
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes: see that all runs")
    options = parser.parse_args(arguments)
    if not 0 < options.seconds < float("inf"):
        parser.error(f"--seconds is {options.seconds}; use more than 0")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs all checks, prints tables, writes JSON; returns the exit code."""
    options = parse(arguments)
    if problem := unwritable(options.output):
        print(f"doctor: {problem}", file=sys.stderr)
        return 2
    here, start = machine(), time.monotonic()

    def report_of(found: Found) -> dict[str, Any]:
        return as_dict(found, here, time.monotonic() - start, options.quick)

    with progress_bar(desc="checks", unit="checks", leave=False) as bar:

        def on_event(found: Found, event: dict[str, Any]) -> None:
            if event["event"] == "plan":
                bar.total = len(found.planned)
            elif event["event"] == "begin" and sys.stderr.isatty():
                bar.set_postfix_str(event["name"])
            elif event["event"] == "result":
                bar.update()
                write(options.output, report_of(found))

        try:
            found = supervise(options.seconds, options.quick, on_event)
        except KeyboardInterrupt:
            to_stderr(f"doctor: interrupted; what is known is in '{options.output}'")
            return 130
    report = report_of(found)
    write(options.output, report)
    print(as_text(report))
    print(f"\nwritten to '{options.output}'")
    return int(bool(failures(report)))


def unwritable(file: Path) -> str:
    """Returns why the file can't be written, empty if it can; makes its folder."""
    try:
        if is_bucket(file):  # where no file can be opened to add to it
            tried = file.with_name(f".{file.name}.{os.getpid()}")
            tried.write_bytes(b"")
            tried.unlink()
            return ""
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a"):
            return ""
    except OSError as error:
        return f"--output '{file}' can't be written ({error.strerror}); name another file"


def write(file: Path, report: dict[str, Any]) -> None:
    """Writes the report; a reader sees the old one or the new one, whole."""
    write_whole(file, json.dumps(report, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
