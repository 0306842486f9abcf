"""Writes a random Hugging Face folder with the shapes of a released model, and a clip to ask about.

Values are drawn block by block while they are written, so that the folder takes no memory.
"""

from __future__ import annotations

import math
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convert.hf_folder import write_folder
from convert.mapping import ParameterMapping
from convert.names import HF, Name, name_table
from convert.pipeline import Plan, abstract_parameters, hf_tensors
from convert.sources import Source
from convert.stored_dtype import DTYPES
from convert.tensor_reader import Rows
from convert.tokenizer_files import TOKENIZER
from stts_jax.config import ModelConfig, replace
from stts_jax.data.scenes import SceneConfig, render
from stts_jax.data.synthetic import plan_video, write_video
from stts_jax.data.text.tokenizer import CONFIG_FILE, TINY_FILE
from stts_jax.terminal import progress_bar

# Counts that are as many times fewer in a model of another width; heads keep their width.
_SCALED = (
    *("vit.width", "vit.heads", "vit.mlp_width", "connector.width", "connector.heads"),
    *("connector.mlp_width", "llm.width", "llm.heads", "llm.kv_heads", "llm.mlp_width"),
    "llm.vocab_size",
)


def of_width(model: ModelConfig, width: float) -> ModelConfig:
    """Returns the configuration of a model `width` times as wide, with as many layers."""
    parts = {name: name.split(".") for name in _SCALED}
    sizes = {name: getattr(getattr(model, part), field) for name, (part, field) in parts.items()}
    return replace(model, {name: max(1, round(width * size)) for name, size in sizes.items()})


@dataclass(frozen=True)
class RandomRows:
    """A tensor of normally distributed bfloat16 values, the same if they are read in like blocks.

    Attributes:
      name: seeds the values.
      shape: of the tensor.
      mean, deviation: of the values.
    """

    name: str
    shape: tuple[int, ...]
    mean: float
    deviation: float

    @property
    def dtype(self) -> np.dtype:
        """Returns bfloat16."""
        return DTYPES["bfloat16"]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Returns the rows [start, stop)."""
        rng = np.random.default_rng((zlib.crc32(self.name.encode()), start))
        values = rng.standard_normal((stop - start, *self.shape[1:]), np.float32)
        return (self.mean + self.deviation * values).astype(self.dtype)


def write_random_folder(folder: Path, model: ModelConfig, tokenizer: Path | None) -> None:
    """Writes weights in bfloat16 shards, `config.json`, and a tokenizer.

    Args:
      folder: replaced if it exists.
      model: the sizes.
      tokenizer: folder with a `tokenizer.json`; by default the tiny model's.
    """
    shutil.rmtree(folder, ignore_errors=True)  # of a write that was broken off, or is repeated
    folder.mkdir(parents=True)
    shapes = {name: leaf.shape for name, leaf in abstract_parameters(model).items()}
    mappings = tuple(_mapping(name, shapes[name.ours]) for name in name_table(model))
    source = Source("random values", folder, HF, {}, model)
    tensors = hf_tensors(Plan(source, model, mappings, ()))
    total = sum(math.prod(rows.shape) for rows in tensors.values())
    with progress_bar(
        total=total, desc="writing", unit="values", unit_scale=True, shown=True
    ) as bar:
        write_folder(folder, tensors, model, DTYPES["bfloat16"], bar.update)
    shutil.copyfile(TINY_FILE if tokenizer is None else tokenizer / TOKENIZER, folder / TOKENIZER)
    if tokenizer is not None and (tokenizer / CONFIG_FILE).exists():
        shutil.copyfile(tokenizer / CONFIG_FILE, folder / CONFIG_FILE)


def write_clip(path: Path) -> None:
    """Writes a clip as the demo's, of its first scene."""
    config = SceneConfig()
    write_video(path, render(plan_video(0, 0, config)[0], config), config.fps)


def _mapping(name: Name, shape: tuple[int, ...]) -> ParameterMapping:
    stacked = "{layer}" in name.native
    own = shape[1:] if stacked else shape
    rows = [
        _random(f"{name.ours} {layer}", own[::-1] if name.transpose else own, own)
        for layer in range(shape[0] if stacked else 1)
    ]
    return ParameterMapping(name, shape, name.in_column(HF), tuple(rows))


def _random(name: str, shape: tuple[int, ...], own: tuple[int, ...]) -> Rows:
    """Returns a tensor that leaves activations about as large as they are."""
    if len(own) == 1:
        return RandomRows(name, shape, 1.0 if ".scale " in name else 0.0, 0.02)
    inputs = own[1] if "embedding" in name else own[0]
    return RandomRows(name, shape, 0.0, inputs**-0.5)
