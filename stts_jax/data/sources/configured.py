"""The datasets that a split is made of: own files, the procedural set, published data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from stts_jax.buckets.address import path_of
from stts_jax.config import Config, ConfigError, DataConfig
from stts_jax.config.data import SHARDS, is_published
from stts_jax.data.datasets import academic, benchmarks  # noqa: F401  enter the registry
from stts_jax.data.datasets.base import dataset_class
from stts_jax.data.datasets.mixtures import load_mixture
from stts_jax.data.sources.own_data import OwnData
from stts_jax.data.sources.source import Source
from stts_jax.data.sources.usable import Selection, read_usable
from stts_jax.data.synthetic import DEFAULT_FOLDER, PICTURES, ensure_synthetic

SOURCES = "sources"  # the key of fingerprints in a stream's state


def fingerprints(sources: Sequence[Source]) -> dict[str, str]:
    """Fingerprints by name, for the next start to see what has changed."""
    return {source.dataset.label(): source.fingerprint() for source in sources}


def changed_sources(now: Mapping[str, Any], saved: Mapping[str, Any]) -> list[str]:
    """Those of which a saved state has other fingerprints; none if it has no fingerprints.

    Args:
      now: state of a stream, see `TrainingBatches.get_state`.
      saved: one of a checkpoint.
    """
    ours, theirs = now.get(SOURCES), saved.get(SOURCES)
    if ours is None or theirs is None:
        return []
    return [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]


def sources_of(
    config: Config, split: str, folder: Path = DEFAULT_FOLDER, questions: int | None = None
) -> tuple[Source, ...]:
    """Returns the sources that `data.train`, `data.validation` or `data.test` names.

    Args:
      config: of the run.
      split: `train`, `validation` or `test`.
      folder: of the procedural set, which is made if need be.
      questions: of own data at most that many in an example, `data.questions_per_video` by
        default.

    Raises:
      DatasetError: if something of it cannot be read.
      ConfigError: if nothing of `data.train` is on the list `data.usable`.
    """
    data = config.data
    named = getattr(data, split)
    if named.startswith(SHARDS):
        from stts_jax.data.shards.reading import sources_of_shards  # its libraries start slowly

        return sources_of_shards(config)
    if is_published(named):
        return _usable(_published(named, data, split), data, split)
    if named in ("synthetic", "synthetic_pictures"):
        name = split if named == "synthetic" else PICTURES
        named = str(ensure_synthetic(folder) / f"{name}.jsonl")
    own = OwnData(named, questions or data.questions_per_video)
    return (Source(own, plain=data.wording == "plain"),)


def _published(named: str, data: DataConfig, split: str) -> tuple[Source, ...]:
    kind, _, name = named.partition(":")
    root = path_of(data.root)
    if kind == "dataset":
        name, _, part = name.partition(":")
        return (Source(dataset_class(name)(root, part or None)),)
    only = None
    if data.usable:
        only = sorted({selection.dataset for selection in read_usable(path_of(data.usable))})
    return tuple(
        Source(
            mixed.dataset,
            mixed.rate,
            weight=mixed.share.message_weight,
            p_high_res=mixed.share.p_high_res,
        )
        for mixed in load_mixture(name, root, only, split)
    )


def _usable(sources: tuple[Source, ...], data: DataConfig, split: str) -> tuple[Source, ...]:
    """Those examples alone that are on the list, if there is one.

    A list that was made of what is trained on says nothing of other data: they are taken whole.
    """
    if not data.usable:
        return sources
    listed = read_usable(path_of(data.usable))
    kept = []
    for source in sources:
        indices = listed.get(Selection(source.dataset.name, source.dataset.split))
        if indices:
            kept.append(replace(source, indices=np.array(indices)))
    if not kept and split != "train":
        return sources
    if not kept:
        raise ConfigError(
            f"data.usable is '{data.usable}', which lists no example of this data; make it again "
            "with python -m stts_jax.data check"
        )
    total = sum(source.rate for source in kept)
    return tuple(replace(source, rate=source.rate / total) for source in kept)
