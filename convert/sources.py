"""Recognises a checkpoint by what lies in its folder, and opens it without reading any values."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from convert import native, safetensors_files
from convert.hf_config import BIDIRECTIONAL_KEY, model_config_from_hf
from convert.hf_processor import pooling_windows
from convert.names import HF, HF_HEAD, NATIVE, TRANSFORMERS, name_table, unused_vit_blocks
from convert.orbax_folder import read_arrays
from convert.reference_config import model_config
from convert.stored import (
    ConvertError,
    JoinedRows,
    RowRange,
    Rows,
    require_inside,
    row_blocks,
)
from stts_jax.config import Bidirectional, ConfigError, ModelConfig
from stts_jax.config import replace as replace_config
from stts_jax.data.tokenizer import TINY_FILE
from stts_jax.training.checkpoint import (
    CHECKPOINTS,
    MODEL,
    CheckpointError,
    config_of,
    find_checkpoint,
)

_SCORER = "temporal_token_scorer."
_STEP = re.compile(r"step(\d+)(-unsharded)?")
TOKENIZER = "tokenizer.json"
DEFAULT_TOPK = 0.5
_EMBEDDINGS = (
    "model.transformer.wte.embedding",
    "model.language_model.embed_tokens.weight",
    "model.embed_tokens.weight",
)


@dataclass(frozen=True)
class Options:
    """What a checkpoint may leave open.

    Attributes:
      step: of a folder of several; the latest by default.
      bidirectional: which image tokens see each other. Native checkpoints say it themselves;
        for the others `image_tokens` is the default, as Hugging Face's code has it.
      topk: share of the tokens to drop, for a checkpoint whose configuration doesn't know its
        scorer; `DEFAULT_TOPK` if not given.
    """

    step: int | None = None
    bidirectional: Bidirectional | None = None
    topk: float | None = None


@dataclass(frozen=True)
class Source:
    """An opened checkpoint.

    Attributes:
      kind: what it was recognised as, in words.
      folder: where it lies.
      column: of the table of names, that its names are from.
      tensors: by these names.
      model: its configuration.
      ignore: names that nothing has to read.
      notes: what was left out or assumed, a sentence each.
      tokenizer: the `tokenizer.json` that belongs to it, if there is one.
    """

    kind: str
    folder: Path
    column: str
    tensors: Mapping[str, Rows]
    model: ModelConfig
    ignore: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    tokenizer: Path | None = None


def open_source(folder: Path, options: Options) -> Source:
    """Recognise and open a checkpoint.

    Raises:
      ConvertError: if the folder holds none that is known, or a damaged one.
      ConfigError: if its configuration can't be built.
    """
    if not folder.is_dir():
        raise ConvertError(f"'{folder}' is no folder; give the folder of a checkpoint")
    if options.step is not None or not _is_checkpoint(folder):
        folder = _step_folder(folder, options.step)
    if (folder / native.UNSHARDED).exists():
        return _native(folder, "native, unsharded", native.read_unsharded(folder), options)
    if (folder / native.SHARDED).exists():
        return _native(folder, "native, sharded", native.read_sharded(folder), options)
    return _ours(folder, options) if _is_ours(folder) else _hugging_face(folder, options)


def tokenizer_in(folder: Path) -> Path | None:
    """The tokenizer that lies in a folder."""
    path = folder / TOKENIZER
    return path if path.is_file() else None


def is_foreign(folder: Path) -> bool:
    """Whether a folder holds a checkpoint that has to be converted before it is used."""
    if _is_ours(folder):
        return False
    return _is_checkpoint(folder) or any(_STEP.fullmatch(child.name) for child in folder.iterdir())


def _is_checkpoint(folder: Path) -> bool:
    names = (native.UNSHARDED, native.SHARDED, safetensors_files.SINGLE, safetensors_files.INDEX)
    return any((folder / name).exists() for name in names) or _is_ours(folder)


def _is_ours(folder: Path) -> bool:
    return (folder / CHECKPOINTS).is_dir() or (folder / MODEL / "_METADATA").is_file()


def _step_folder(folder: Path, step: int | None) -> Path:
    """The child of the wanted (by default the latest) step; sharded if both forms are there."""
    found = {
        (int(match[1]), match[2] is None): child
        for child in folder.iterdir()
        if (match := _STEP.fullmatch(child.name)) and child.is_dir()
    }
    steps = sorted({number for number, _ in found})
    if not steps:
        raise ConvertError(
            f"'{folder}' holds no checkpoint that is known: neither {native.UNSHARDED} nor "
            f"{native.SHARDED} (the reference's own), nor {safetensors_files.SINGLE} (Hugging "
            f"Face), nor {CHECKPOINTS} (ours), nor folders named step*"
        )
    wanted = steps[-1] if step is None else step
    if wanted not in steps:
        raise ConvertError(f"--step is {wanted}, but '{folder}' has {steps}; choose one of these")
    return found.get((wanted, True)) or found[wanted, False]


# --------------------------------------------------------------------------------- the formats


def _native(folder: Path, kind: str, tensors: Mapping[str, Rows], options: Options) -> Source:
    raw = _parse(folder / "config.yaml", folder, yaml.safe_load)
    described = raw.get("model", raw) if isinstance(raw, dict) else {}
    config = _understood(folder / "config.yaml", lambda: model_config(described))
    _require_agreement(options, config, folder / "config.yaml")
    config, notes = _with_scorer(config, tensors, options)
    source = Source(
        kind, folder, NATIVE, tensors, config, notes=notes, tokenizer=tokenizer_in(folder)
    )
    return _trimmed(source)


def _hugging_face(folder: Path, options: Options) -> Source:
    raw = _parse(folder / "config.json", folder, json.loads)
    tensors = _resplit(safetensors_files.read_folder(folder), raw.get("text_config", {}))
    tied = _is_tied(tensors)
    stated = raw.get(BIDIRECTIONAL_KEY)
    bidirectional = stated or options.bidirectional or "image_tokens"
    config = _understood(
        folder / "config.json",
        lambda: model_config_from_hf(
            raw, tied_head=tied, bidirectional=bidirectional, **pooling_windows(folder)
        ),
    )
    _require_agreement(options, config, folder / "config.json")
    config, notes = _with_scorer(config, tensors, options)
    modules = any(name.startswith("model.language_model.") for name in tensors)
    kind = "Hugging Face, " + ("names of transformers' modules" if modules else "released names")
    notes += (
        f"the head is {'a copy of the embedding, so it is tied' if tied else 'not tied'}",
        f"image tokens see each other: {bidirectional}",
    )
    ignore = (HF_HEAD,) if tied else ()
    column = TRANSFORMERS if modules else HF
    source = Source(kind, folder, column, tensors, config, ignore, notes, tokenizer_in(folder))
    return _trimmed(source)


def _resplit(tensors: Mapping[str, Rows], text: Mapping[str, Any]) -> Mapping[str, Rows]:
    """Cut base and extra embedding where the vocabulary ends.

    transformers 5 keeps both in one table, and when it saves under the released names it cuts that
    in two halves. Joined, they are right again.
    """
    base, extra = _EMBEDDINGS[0], "model.transformer.wte.new_embedding"
    if base not in tensors or extra not in tensors or "vocab_size" not in text:
        return tensors
    both, end = JoinedRows((tensors[base], tensors[extra])), int(text["vocab_size"])
    rows = both.shape[0]
    wanted = end + int(text.get("additional_vocab_size", 0))
    if tensors[base].shape[0] == end or rows != wanted:
        return tensors
    return {**tensors, base: RowRange(both, 0, end), extra: RowRange(both, end, rows)}


def _ours(folder: Path, options: Options) -> Source:
    try:
        checkpoint = find_checkpoint(folder)
        config = config_of(checkpoint)
    except CheckpointError as error:
        raise ConvertError(str(error)) from error
    _require_agreement(options, config.model, folder)
    tensors = read_arrays(checkpoint, name_table(config.model), NATIVE)
    stated = config.data.tokenizer
    tokenizer = TINY_FILE if stated == "tiny" else Path(stated)
    if tokenizer.is_file():
        return Source("ours, Orbax", folder, NATIVE, tensors, config.model, tokenizer=tokenizer)
    note = f"its tokenizer '{stated}' is not there; put a {TOKENIZER} beside the result"
    return Source("ours, Orbax", folder, NATIVE, tensors, config.model, notes=(note,))


def _require_agreement(options: Options, config: ModelConfig, path: Path) -> None:
    """Flags are for what a checkpoint leaves open; what it states they must not contradict."""
    stated = {"--bidirectional": (options.bidirectional, config.llm.bidirectional)}
    if config.prune.method != "none":
        stated["--topk"] = (options.topk, config.prune.topk)
    for flag, (given, found) in stated.items():
        if given not in (None, found):
            raise ConvertError(f"{flag} is {given}, but '{path}' says {found}; leave the flag out")


def _parse(path: Path, folder: Path, parse: Any) -> Any:
    try:
        return parse(require_inside(path, folder).read_text())
    except (ValueError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise ConvertError(f"'{path}' cannot be read: {reason}; download it again") from error


def _understood(path: Path, build: Any) -> ModelConfig:
    try:
        return build()
    except ConfigError as error:
        raise ConvertError(f"'{path}': {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ConvertError(
            f"'{path}' lacks {error} or has it in a form that is not known; it is no configuration "
            "of a Molmo2 model"
        ) from error


def _with_scorer(
    config: ModelConfig, tensors: Mapping[str, Rows], options: Options
) -> tuple[ModelConfig, tuple[str, ...]]:
    """The configuration with method `scorer` if the checkpoint has one that it doesn't mention."""
    has = any(_SCORER in name for name in tensors)
    if not has or config.prune.method == "scorer":
        return config, ()
    topk = DEFAULT_TOPK if options.topk is None else options.topk
    config = replace_config(config, {"prune.method": "scorer", "prune.topk": topk})
    note = f"the configuration doesn't mention the scorer; assumed topk={topk}"
    return config, (note,)


def _trimmed(source: Source) -> Source:
    """Leave out ViT blocks behind the last one whose features are used."""
    vit, unused = source.model.vit, unused_vit_blocks(source.model, source.column)
    if not any(name in source.tensors for name in unused):
        return source
    note = f"left out ViT blocks {vit.depth} to {vit.layers - 1}: no feature layer needs them"
    return replace(source, ignore=(*source.ignore, *unused), notes=(*source.notes, note))


def require_tied(tensors: Mapping[str, Rows], folder: Path) -> None:
    """Raise if a stored head differs from the embedding that is to take its place."""
    if not _is_tied(tensors):
        raise ConvertError(
            f"the head in '{folder}' is no copy of its embedding, but the configuration ties "
            "them; choose one with model.llm.tied_head=false"
        )


def _is_tied(tensors: Mapping[str, Rows]) -> bool:
    """Whether the stored head is the embedding, to the bit."""
    embedding = next((name for name in _EMBEDDINGS if name in tensors), None)
    if HF_HEAD not in tensors or embedding is None:
        return HF_HEAD not in tensors
    head, table = tensors[HF_HEAD], tensors[embedding]
    if head.shape[1:] != table.shape[1:] or head.shape[0] > table.shape[0]:
        return False
    if head.dtype != table.dtype:
        return False
    kind = np.dtype(f"u{head.dtype.itemsize}")
    return all(
        np.array_equal(head.read(*rows).view(kind), table.read(*rows).view(kind))
        for rows in row_blocks(head)
    )
