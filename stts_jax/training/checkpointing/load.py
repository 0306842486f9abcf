"""Loads and saves models without the state of a run: to evaluate, to ask, to fine-tune.

The files of a checkpoint's arrays are opened with TensorStore, which Orbax stores them with: of
damaged files TensorStore raises one error that names file and cause, where Orbax lets every array
fail by itself, and prints each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import tensorstore as ts
from jax.sharding import Mesh
from orbax.checkpoint import v1 as ocp

from stts_jax.config import Config
from stts_jax.layers.int8_linear import quantize
from stts_jax.model.int8_weights import scales_of, without_scales
from stts_jax.model.video_language_model import (
    VideoLanguageModel,
    Weights,
    abstract_model,
    to_answer,
    vision_encoder,
)
from stts_jax.model.vision import VisionEncoder
from stts_jax.parallel.mesh import make_mesh, parameter_shardings, sharded_shapes
from stts_jax.parallel.parameters import named_parameters
from stts_jax.plain_files import read_json_object
from stts_jax.quoting import shorten
from stts_jax.training.adapters.merge import merge
from stts_jax.training.adapters.names import adapted_layers, is_adapter
from stts_jax.training.checkpointing.base import find_base, recorded_base, require_base
from stts_jax.training.checkpointing.checkpoint_errors import CheckpointError, reading
from stts_jax.training.checkpointing.parameter_loading import load_parameters
from stts_jax.training.checkpointing.run_folder import (
    CHECKPOINTS,
    MODEL,
    config_of,
    find_checkpoint,
    require_writable,
)

# Bytes of a block at most: as it is decoded whole, also where a part of it is wanted.
_BLOCK_BYTES = 1 << 23
# The file in which Orbax lists the arrays of a folder.
METADATA = "_METADATA"
_SCORER = "scorer."
_SCORING = ("vit.", _SCORER)
_LISTED = 50  # more parameters than a model has
M = TypeVar("M")


def load_model(
    folder: Path,
    config: Config | None = None,
    mesh: Mesh | None = None,
    base: Path | None = None,
) -> tuple[VideoLanguageModel, Config]:
    """Returns the model of a checkpoint and its config; the optimizer's state isn't read.

    Adapters are merged into the parameters of their base.

    Args:
      folder: see `find_checkpoint`.
      config: to build the model with, by default that of the run. If it needs no scorer, the
        checkpoint's is not read.
      mesh: to shard the model over, by default all devices, a copy on each.
      base: folder of the model that adapters belong to, by default where it was in training.

    Raises:
      CheckpointError: if there is none, it is damaged, or its arrays are not those of the model.
    """
    return _load_model(folder, config, mesh, lambda shapes: shapes, base=base)


def load_to_answer(
    folder: Path,
    config: Config | None = None,
    mesh: Mesh | None = None,
    weights: Weights = "compute",
    base: Path | None = None,
) -> tuple[VideoLanguageModel, Config]:
    """Returns `load_model` with parameters in compute types, or weights in int8: `to_answer`."""
    return _load_model(folder, config, mesh, lambda shapes: to_answer(shapes, weights), base=base)


def load_to_score(
    folder: Path,
    config: Config | None = None,
    mesh: Mesh | None = None,
    weights: Weights = "compute",
    base: Path | None = None,
) -> tuple[VisionEncoder, Config]:
    """Returns ViT and scorer alone, as of `load_to_answer`: nothing else is read."""
    return _load_model(
        folder,
        config,
        mesh,
        lambda shapes: vision_encoder(to_answer(shapes, weights)),
        _SCORING,
        base,
    )


def _load_model(
    folder: Path,
    config: Config | None,
    mesh: Mesh | None,
    cast: Callable[[VideoLanguageModel], M],
    parts: tuple[str, ...] = ("",),
    base: Path | None = None,
) -> tuple[M, Config]:
    checkpoint = find_checkpoint(Path(folder))
    config = config or config_of(checkpoint)
    shapes = cast(abstract_model(config.model))
    abstract: M = sharded_shapes(shapes, parameter_shardings(shapes, mesh or make_mesh()))
    wanted = named_parameters(abstract)
    stored = open_model(checkpoint, base)
    saved = {name: array for name, array in stored.whole.items() if name.startswith(parts)}
    if config.model.prune.method != "scorer":
        saved = {name: array for name, array in saved.items() if not name.startswith(_SCORER)}
    require_match(without_scales(wanted), saved, checkpoint)
    loaded: M = unflatten_named(abstract, _load(stored, saved, wanted))
    return loaded, config


def initialize_from(
    model: VideoLanguageModel,
    folder: Path,
    notice: Callable[[str], None] = print,
    base: Path | None = None,
) -> VideoLanguageModel:
    """Returns a model with the parameters of a checkpoint, to fine-tune.

    A scorer that the checkpoint lacks stays as it is in `model`; a scorer that the model lacks is
    left out; `notice` gets a line about either. All else must match.

    Args:
      model: newly initialised, sharded as wanted.
      folder: see `find_checkpoint`.
      notice: takes a line of text.
      base: of adapters, see `load_model`.

    Raises:
      CheckpointError: if there is none, it is damaged, or with the list of all that doesn't match.
    """
    checkpoint = find_checkpoint(Path(folder))
    parameters = named_parameters(model)
    stored = open_model(checkpoint, base)
    saved = dict(stored.whole)
    wanted = {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)
        for name, array in parameters.items()
    }
    settle_scorer(wanted, saved, checkpoint, notice)
    require_match(wanted, saved, checkpoint)
    return unflatten_named(model, parameters | _load(stored, saved, wanted))


def settle_scorer(
    wanted: dict[str, Any], saved: dict[str, Any], folder: Path, notice: Callable[[str], None]
) -> None:
    """Removes a scorer from the parameters of the side whose other side has none, with a notice.

    Args:
      wanted: parameters of a model by name.
      saved: those of a checkpoint.
      folder: of the checkpoint.
      notice: takes a line of text.
    """
    for has, lacks, what in (
        (wanted, saved, "has no scorer; a new one is initialised"),
        (saved, wanted, "has a scorer that this model doesn't use; it is left out"),
    ):
        scorer = [name for name in has if name.startswith(_SCORER)]
        if scorer and not any(name.startswith(_SCORER) for name in lacks):
            notice(f"checkpoint '{folder}' {what}")
            for name in scorer:
                del has[name]


def save_model(model: VideoLanguageModel, config: Config, output: Path, step: int = 0) -> Path:
    """Writes a model that no run trained to a folder that is read like that of a run.

    Returns:
      Folder of the checkpoint, in `output`.
    """
    require_writable(output)
    config.save(output)
    folder = output.resolve() / CHECKPOINTS / str(step)
    with in_blocks():
        ocp.save_checkpointables(folder, {MODEL: named_parameters(model)}, overwrite=True)
    return folder


def unflatten_named(abstract: Any, arrays: Mapping[str, Any]) -> Any:
    """Returns arrays, given by dotted name, in the structure of `abstract`."""
    leaves = [arrays[name] for name in named_parameters(abstract)]
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves)


def require_match(wanted: Mapping[str, Any], saved: Mapping[str, Any], folder: Path) -> None:
    """Raises a `CheckpointError` that lists arrays that are missing, of another shape, or extra."""
    problems = [f"{shorten(name)} is missing" for name in wanted if name not in saved]
    problems += [
        f"'{name}' has shape {tuple(saved[name].shape)} instead of {tuple(array.shape)}"
        for name, array in wanted.items()
        if name in saved and tuple(saved[name].shape) != tuple(array.shape)
    ]
    problems += [f"{shorten(name)} is unexpected" for name in saved if name not in wanted]
    if problems:
        more = len(problems) - _LISTED
        raise CheckpointError(
            f"checkpoint '{folder}' doesn't fit this setup: {'; '.join(problems[:_LISTED])}"
            + (f"; and {more} more" if more > 0 else "")
            + "; use the config.json that lies with it"
        )


def in_blocks() -> ocp.Context:
    """Returns the context to save arrays in, so that a reader needs little besides the arrays."""
    context = ocp.Context()
    context.array.saving.storage_options.chunk_byte_size = _BLOCK_BYTES
    return context


def open_arrays(folder: Path) -> dict[str, Any]:
    """Opens the arrays of a checkpoint's part; returns TensorStore's handles by dotted name.

    Args:
      folder: of the part, `STEP/model` for example.

    Raises:
      OSError, ValueError, KeyError, TypeError: if files are missing or damaged.
    """
    metadata = read_metadata(folder)
    names = [entry["key_metadata"][0]["key"] for entry in metadata["tree_metadata"].values()]
    for name in names:
        if not isinstance(name, str) or "/" in name or name in ("", ".", ".."):
            raise ValueError(f"{shorten(name)} in '{METADATA}' is no name of an array")
    specs = {name: spec_of(folder, name, metadata) for name in names}
    # A block whose file is gone is damage, as to Orbax, and no block of zeros.
    opened = {
        name: ts.open({**spec, "fill_missing_data_reads": False}, open=True, read=True)
        for name, spec in specs.items()
    }
    arrays = {name: array.result() for name, array in opened.items()}
    for name, array in arrays.items():
        # A block is read as a whole: one that is larger than its array may fill memory.
        block: Any = array.chunk_layout.read_chunk.shape
        if any(side > max(1, size) for side, size in zip(block, array.shape, strict=True)):
            raise ValueError(f"the blocks of array '{name}' are {block}, larger than the array")
    return arrays


def read_metadata(folder: Path) -> Mapping[str, Any]:
    """Returns Orbax's description of the arrays in a folder."""
    return read_json_object(folder / METADATA)


def spec_of(folder: Path, name: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the spec of an array for `tensorstore.open`: path and format."""
    driver = "zarr3" if metadata.get("use_zarr3") else "zarr"
    if metadata.get("use_ocdbt", True):
        base = f"file://{folder.resolve()}/"
        return {"driver": driver, "kvstore": {"driver": "ocdbt", "base": base, "path": f"{name}/"}}
    path = f"{folder.resolve()}/{name}/"
    return {"driver": driver, "kvstore": {"driver": "file", "path": path}}


@dataclass(frozen=True)
class StoredModel:
    """The opened arrays of a checkpoint, and of its base if it has one; no values are read.

    Attributes:
      folder: the checkpoint.
      whole: TensorStore's handles of a whole model by name, those of the base where it has no own.
      own: those that the checkpoint itself has.
      scale: of the adapters, alpha / rank.
      base: the checkpoint of the base, None for a whole model.
    """

    folder: Path
    whole: Mapping[str, Any]
    own: Mapping[str, Any]
    scale: float = 1.0
    base: Path | None = None

    @property
    def adapters(self) -> dict[str, tuple[Any, Any]]:
        """Returns `lora_a` and `lora_b` by the name of the kernel that they adapt."""
        return {f"{layer}.kernel": pair for layer, pair in adapted_layers(self.own).items()}


def open_model(checkpoint: Path, base: Path | None = None) -> StoredModel:
    """Opens the parameters of a checkpoint; shapes are known, no values are read.

    Args:
      checkpoint: folder of a step.
      base: folder of the base, for a checkpoint that has one, if it isn't where it was.

    Raises:
      CheckpointError: if files are damaged, or the base is missing or another model.
    """
    with reading(checkpoint):
        own = open_arrays(checkpoint / MODEL)
    recorded = recorded_base(checkpoint)
    if recorded is None:
        if base is not None:
            raise CheckpointError(
                f"'{checkpoint}' is a whole model and belongs to no base; name it without --adapter"
            )
        return StoredModel(checkpoint, own, own)
    folder = find_base(checkpoint, recorded, base)
    with reading(folder):
        arrays = open_arrays(folder / MODEL)
    require_base(folder, recorded, arrays, checkpoint)
    lora = config_of(checkpoint).train.lora
    plain = {name: array for name, array in own.items() if not is_adapter(name)}
    return StoredModel(
        checkpoint, arrays | plain, own, lora.alpha / lora.rank if lora.rank else 1.0, folder
    )


def _load(
    stored: StoredModel, saved: dict[str, Any], wanted: dict[str, Any]
) -> dict[str, jax.Array]:
    """Reads only the arrays in `wanted`, and merges their adapters into them."""
    adapters = {name: pair for name, pair in stored.adapters.items() if name in wanted}
    # What is wanted in int8 is merged before it is quantised.
    scales = {name: own for name, own in scales_of(wanted).items() if name in adapters}
    later = {*scales, *(scale for scale, _ in scales.values())}
    with reading(stored.base or stored.folder):
        loaded = load_parameters(saved, {n: leaf for n, leaf in wanted.items() if n not in later})
    for name, pair in adapters.items():
        leaf = wanted[name]
        if name in scales:
            leaf = leaf.update(dtype=saved[name].dtype.numpy_dtype)
            with reading(stored.base or stored.folder):
                loaded |= load_parameters(saved, {name: leaf})
        with reading(stored.folder):
            loaded[name] = merge(loaded.pop(name), pair, stored.scale)
        if name in scales:
            scale, axis = scales[name]
            loaded[name], loaded[scale] = jax.jit(
                partial(quantize, axis=axis),
                out_shardings=(wanted[name].sharding, wanted[scale].sharding),
                donate_argnums=0,
            )(loaded.pop(name))
    return loaded
