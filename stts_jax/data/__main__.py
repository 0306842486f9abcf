"""Commands on data: what there is, and what of it can be used.

python -m stts_jax.data list
python -m stts_jax.data check --mixture all-v5-video-academic-only --root DIR
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from stts_jax.data.check import CheckOptions, Target, check, own_file, registered
from stts_jax.data.check_report import details, table, write_report
from stts_jax.data.datasets.base import Dataset, DatasetError, dataset_class, dataset_names
from stts_jax.data.datasets.benchmarks import BENCHMARKS
from stts_jax.data.datasets.mixtures import MIXTURES, mixture
from stts_jax.data.usable import Selection, write_usable

INCOMPLETE, WRONG_USE, INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code.

    Returns:
      0 when done, 1 if something is missing or damaged, 2 for what the user can mend.
    """
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except (DatasetError, OSError) as error:
        print(f"stts_jax.data: {error}", file=sys.stderr)
        return WRONG_USE
    except KeyboardInterrupt:
        print("stts_jax.data: interrupted", file=sys.stderr)
        return INTERRUPTED


def list_all(options: argparse.Namespace) -> int:
    """Print all datasets with their splits and where to get them, and all mixtures."""
    print("datasets:")
    names = dataset_names()
    width = max(map(len, names))
    for name in names:
        made = dataset_class(name)
        print(f"  {name.ljust(width)}  {', '.join(made.splits)}")
        print(f"  {' ' * width}  {made.home}")
    print("mixtures (the share of each group, and its datasets):")
    for name in MIXTURES:
        print(f"  {name}")
        for group in mixture(name):
            members = " ".join(share.dataset for share in group.shares)
            print(f"    {group.name} {group.rate:g}: {members}")
    return 0


def check_all(options: argparse.Namespace) -> int:
    """Check what is asked for, and print what was found."""
    for path in (options.report, options.write_usable):
        if path is not None and not path.absolute().parent.is_dir():
            raise DatasetError(f"'{path}' cannot be written: its folder does not exist; make it")
    states = check(list(_targets(options)), _check_options(options))
    for line in (*(line for state in states for line in details(state)), *table(states)):
        print(line)
    if options.report:
        write_report(options.report, states)
    if options.write_usable:
        write_usable(options.write_usable, {state.selection: state.usable for state in states})
    complete = all(state.complete for state in states)
    return 0 if complete or options.what_is_there else INCOMPLETE


def _targets(options: argparse.Namespace) -> Iterator[Target]:
    names = list(options.datasets) + (list(BENCHMARKS) if options.benchmarks else [])
    if not (names or options.mixture or options.file):
        raise DatasetError(
            "there is nothing to check; use --mixture, --datasets, --benchmarks or --file"
        )
    if (names or options.mixture) and options.root is None:
        raise DatasetError("--root is missing; name the folder that holds all datasets' folders")
    if options.root is not None and not options.root.is_dir():
        raise DatasetError(f"--root is '{options.root}', which is no folder; correct it")
    seen = set()
    for target in (
        *(_of_mixture(name, options.root) for name in _datasets_of(options.mixture)),
        *(registered(name, options.root) for name in names),
        *map(own_file, options.file),
    ):
        if target.selection not in seen:
            seen.add(target.selection)
            yield target


def _datasets_of(name: str | None) -> list[str]:
    groups = mixture(name) if name else ()
    return sorted({share.dataset for group in groups for share in group.shares})


def _of_mixture(name: str, root: Path) -> Target:
    """Where a mixture has a dataset that this package lacks, that is found out by checking it."""
    if name in dataset_names():
        return registered(name, root, "train")

    def read() -> Dataset:
        raise DatasetError("this dataset is not in this package")

    return Target(Selection(name, "train"), read)


def _check_options(options: argparse.Namespace) -> CheckOptions:
    for name, least in (("limit", 1), ("workers", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise DatasetError(f"--{name} is {value}; it must be {least} or more")
    workers = os.cpu_count() or 1 if options.workers is None else options.workers
    return CheckOptions(options.decode, options.limit, workers, progress=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m stts_jax.data", description="Look at data.")
    commands = parser.add_subparsers(required=True)
    listing = commands.add_parser("list", help="list datasets and mixtures")
    listing.set_defaults(command=list_all)
    checking = commands.add_parser("check", help="find out what is missing or damaged")
    checking.set_defaults(command=check_all)
    _add_check_options(checking)
    return parser


def _add_check_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--mixture", help="the training datasets of a mixture (see list)")
    add("--datasets", nargs="+", default=[], metavar="NAME", help="some, by name or name:split")
    add("--benchmarks", action="store_true", help="all that models are evaluated on")
    add("--file", nargs="+", default=[], type=Path, help="JSONL files of your own data")
    add("--root", type=Path, help="folder that holds the folders of all datasets")
    add("--decode", action="store_true", help="decode every frame; by default files are probed")
    add("--limit", type=int, metavar="N", help="at most N examples of each, evenly spread")
    add("--workers", type=int, metavar="N", help="processes; 0 for none; by default one a core")
    add(
        "--what-is-there",
        action="store_true",
        help="exit with 0 also if something is missing or damaged",
    )
    add("--report", type=Path, metavar="FILE.json", help="write down all that was found")
    add(
        "--write-usable",
        type=Path,
        metavar="FILE.jsonl",
        help="write down which examples can be used, for training on them",
    )


if __name__ == "__main__":
    sys.exit(main())
