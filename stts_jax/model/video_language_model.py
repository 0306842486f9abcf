"""The model that joins ViT, connector and LLM, and drops the same tokens in all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from stts_jax.batch import Batch, TextRows
from stts_jax.budget import Budget
from stts_jax.config import ConfigError, ModelConfig
from stts_jax.layers.attention_mask import TokenTable, attention_mask, token_table
from stts_jax.layers.replace_linears import replace_linears
from stts_jax.model.connector import Connector
from stts_jax.model.int8_weights import in_int8, is_int8
from stts_jax.model.llm import LanguageModel
from stts_jax.model.llm_inputs import keep_tokens
from stts_jax.model.vision import ScoredFrames, VisionEncoder, VisionOutput, finish
from stts_jax.model.vit import VisionTransformer
from stts_jax.parallel.parameters import named_parameters
from stts_jax.parallel.platform import compute_dtype
from stts_jax.pruning.plan import at_visual_tokens
from stts_jax.pruning.scorer import TokenScorer
from stts_jax.pytrees import register_pytree

# The type of the weights of a model that answers: that of activations, or int8.
Weights = Literal["compute", "int8"]


@register_pytree
@dataclass(frozen=True)
class FusedRows:
    """The input of the LLM: the kept tokens of each row, padded to L.

    Attributes:
      embeddings: (B, L, d), visual features added.
      text: of the kept tokens.
      tokens: per-token inputs of the attention mask.
      source: (B, L) int32, position of each token in the row before the drop.
      vision: the output of the ViT.
    """

    embeddings: Float[Array, "B L d"]
    text: TextRows
    tokens: TokenTable
    source: Int[Array, "B L"]
    vision: VisionOutput


class VideoLanguageModel(nnx.Module):
    """ViT, scorer, connector and LLM: from videos and text to hidden states of the kept tokens."""

    def __init__(self, config: ModelConfig, *, key: jax.Array) -> None:
        keys = jax.random.split(key, 4)
        self.config = config
        self.vit = VisionTransformer(config.vit, key=keys[0])
        scored = config.prune.method == "scorer"
        self.scorer = token_scorer(config, key=keys[1]) if scored else None
        self.connector = Connector(config, key=keys[2])
        self.llm = LanguageModel(config.llm, key=keys[3])

    @property
    def dtype(self) -> jnp.dtype:
        """Returns the dtype of activations; parameters are float32."""
        return compute_dtype(self.config.compute_dtype)

    def fuse(
        self, batch: Batch, budget: Budget, key: jax.Array, scored: ScoredFrames | None = None
    ) -> FusedRows:
        """Runs ViT and connector, and drops the same tokens from the input of the LLM.

        Args:
          batch: see `Batch`.
          budget: static sizes.
          key: for method `random`.
          scored: the frames after the blocks up to the drop, if these have run.
        """
        if scored is None:
            vision = vision_encoder(self)(batch, budget, key=key)
        else:
            vision = finish(self.vit, scored, budget, self.config)
        kept = keep_tokens(vision.plan, batch.token_pooling, batch.text, budget, self.config.llm)
        windows = vision.plan.layout.lookup(vision.features, kept.windows)
        projected = self.connector(windows, kept.windows >= 0)
        embeddings = self.llm.embed(kept.text.input_ids, self.dtype)
        embeddings += at_visual_tokens(projected, kept.is_visual)
        tokens = token_table(kept.text.input_ids, kept.text.subsegment_ids, self.config.llm)
        return FusedRows(embeddings, kept.text, tokens, kept.source, vision)

    def __call__(
        self,
        batch: Batch,
        budget: Budget,
        *,
        key: jax.Array,
        train: bool = False,
    ) -> tuple[jax.Array, FusedRows]:
        """Returns the hidden states of all kept tokens, after the final norm.

        Args:
          batch: see `Batch`.
          budget: static sizes.
          key: for method `random`, and for dropout in training.
          train: whether dropout is on.

        Returns:
          (B, L, d) and the input of the LLM. `llm.logits` computes logits of any part of them.
        """
        prune_key, dropout_key = jax.random.split(key)
        rows = self.fuse(batch, budget, prune_key)
        mask = attention_mask(rows.tokens, rows.tokens, self.config.llm.bidirectional)
        hidden = self.llm(
            rows.embeddings,
            rows.text.position_ids,
            mask,
            response=rows.text.loss_masks > 0,
            key=dropout_key if train else None,
            remat=self.config.remat == "blocks",
        )
        return hidden, rows


def vision_encoder(model: VideoLanguageModel) -> VisionEncoder:
    """Returns ViT and scorer of a model, or of an abstract one, under the names that they have."""
    return VisionEncoder(model.vit, model.scorer, model.config)


def abstract_model(config: ModelConfig) -> VideoLanguageModel:
    """Returns a model of shapes instead of arrays; traced once for a configuration."""
    leaves, structure = _traced(config)
    return jax.tree.unflatten(structure, leaves)


@lru_cache(maxsize=32)
def _traced(config: ModelConfig) -> tuple[list[jax.ShapeDtypeStruct], Any]:
    # A cached model itself could be changed by its users.
    make = lambda: VideoLanguageModel(config, key=jax.random.key(0))  # noqa: E731
    return jax.tree.flatten(jax.eval_shape(make))


def token_scorer(config: ModelConfig, *, key: jax.Array) -> TokenScorer:
    """Returns a freshly initialised scorer of the configured sizes: the ViT's own."""
    vit = config.vit
    return TokenScorer(
        width=vit.width,
        heads=vit.heads,
        head_dim=vit.head_dim,
        mlp_width=vit.mlp_width,
        pooling=config.prune.pooling,
        key=key,
    )


def reconfigure(model: VideoLanguageModel, config: ModelConfig) -> VideoLanguageModel:
    """Returns the same parameters under another configuration of the same sizes.

    A scorer that the new configuration doesn't use is left out; adapters stay, and int8 weights.

    Raises:
      ConfigError: where the new configuration needs parameters that the model lacks.
    """
    abstract = replace_linears(abstract_model(config), partial(_own_layer, model))
    if is_int8(model):
        abstract = in_int8(abstract)
    parameters, wanted = named_parameters(model), named_parameters(abstract)
    if any(name.startswith("scorer.") for name in wanted) and model.scorer is None:
        raise ConfigError(
            f"model.prune.method is '{config.prune.method}', but the model has no scorer; "
            "fine-tune with that method first"
        )
    for name, leaf in wanted.items():
        if name not in parameters or parameters[name].shape != leaf.shape:
            raise ConfigError(
                f"the new configuration wants '{name}' of shape {leaf.shape}, which the model "
                "doesn't have; only settings that leave the parameters alone can be changed"
            )
    leaves = [parameters[name] for name in wanted]
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves)


def _own_layer(model: VideoLanguageModel, name: str, layer: Any) -> Any:
    """Returns the layer of a model by its dotted name, or the given one where it has none."""
    for part in name.split("."):
        model = getattr(model, part, None)  # type: ignore[assignment]
    return layer if model is None else model


def to_answer(
    model: VideoLanguageModel, weights: Weights, stored: Mapping[str, Any] | None = None
) -> VideoLanguageModel:
    """Returns the shapes of a model for inference, see `in_compute_dtype` and `in_int8`."""
    model = in_compute_dtype(model, stored)
    return in_int8(model) if weights == "int8" else model


def in_compute_dtype(
    model: VideoLanguageModel, stored: Mapping[str, Any] | None = None
) -> VideoLanguageModel:
    """Returns the shapes of a model for inference: kernels, embedding and head are cast once.

    Every use casts them anyway, so answers stay the same to the bit. Decoding waits for the
    parameters to be read, which are half as many bytes in bfloat16. So those that a checkpoint
    stores in bfloat16 stay as they are, also where they are computed in float32.

    Args:
      model: an abstract model, see `abstract_model`.
      stored: the dtypes of the checkpoint by name, if it is known.
    """
    types = stored or {}

    def cast(name: str, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        if not name.endswith(".kernel") and name not in ("llm.embedding", "llm.head"):
            return leaf
        half = jnp.dtype(jnp.bfloat16)
        return leaf.update(dtype=half if types.get(name) == half else model.dtype)

    leaves = [cast(name, leaf) for name, leaf in named_parameters(model).items()]
    return jax.tree.unflatten(jax.tree.structure(model), leaves)
