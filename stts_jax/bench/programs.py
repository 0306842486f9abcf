"""The timed programs: ViT, prefill of the LLM, forward pass, training step, selection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stts_jax.batch import Batch
from stts_jax.bench.model import bench_batch
from stts_jax.budget import Budget
from stts_jax.config import Config
from stts_jax.host_memory import give_back_much
from stts_jax.layers.attention_mask import TokenTable, attention_mask
from stts_jax.model.llm_inputs import keep_tokens
from stts_jax.model.video_language_model import VideoLanguageModel, vision_encoder
from stts_jax.model.vision import frames_of, plan_of
from stts_jax.parallel.mesh import make_mesh
from stts_jax.parallel.platform import compute_dtype
from stts_jax.pruning.layout import DenseLayout
from stts_jax.pruning.plan import at_visual_tokens
from stts_jax.pruning.selection import protect_first_frames
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
        batch = jax.tree.map(jnp.asarray, bench_batch(config, budget))
        self._key, self._batch = key, batch
        self._state: TrainState = init_state(config, mesh, jax.random.key(0))
        self._step: Any = make_train_step(config, budget, mesh)
        self._functions: dict[str, Callable[[VideoLanguageModel], Any]] = {
            "vit": _compiled(partial(_vit, budget), batch, key),
            "prefill": _compiled(_prefill, *_prefill_inputs(config, budget)),
            "forward": _compiled(partial(_forward, config, budget), batch, key),
            SELECTION: _compiled(
                partial(selection, config, budget),
                *selection_inputs(config, budget, batch, compute_dtype(config.model.compute_dtype)),
            ),
        }
        self.kept = np.asarray(self._functions["vit"](self._state.model)[1])
        for part in parts:
            give_back_much()
            self.run(part)

    def run(self, part: str) -> None:
        """Runs a part once and waits for it."""
        if part == "step":
            self._state, metrics = self._step(self._state, self._batch, self._key)
            jax.block_until_ready((self._state, metrics))
        else:
            jax.block_until_ready(self._functions[part](self._state.model))


def _compiled(function: Any, *inputs: Any) -> Callable[[VideoLanguageModel], Any]:
    jitted = jax.jit(function)
    return lambda model: jitted(model, *inputs)


def _vit(
    budget: Budget, model: VideoLanguageModel, batch: Batch, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Features, and how many patches each frame of the row keeps."""
    out = vision_encoder(model)(batch, budget, key=key)
    return out.features, out.plan.keep_patches[0].sum(-1)


def _forward(
    config: Config,
    budget: Budget,
    model: VideoLanguageModel,
    batch: Batch,
    key: jax.Array,
) -> Any:
    return loss_fn(model, batch, budget, config.train, key=key, train=False)


def _prefill(
    model: VideoLanguageModel, embeddings: jax.Array, positions: jax.Array, tokens: TokenTable
) -> Any:
    mask = attention_mask(tokens, tokens, model.config.llm.bidirectional)
    return model.llm.prefill(embeddings, positions, mask, embeddings.shape[1])


def _prefill_inputs(config: Config, budget: Budget) -> tuple[Any, ...]:
    """Returns embeddings, positions and table of a row: text, kept visual tokens, text."""
    length = budget.tokens
    positions = jnp.arange(length)[None]
    visual = (positions >= budget.text // 2) & (positions < budget.text // 2 + budget.visual)
    zeros = jnp.zeros((1, length), jnp.int32)
    table = TokenTable(positions, jnp.ones_like(visual), visual, zeros, zeros)
    shape = (1, length, config.model.llm.width)
    embeddings = jax.random.normal(
        jax.random.key(2), shape, compute_dtype(config.model.compute_dtype)
    )
    return embeddings, positions, table


def selection(
    config: Config,
    budget: Budget,
    model: VideoLanguageModel,
    scores: jax.Array,
    x: jax.Array,
    projected: jax.Array,
    batch: Batch,
) -> Any:
    """Drops tokens as a training step does, forward and backward, without its other arithmetic.

    The plan; the move of the ViT's features into the layout; the lookup of the features of each
    visual token that stays; the move of text and projected tokens to their positions in the LLM.
    The last two an unpruned model does too, with more tokens.

    Args:
      config: of the run.
      budget: of the row.
      model: unused.
      scores: (1, T, P).
      x: (1, T, N, D), features of the ViT when tokens are dropped.
      projected: (1, V, d), results of the connector.
      batch: of `bench_batch`.
    """
    frames = frames_of(batch, config.model)
    protected = protect_first_frames(scores, frames)
    plan = plan_of(protected, frames, budget, config.model, DenseLayout())
    kept = keep_tokens(plan, batch.token_pooling, batch.text, budget, config.model.llm)
    layers = config.model.vit.resolved_feature_layers
    # Features of layers before the drop are gathered one by one; later ones need no gather.
    moved = 1 + sum(layer < config.model.dense_blocks for layer in layers)

    def moves(arrays: tuple[jax.Array, ...], projected: jax.Array) -> tuple[Any, ...]:
        gathered = [plan.layout.gather(array) for array in arrays]
        features = jnp.concatenate([gathered[-1]] * len(layers), axis=-1)
        looked_up = plan.layout.lookup(features, kept.windows)
        return gathered, looked_up, at_visual_tokens(projected, kept.is_visual)

    out, back = jax.vjp(moves, (x,) * moved, projected)
    return out, back(out), kept.text, plan


def selection_inputs(
    config: Config, budget: Budget, batch: Batch, dtype: jnp.dtype
) -> tuple[Any, ...]:
    """Returns the arguments of `selection` after the model."""
    model, keys = config.model, jax.random.split(jax.random.key(3), 3)
    scores = jax.random.uniform(keys[0], (1, budget.frames, model.tokens_per_frame))
    x = jax.random.normal(keys[1], (1, budget.frames, model.vit.patches, model.vit.width), dtype)
    projected = jax.random.normal(keys[2], (1, budget.visual, model.llm.width), dtype)
    return scores, x, projected, batch
