"""What is timed: ViT, prefill of the LLM, whole forward pass, whole training step, selection."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stts_jax.bench.model import bench_batch
from stts_jax.budget import Budget
from stts_jax.config import Config
from stts_jax.host_memory import give_back_much
from stts_jax.layers.attention_mask import TokenTable, attention_mask
from stts_jax.model.video_language_model import (
    VideoLanguageModel,
    compute_dtype,
    kept_places,
    kept_tokens,
)
from stts_jax.model.vision import encode, pack
from stts_jax.parallel.mesh import make_mesh
from stts_jax.pruning.cells import to_patches
from stts_jax.pruning.frames import frame_table
from stts_jax.pruning.selection import protect_first_frames, select
from stts_jax.training.loss import loss_fn
from stts_jax.training.step import TrainState, init_state, make_train_step

PARTS = ("vit", "prefill", "forward", "step")
# Not compared with an ideal: its share of a step is what counts.
SELECTION = "selection"


class Programs:
    """The compiled parts of one configuration, with parameters and a row of their own.

    Attributes:
      kept: (T,) patches that each frame keeps in the ViT.
    """

    def __init__(self, config: Config, budget: Budget, parts: Sequence[str] = PARTS) -> None:
        mesh = make_mesh({"data": 1}, jax.devices()[:1])
        key = jax.random.key(1)
        batch = {name: jnp.asarray(array) for name, array in bench_batch(config, budget).items()}
        self._key, self._batch = key, batch
        self._state: TrainState = init_state(config, mesh, jax.random.key(0))
        self._step: Any = make_train_step(config, budget, mesh)
        self._functions: dict[str, Callable[[VideoLanguageModel], Any]] = {
            "vit": _compiled(partial(_vit, budget), batch, key),
            "prefill": _compiled(_prefill, *_prefill_inputs(config, budget)),
            "forward": _compiled(partial(_forward, config, budget), batch, key),
            SELECTION: _compiled(
                partial(_selection, config, budget), *_selection_inputs(config, budget, batch)
            ),
        }
        self.kept = np.asarray(self._functions["vit"](self._state.model)[1])
        for part in parts:
            give_back_much()
            self.run(part)

    def run(self, part: str) -> None:
        """Run a part once and wait for it."""
        if part == "step":
            self._state, metrics = self._step(self._state, self._batch, self._key)
            jax.block_until_ready((self._state, metrics))
        else:
            jax.block_until_ready(self._functions[part](self._state.model))


def _compiled(function: Any, *inputs: Any) -> Callable[[VideoLanguageModel], Any]:
    jitted = jax.jit(function)
    return lambda model: jitted(model, *inputs)


def _vit(
    budget: Budget, model: VideoLanguageModel, batch: dict[str, jax.Array], key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Features, and how many patches each frame of the row keeps."""
    config, dtype = model.config, model.dtype
    out = encode(model.vit, model.scorer, batch, budget, config, dtype=dtype, key=key)
    return out.features, out.keep_patches[0].sum(-1)


def _forward(
    config: Config,
    budget: Budget,
    model: VideoLanguageModel,
    batch: dict[str, jax.Array],
    key: jax.Array,
) -> Any:
    return loss_fn(model, batch, budget, config.train, key=key, train=False)


def _prefill(
    model: VideoLanguageModel, embeddings: jax.Array, positions: jax.Array, tokens: TokenTable
) -> Any:
    mask = attention_mask(tokens, tokens, model.config.llm.bidirectional)
    return model.llm.prefill(embeddings, positions, mask, embeddings.shape[1])


def _prefill_inputs(config: Config, budget: Budget) -> tuple[Any, ...]:
    """Embeddings, positions and table of a row: text, kept visual tokens, text."""
    length = budget.tokens
    places = jnp.arange(length)[None]
    visual = (places >= budget.text // 2) & (places < budget.text // 2 + budget.visual)
    zeros = jnp.zeros((1, length), jnp.int32)
    table = TokenTable(places, jnp.ones_like(visual), visual, zeros, zeros)
    shape = (1, length, config.model.llm.width)
    embeddings = jax.random.normal(jax.random.key(2), shape, compute_dtype(config.model))
    return embeddings, places, table


def _selection(
    config: Config,
    budget: Budget,
    model: VideoLanguageModel,
    ratings: jax.Array,
    x: jax.Array,
    batch: Mapping[str, jax.Array],
) -> Any:
    """Everything between ratings and what goes on: which stay, where they lie, the moves."""
    prune, llm = config.model.prune, config.model.llm
    frames = frame_table(
        batch["num_images"],
        batch["multimodal_type"],
        x.shape[1],
        prune,
        config.model.tokens_per_frame,
    )
    keep = select(protect_first_frames(ratings, frames), frames)
    keep_patches = to_patches(keep, config.model.vit.grid, prune.pooling)
    layout = pack(keep_patches, budget, config.model)
    kept = kept_tokens(keep_patches, batch["token_pooling"])
    patch = llm.special_token("<im_patch>")
    places = kept_places(batch["input_ids"], batch["token_pooling"], kept, patch, budget.tokens)
    return layout.gather(x), layout, places


def _selection_inputs(
    config: Config, budget: Budget, batch: Mapping[str, jax.Array]
) -> tuple[Any, ...]:
    vit, keys = config.model.vit, jax.random.split(jax.random.key(3))
    ratings = jax.random.uniform(keys[0], (1, budget.frames, config.model.tokens_per_frame))
    shape = (1, budget.frames, vit.patches, vit.width)
    x = jax.random.normal(keys[1], shape, compute_dtype(config.model))
    return ratings, x, dict(batch)
