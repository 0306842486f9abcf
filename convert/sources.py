"""Recognises a checkpoint by the files in its folder, and opens it without reading any values."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from convert import hf_config, native, reference_config, safetensors_files
from convert.fields import Fields
from convert.hf_processor import pooling_windows
from convert.names import HF, HF_HEAD, NATIVE, TRANSFORMERS, unused_vit_blocks
from convert.orbax_folder import read_arrays
from convert.plain_yaml import read_yaml
from convert.size_checks import require_layers, require_positions
from convert.tensor_reader import (
    ConvertError,
    JoinedRows,
    RowRange,
    Rows,
    require_inside,
    row_blocks,
    with_remedy,
)
from convert.tokenizer_files import Files, tokenizer_in, tokenizer_of_run
from stts_jax.config import Bidirectional, ConfigError, DataConfig, ModelConfig
from stts_jax.config import replace as replace_config
from stts_jax.plain_files import read_json_object
from stts_jax.quoting import shorten, shorten_words
from stts_jax.training.checkpointing.base import recorded_base
from stts_jax.training.checkpointing.checkpoint_errors import CheckpointError
from stts_jax.training.checkpointing.run_folder import (
    CHECKPOINTS,
    MODEL,
    config_of,
    find_checkpoint,
)

_SCORER = "temporal_token_scorer."
_STEP = re.compile(r"step(\d+)(-unsharded)?")
_ADAPTER = "adapter_config.json"
_MODULES = re.compile(r"(^|\.)language_model\.")
DEFAULT_TOPK = 0.5
_EMBEDDINGS = (
    "model.transformer.wte.embedding",
    "model.language_model.embed_tokens.weight",
    "model.embed_tokens.weight",
)


@dataclass(frozen=True)
class Options:
    """Options for what a checkpoint leaves open.

    Attributes:
      step: of a folder of several; the latest by default.
      bidirectional: which image tokens see each other. Native checkpoints say it themselves;
        for the others `image_tokens` is the default, as Hugging Face's code has it.
      topk: share of the tokens to drop, for a checkpoint whose configuration doesn't know its
        scorer; `DEFAULT_TOPK` if not given.
      base: folder of the model that adapters belong to, by default where it was in training.
    """

    step: int | None = None
    bidirectional: Bidirectional | None = None
    topk: float | None = None
    base: Path | None = None


@dataclass(frozen=True)
class Source:
    """An opened checkpoint.

    Attributes:
      kind: what it was recognised as, in words.
      folder: the folder of the checkpoint.
      column: of the table of names, that its names are from.
      tensors: by these names.
      model: its configuration.
      ignore: names that nothing has to read.
      notes: what was left out or assumed, a sentence each.
      tokenizer: files of the tokenizer that belongs to it, if there is one.
      data: settings that images and videos are read with, as far as they are known.
    """

    kind: str
    folder: Path
    column: str
    tensors: Mapping[str, Rows]
    model: ModelConfig
    ignore: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    tokenizer: Files | None = None
    data: DataConfig = field(default_factory=DataConfig)


def open_source(folder: Path, options: Options) -> Source:
    """Recognise and open a checkpoint.

    Raises:
      ConvertError: if the folder holds none that is known, or a damaged one.
      ConfigError: if its configuration can't be built.
    """
    if not folder.is_dir():
        raise ConvertError(f"'{folder}' is not a folder; give the folder of a checkpoint")
    if options.step is not None or not _is_checkpoint(folder):
        folder = _step_folder(folder, options.step)
    if (folder / native.UNSHARDED).exists():
        return _native(folder, "native, unsharded", native.read_unsharded, options)
    if (folder / native.SHARDED).exists():
        return _native(folder, "native, sharded", native.read_sharded, options)
    return _ours(folder, options) if _is_ours(folder) else _hugging_face(folder, options)


def is_foreign(folder: Path) -> bool:
    """Whether a folder holds a checkpoint that has to be converted before it is used."""
    if _is_ours(folder):
        return False
    if _is_checkpoint(folder) or safetensors_files.shards_in(folder):
        return True
    return any(_STEP.fullmatch(child.name) for child in folder.iterdir())


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
    if not steps and safetensors_files.shards_in(folder):
        return folder  # which says that the index is missing
    if not steps and (folder / _ADAPTER).exists():
        raise ConvertError(
            f"'{folder}' holds an adapter and no whole model; name that with --base, its "
            "base_model_name_or_path"
        )
    if not steps:
        raise ConvertError(
            f"'{folder}' holds no checkpoint that is known: neither {native.UNSHARDED} nor "
            f"{native.SHARDED} (the reference's own), nor {safetensors_files.SINGLE} (Hugging "
            f"Face), nor {CHECKPOINTS} (ours), nor folders named step*"
        )
    wanted = steps[-1] if step is None else step
    if wanted not in steps:
        raise ConvertError(
            f"--step is {wanted}, but '{folder}' has {shorten(steps)}; choose one of these"
        )
    return found.get((wanted, True)) or found[wanted, False]


# --------------------------------------------------------------------------------- the formats


def _native(
    folder: Path, kind: str, read: Callable[[Path], Mapping[str, Rows]], options: Options
) -> Source:
    path = folder / "config.yaml"
    raw = _parse(path, folder, read_yaml)
    tensors = read(folder)  # which takes longer, as sums are checked
    described = raw.get("model", raw) if isinstance(raw, dict) else {}
    with _understood(path):
        require_layers(reference_config.layers_of(described), tensors, NATIVE)
        config = reference_config.model_config(described)
    _require_agreement(options, config, path)
    with _understood(path):
        require_positions(config, tensors, NATIVE)
        config, notes = _with_scorer(config, tensors, options)
    source = Source(
        kind, folder, NATIVE, tensors, config, notes=notes, tokenizer=tokenizer_in(folder)
    )
    return _trimmed(source)


def _hugging_face(folder: Path, options: Options) -> Source:
    path = folder / "config.json"
    found, notes = safetensors_files.read_folder(folder)
    raw = _parse(path, folder, read_json_object)
    modules = any(_MODULES.search(name) for name in found)
    column = TRANSFORMERS if modules else HF
    with _understood(path):
        require_layers(hf_config.layers_of(raw), found, column)
        tensors = _resplit(found, raw["text_config"])
        # A head that isn't there is the embedding only if the configuration says so.
        tied = _is_tied(tensors) if HF_HEAD in tensors else hf_config.states_tied_head(raw)
        stated = _stated_bidirectional(raw)
        bidirectional = stated or options.bidirectional or "image_tokens"
        config = hf_config.model_config_from_hf(
            raw, tied_head=tied, bidirectional=bidirectional, **pooling_windows(folder)
        )
    _require_agreement(options, config, path)
    with _understood(path):
        require_positions(config, tensors, column)
        config, more = _with_scorer(config, tensors, options)
    kind = "Hugging Face, " + ("names of transformers' modules" if modules else "released names")
    notes += (
        *more,
        f"the head is {'a copy of the embedding, so it is tied' if tied else 'not tied'}",
        f"image tokens see each other: {bidirectional}",
    )
    ignore = (HF_HEAD,) if tied else ()
    source = Source(kind, folder, column, tensors, config, ignore, notes, tokenizer_in(folder))
    return _trimmed(source)


def _stated_bidirectional(raw: Mapping[str, Any]) -> Bidirectional | None:
    modes = {mode: mode for mode in get_args(Bidirectional)}
    return Fields(raw).choice(hf_config.BIDIRECTIONAL_KEY, modes, default=None)


def _resplit(tensors: Mapping[str, Rows], text: Mapping[str, Any]) -> Mapping[str, Rows]:
    """Cut base and extra embedding where the vocabulary ends.

    transformers 5 keeps both in one table, and when it saves under the released names it cuts that
    in two halves. Joined, they are right again.
    """
    base, extra = _EMBEDDINGS[0], "model.transformer.wte.new_embedding"
    if base not in tensors or extra not in tensors:
        return tensors
    parts = (tensors[base], tensors[extra])
    if any(len(part.shape) != 2 for part in parts) or parts[0].shape[1] != parts[1].shape[1]:
        return tensors  # which are refused with their shapes
    fields, both = Fields(text, "text_config"), JoinedRows(parts)
    rows, end = both.shape[0], fields.whole("vocab_size")
    wanted = end + fields.whole("additional_vocab_size", default=0, least=0)
    if tensors[base].shape[0] == end or rows != wanted:
        return tensors
    return {**tensors, base: RowRange(both, 0, end), extra: RowRange(both, end, rows)}


def _ours(folder: Path, options: Options) -> Source:
    try:
        checkpoint = find_checkpoint(folder)
        config = config_of(checkpoint)
    except (CheckpointError, ConfigError) as error:
        raise ConvertError(shorten_words(str(error))) from error
    _require_agreement(options, config.model, folder)
    tensors = read_arrays(checkpoint, config.model, NATIVE, options.base)
    merged = recorded_base(checkpoint) is not None
    with _understood(folder / "config.json"):
        require_positions(config.model, tensors, NATIVE)
    run = checkpoint.parents[1] if checkpoint.parent.name == CHECKPOINTS else checkpoint
    tokenizer, notes = tokenizer_of_run(config.data.tokenizer, run)
    return Source(
        "ours, Orbax" + (", merged into its base" if merged else ""),
        folder,
        NATIVE,
        tensors,
        config.model,
        notes=notes,
        tokenizer=tokenizer,
        data=config.data,
    )


def _require_agreement(options: Options, config: ModelConfig, path: Path) -> None:
    """Flags are for what a checkpoint leaves open; what it states they must not contradict."""
    stated: dict[str, tuple[Any, Any]] = {
        "--bidirectional": (options.bidirectional, config.llm.bidirectional)
    }
    if config.prune.method != "none":
        stated["--topk"] = (options.topk, config.prune.topk)
    for flag, (given, found) in stated.items():
        if given not in (None, found):
            raise ConvertError(f"{flag} is {given}, but '{path}' says {found}; leave the flag out")


def _parse(path: Path, folder: Path, read: Callable[[Path], Any]) -> Any:
    require_inside(path, folder)
    with with_remedy("download it again"):
        return read(path)


@contextmanager
def _understood(path: Path) -> Iterator[None]:
    """Names the file in what is wrong with a configuration."""
    try:
        yield
    except ConfigError as error:
        raise ConvertError(f"'{path}': {shorten_words(str(error))}") from error


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
    """Leaves out ViT blocks after the last one whose features are used."""
    vit, unused = source.model.vit, unused_vit_blocks(source.model, source.column)
    if not any(name in source.tensors for name in unused):
        return source
    note = f"left out ViT blocks {vit.depth} to {vit.layers - 1}: no feature layer needs them"
    return replace(source, ignore=(*source.ignore, *unused), notes=(*source.notes, note))


def require_tied(tensors: Mapping[str, Rows], folder: Path, stated: bool) -> None:
    """Raises if the head isn't the embedding that replaces it.

    Args:
      tensors: of a language model.
      folder: they are from.
      stated: whether its configuration says that the head is the embedding.
    """
    if HF_HEAD not in tensors and not stated:
        raise ConvertError(
            f"'{HF_HEAD}' is missing in '{folder}', whose config.json doesn't tie it to the "
            "embedding; download it again"
        )
    if HF_HEAD in tensors and not _is_tied(tensors):
        raise ConvertError(
            f"the head in '{folder}' is no copy of its embedding, but the configuration ties "
            "them; choose one with model.llm.tied_head=false"
        )


def _is_tied(tensors: Mapping[str, Rows]) -> bool:
    """Whether the stored head is the embedding, to the bit."""
    embedding = next((name for name in _EMBEDDINGS if name in tensors), None)
    if embedding is None:
        return False
    head, table = tensors[HF_HEAD], tensors[embedding]
    if not head.shape or not table.shape or head.shape[1:] != table.shape[1:]:
        return False
    if head.shape[0] > table.shape[0] or head.dtype != table.dtype:
        return False
    kind = np.dtype(f"u{head.dtype.itemsize}")
    return all(
        np.array_equal(head.read(*rows).view(kind), table.read(*rows).view(kind))
        for rows in row_blocks(head)
    )
