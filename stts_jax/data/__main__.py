"""Commands on data: what there is, and what of it can be used.

python -m stts_jax.data list
python -m stts_jax.data check --mixture all-v5-video-academic-only --root DIR
python -m stts_jax.data convert llava_video.json my.jsonl
python -m stts_jax.data shard --file my.jsonl --out shards --config molmo2_4b_stts_50 --frames
python -m stts_jax.data speed --config molmo2_4b_stts_50 --set data.train=my.jsonl
python -m stts_jax.data speed --lines 1000000 --workers 0 2 8
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from stts_jax.arguments import Parser, path_or_address
from stts_jax.buckets.address import is_bucket
from stts_jax.config import Config, ConfigError, load_config, replace
from stts_jax.data.checking.check import CheckOptions, Target, check, own_file, registered
from stts_jax.data.checking.files import NOT_LOOKED_AT
from stts_jax.data.checking.report import details, table, write_report
from stts_jax.data.checking.rows import RowCheck
from stts_jax.data.datasets.base import Dataset, DatasetError, dataset_class, dataset_names
from stts_jax.data.datasets.benchmarks import BENCHMARKS
from stts_jax.data.datasets.mixtures import MIXTURES, mixture
from stts_jax.data.packing.rows import BudgetError
from stts_jax.data.shards.command import add_shard_options, shard_all
from stts_jax.data.shards.speed import CLIP_SECONDS, compared
from stts_jax.data.sources.columns import Columns
from stts_jax.data.sources.conversion import convert
from stts_jax.data.sources.usable import Selection, write_usable
from stts_jax.data.speed import lines as speed_lines
from stts_jax.data.speed import made_clip_set, measure
from stts_jax.data.start_up import measured_lines as start_lines
from stts_jax.data.synthetic import DEFAULT_FOLDER, SyntheticError
from stts_jax.data.text.tokenizer import TokenizerError
from stts_jax.quoting import shorten, shorten_words
from stts_jax.terminal import end_quietly, is_stdout_closed

USER_ERRORS = (DatasetError, ConfigError, TokenizerError, SyntheticError, BudgetError)
# Of a clip that is made to be measured, in seconds, and of what is read of it.
LONGEST_CLIP, MOST_EXAMPLES = 3600, 10**9
MOST_WORKERS = 256
INCOMPLETE, WRONG_USE, INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code.

    Returns:
      0 when done, 1 if something is missing or damaged, 2 for what the user can fix.
    """
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        code = command(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        if not is_stdout_closed():
            raise
        return end_quietly()
    except (*USER_ERRORS, OSError) as error:
        print(f"stts_jax.data: {shorten_words(str(error))}", file=sys.stderr)
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
        if path is not None:
            _require_folder_of(path)
    config = _config_of(options)
    states = check(list(_targets(options, config)), _check_options(options, config))
    note = [] if options.decode else [NOT_LOOKED_AT]
    for line in (*(line for state in states for line in details(state)), *note, *table(states)):
        print(line)
    if options.report:
        write_report(options.report, states)
    if options.write_usable:
        write_usable(options.write_usable, {state.selection: state.usable for state in states})
    complete = all(state.complete for state in states)
    return 0 if complete or options.what_is_there else INCOMPLETE


def convert_all(options: argparse.Namespace) -> int:
    """Write data of another format as our own lines, and print what was written."""
    _require_folder_of(options.target)
    names = [field.name for field in dataclasses.fields(Columns)]
    columns = Columns(**{name: getattr(options, name) for name in names})
    done = convert(options.source, options.target, columns, skip_wrong=options.skip_wrong)
    for line in done.wrong:
        print(f"left out: {line}")
    if done.skipped:
        print(f"fields that are not read: {', '.join(sorted(done.skipped))}")
    files = f", and {done.files} files of embedded media" if done.files else ""
    print(f"{options.target}: {done.lines} lines{files}")
    return INCOMPLETE if done.wrong else 0


def _require_folder_of(path: Path) -> None:
    """Raises a `DatasetError` without the folder of a file to write; a bucket needs none."""
    if not is_bucket(path) and not path.absolute().parent.is_dir():
        raise DatasetError(f"'{path}' cannot be written: its folder does not exist; make it")


def measure_start(options: argparse.Namespace) -> int:
    """Measure and print what a start costs with a file of so many lines."""
    if not 0 < options.lines <= MOST_EXAMPLES:
        raise DatasetError(f"--lines is {shorten(options.lines)}; take 1 to {MOST_EXAMPLES}")
    if any(not 0 <= count <= MOST_WORKERS for count in options.workers):
        raise DatasetError(f"--workers has {options.workers}; take 0 to {MOST_WORKERS} of each")
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        for line in start_lines(Path(folder), options.lines, options.workers):
            print(line, flush=True)
    return 0


def measure_speed(options: argparse.Namespace) -> int:
    """Measure and print how fast the training set of a setup is read."""
    if options.lines is not None:
        return measure_start(options)
    for name in ("examples", "made_clip", "rate"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            raise DatasetError(f"--{name.replace('_', '-')} is {value}; it must be above 0")
    if options.made_clip is not None and not options.made_clip <= LONGEST_CLIP:
        raise DatasetError(
            f"--made-clip is {options.made_clip} s; make one of at most {LONGEST_CLIP} s"
        )
    if options.examples > MOST_EXAMPLES:
        raise DatasetError(
            f"--examples is {shorten(options.examples)}; read at most {MOST_EXAMPLES}"
        )
    config = load_config(options.config, options.overrides)
    if options.shards:
        print("\n".join(compared(config, options.examples, options.made_clip or CLIP_SECONDS)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        if options.made_clip is not None:
            path = made_clip_set(Path(folder), options.made_clip)
            config = replace(config, {"data.train": str(path)})
        found = measure(config, options.examples, folder=options.data_dir, progress=True)
    print("\n".join(speed_lines(found, options.rate)))
    return 0


def _config_of(options: argparse.Namespace) -> Config | None:
    """The setup that examples are to fit, if there is one."""
    if options.config is None and options.overrides:
        raise DatasetError("--set is given without --config; name the setup that it is about")
    return None if options.config is None else load_config(options.config, options.overrides)


def _targets(options: argparse.Namespace, config: Config | None) -> Iterator[Target]:
    names = list(options.datasets) + (list(BENCHMARKS) if options.benchmarks else [])
    if not (names or options.mixture or options.file):
        raise DatasetError(
            "there is nothing to check; use --mixture, --datasets, --benchmarks or --file"
        )
    if (names or options.mixture) and options.root is None:
        raise DatasetError("--root is missing; name the folder that holds all datasets' folders")
    if options.root is not None and not options.root.is_dir():
        raise DatasetError(f"--root is '{options.root}', which is not a folder; correct it")
    # Without a setup, all lines about a video are one example.
    per_example = None if config is None else config.data.questions_per_video
    seen = set()
    for target in (
        *(_of_mixture(name, options.root) for name in _datasets_of(options.mixture)),
        *(registered(name, options.root) for name in names),
        *(own_file(path, per_example) for path in options.file),
    ):
        if target.selection not in seen:
            seen.add(target.selection)
            yield target


def _datasets_of(name: str | None) -> list[str]:
    groups = mixture(name) if name else ()
    return sorted({share.dataset for group in groups for share in group.shares})


def _of_mixture(name: str, root: Path) -> Target:
    """Returns the datasets of a mixture; one that this package lacks is reported by checking it."""
    if name in dataset_names():
        return registered(name, root, "train")

    def read() -> Dataset:
        raise DatasetError("this dataset is not in this package")

    return Target(Selection(name, "train"), read)


def _check_options(options: argparse.Namespace, config: Config | None) -> CheckOptions:
    for name, least in (("limit", 1), ("workers", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise DatasetError(f"--{name} is {value}; it must be {least} or more")
    workers = os.cpu_count() or 1 if options.workers is None else options.workers
    rows = None if config is None else RowCheck.of(config)
    return CheckOptions(options.decode, options.limit, workers, progress=True, rows=rows)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m stts_jax.data", description="Look at data.")
    commands = parser.add_subparsers(required=True)
    listing = commands.add_parser("list", help="list datasets and mixtures")
    listing.set_defaults(command=list_all)
    checking = commands.add_parser("check", help="find out what is missing or damaged")
    checking.set_defaults(command=check_all)
    _add_check_options(checking)
    writing = commands.add_parser("convert", help="write data of other formats as our own lines")
    writing.set_defaults(command=convert_all)
    _add_convert_options(writing)
    sharding = commands.add_parser("shard", help="write examples with their media to shards")
    sharding.set_defaults(command=shard_all)
    add_shard_options(sharding)
    timing = commands.add_parser("speed", help="measure decoding, preprocessing and packing")
    timing.set_defaults(command=measure_speed)
    _add_speed_options(timing)
    return parser


def _add_speed_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--config", default="tiny", help="a setup of configs/, or a file (%(default)s)")
    add("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="overrides", help="settings")
    add("--examples", type=int, default=32, metavar="N", help="to read (%(default)s)")
    add("--rate", type=float, metavar="N", help="examples a second that training takes")
    add(
        "--made-clip",
        type=float,
        metavar="SECONDS",
        help="read a made clip of 1280 x 720 of that length instead of data.train",
    )
    add("--shards", action="store_true", help="compare shards of a made clip with the clip itself")
    add("--data-dir", type=Path, default=DEFAULT_FOLDER, help="of the procedural set")
    add("--lines", type=int, metavar="N", help="measure the start with a file of N lines instead")
    add("--workers", type=int, nargs="+", default=[0, 2, 8], metavar="N", help="of that start")
    add("--work", type=Path, metavar="DIR", help="where that file is made; 0.4 KB a line")


def _add_convert_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "source",
        type=path_or_address,
        help="JSONL, JSON list, Parquet, Arrow or folder of a dataset",
    )
    add("target", type=path_or_address, help="the .jsonl file to write")
    for name in ("video", "image"):
        add(
            f"--{name}",
            metavar="PATH",
            help=f"path of the {name}, with fields in braces: {name}s/{{{name}_id}}",
        )
    for name in ("question", "answer", "caption", "type", "id"):
        add(f"--{name}", metavar="FIELD", help=f"the field that is the {name}")
    add("--skip-wrong", action="store_true", help="name and leave out records that are wrong")


def _add_check_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--mixture", help="the training datasets of a mixture (see list)")
    add("--datasets", nargs="+", default=[], metavar="NAME", help="some, by name or name:split")
    add("--benchmarks", action="store_true", help="all that models are evaluated on")
    add(
        "--file",
        nargs="+",
        default=[],
        type=path_or_address,
        help="files or folders of your own data",
    )
    add("--root", type=path_or_address, help="folder that holds the folders of all datasets")
    add(
        "--decode",
        action="store_true",
        help="decode every frame; by default only the start of videos",
    )
    add("--config", help="find examples that fit no row of this setup of configs/, or file, too")
    add("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="overrides", help="settings")
    add("--limit", type=int, metavar="N", help="at most N examples of each, evenly spread")
    add("--workers", type=int, metavar="N", help="processes; 0 for none; by default one a core")
    add(
        "--what-is-there",
        action="store_true",
        help="exit with 0 also if something is missing or damaged",
    )
    add("--report", type=path_or_address, metavar="FILE.json", help="write down all that was found")
    add(
        "--write-usable",
        type=path_or_address,
        metavar="FILE.jsonl",
        help="write down which examples can be used, for training on them",
    )


if __name__ == "__main__":
    sys.exit(main())
