"""Initialises parameters that a checkpoint lacks, in the form of a checkpoint's tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from convert.names import name_table
from convert.tensor_reader import Rows
from stts_jax.config import ModelConfig
from stts_jax.model.connector import Connector
from stts_jax.model.video_language_model import token_scorer
from stts_jax.parallel.parameters import named_parameters, truncated_normal

# As the reference initialises the embeddings of new tokens (`new_embedding_init_range`).
EXTRA_EMBEDDING_DEVIATION = 0.02


@dataclass(frozen=True)
class ArrayRows:
    """A tensor in memory."""

    array: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the values."""
        return self.array.dtype

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop)."""
        return self.array[start:stop]


def init_scorer(model: ModelConfig, column: str, seed: int = 0) -> dict[str, Rows]:
    """Returns a newly initialised scorer, by the names of a column."""
    scorer = jax.jit(lambda key: token_scorer(model, key=key))(jax.random.key(seed))
    return _named("scorer", scorer, model, column)


def init_connector(model: ModelConfig, column: str, seed: int = 0) -> dict[str, Rows]:
    """Returns a new connector and embeddings of visual tokens, by the names of a column."""
    keys = jax.random.split(jax.random.key(seed), 2)
    connector = jax.jit(lambda key: Connector(model, key=key))(keys[0])
    shape = (model.llm.extra_vocab_size, model.llm.width)
    extra = truncated_normal(EXTRA_EMBEDDING_DEVIATION)(keys[1], shape, np.float32)
    return {
        **_named("connector", connector, model, column),
        **_named("llm", {"extra_embedding": extra}, model, column),
    }


def _named(prefix: str, module: Any, model: ModelConfig, column: str) -> dict[str, Rows]:
    table: Mapping[str, Any] = {name.ours: name for name in name_table(model)}
    tensors: dict[str, Rows] = {}
    for ours, value in named_parameters(module).items():
        name = table[f"{prefix}.{ours}"]
        array = np.asarray(value)
        tensors[name.in_column(column)[0]] = ArrayRows(array.T if name.transpose else array)
    return tensors
