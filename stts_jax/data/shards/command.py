"""The command `shard`."""

from __future__ import annotations

import argparse

from stts_jax.arguments import path_or_address
from stts_jax.config import Config, load_config, replace
from stts_jax.data.datasets.base import DatasetError
from stts_jax.data.shards.frame_coding import LOSSLESS, FrameCoding

EXAMPLES_PER_SHARD, MOST_PER_SHARD = 256, 2**20


def add_shard_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `shard`."""
    add = parser.add_argument
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--mixture", help="the training datasets of a mixture (see list)")
    what.add_argument("--dataset", metavar="NAME", help="one of them, by name or name:split")
    what.add_argument("--file", type=path_or_address, help="a file or folder of your own data")
    add("--out", required=True, metavar="DIR", help="folder of the shards")
    add("--root", type=path_or_address, help="folder that holds the folders of all datasets")
    add("--part", default="0/1", metavar="I/N", help="make one of N parts, I from 0 (%(default)s)")
    add(
        "--frames",
        nargs="?",
        const=LOSSLESS,
        metavar="CODING",
        help="store the frames that the model of --config sees instead of clips: lossless (the "
        "default), jpeg or jpeg:QUALITY",
    )
    add(
        "--per-shard",
        type=int,
        default=EXAMPLES_PER_SHARD,
        metavar="N",
        help="examples in a shard (%(default)s)",
    )
    add("--config", help="a setup of configs/, or a file, whose settings the run will have")
    add("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="overrides", help="settings")


def shard_all(options: argparse.Namespace) -> int:
    """Write those shards that are not there yet, and print what they hold."""
    from stts_jax.data.shards.writing import Part, write_shards  # its libraries start slowly

    part = Part.named(options.part)
    if not 1 <= options.per_shard <= MOST_PER_SHARD:
        raise DatasetError(f"--per-shard is {options.per_shard}; take 1 to {MOST_PER_SHARD}")
    coding = None if options.frames is None else FrameCoding.named(options.frames)
    config = _config_of(options)
    done = write_shards(
        config, options.out, coding=coding, part=part, per_shard=options.per_shard, progress=True
    )
    size = sum(info.bytes for info in done.infos)
    records = sum(info.records for info in done.infos)
    print(
        f"{options.out}: {done.made} shards written, {done.kept} were there; {records} examples, "
        f"{size / max(records, 1):,.0f} bytes each"
    )
    if clips := sum(info.clips for info in done.infos):
        print(f"{clips} examples have their clip, as their frames are drawn again in each epoch")
    if bad := sum(info.unreadable for info in done.infos):
        print(f"{bad} examples could not be read; training will say why, as without shards")
    if done.missing:
        print(f"{done.missing} of {done.manifest.shards} shards are still to be made")
    return 0


def _config_of(options: argparse.Namespace) -> Config:
    """Returns the setup that shards are made for, with what they are made of."""
    if options.config is None and (options.frames is not None or options.overrides):
        named = "--set" if options.overrides else "--frames"
        raise DatasetError(
            f"{named} is given without --config; name the setup that will be trained"
        )
    published = options.mixture or options.dataset
    if published and options.root is None:
        raise DatasetError("--root is missing; name the folder that holds all datasets' folders")
    config = load_config(options.config or "tiny", options.overrides)
    train = str(options.file)
    if published:
        train = f"{'mixture' if options.mixture else 'dataset'}:{published}"
    return replace(config, {"data.train": train, "data.root": str(options.root or "")})
