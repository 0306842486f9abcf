"""The model that joins ViT, connector and LLM, and drops the same tokens in all of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from stts_jax.budget import Budget
from stts_jax.config import ConfigError, ModelConfig
from stts_jax.layers.attention_mask import TokenTable, attention_mask, token_table
from stts_jax.model.connector import Connector
from stts_jax.model.llm import LanguageModel
from stts_jax.model.vision import VisionOutput, encode
from stts_jax.model.vit import VisionTransformer
from stts_jax.parallel.parameters import named_parameters
from stts_jax.pruning.plan import LlmTokens, PruningPlan, at_visual_tokens
from stts_jax.pruning.scorer import TokenScorer

# A TPU's tile of memory holds that many tokens.
TOKEN_TILE = 128
# Values of the arrays of the text side where a row holds no token.
TEXT_FILL = {
    "input_ids": -1,
    "labels": 0,
    "loss_masks": 0,
    "position_ids": 0,
    "subsegment_ids": 0,
}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FusedRows:
    """The input of the LLM: the kept tokens of each row, padded to L.

    Attributes:
      embeddings: (B, L, d), visual features added.
      text: the arrays of `TEXT_FILL`, (B, L) each.
      tokens: what the attention mask needs of each token.
      source: (B, L) int32, position of each token in the row before the drop.
      vision: the result of the ViT.
    """

    embeddings: jax.Array
    text: dict[str, jax.Array]
    tokens: TokenTable
    source: jax.Array
    vision: VisionOutput


class VideoLanguageModel(nnx.Module):
    """Video rows and text in, hidden states of the kept tokens out."""

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
        """What the model computes in; parameters are float32."""
        return compute_dtype(self.config)

    def fuse(self, batch: dict[str, jax.Array], budget: Budget, key: jax.Array) -> FusedRows:
        """Runs everything before the LLM.

        Args:
          batch: the arrays of `budget.batch_arrays`.
          budget: static sizes.
          key: for method `random`.
        """
        vision = encode(
            self.vit, self.scorer, batch, budget, self.config, dtype=self.dtype, key=key
        )
        kept = kept_llm_tokens(vision.plan, batch, budget, self.config)
        window_features = vision.plan.layout.lookup(vision.features, kept.windows)
        projected = self.connector(window_features, kept.windows >= 0)

        text = {name: kept.gather(batch[name], fill) for name, fill in TEXT_FILL.items()}
        ids = text["input_ids"]
        is_visual = ids == self.config.llm.special_token("<im_patch>")
        embeddings = self.llm.embed(ids, self.dtype) + at_visual_tokens(projected, is_visual)
        tokens = token_table(ids, text["subsegment_ids"], self.config.llm)
        return FusedRows(embeddings, text, tokens, kept.source, vision)

    def __call__(
        self,
        batch: dict[str, jax.Array],
        budget: Budget,
        *,
        key: jax.Array,
        train: bool = False,
    ) -> tuple[jax.Array, FusedRows]:
        """Hidden states of all kept tokens, after the final norm.

        Args:
          batch: the arrays of `budget.batch_arrays`.
          budget: static sizes.
          key: for method `random`, and for dropout in training.
          train: whether dropout is on.

        Returns:
          (B, L, d) and what went into the LLM. `llm.logits` makes logits of any part of them.
        """
        prune_key, dropout_key = jax.random.split(key)
        rows = self.fuse(batch, budget, prune_key)
        mask = attention_mask(rows.tokens, rows.tokens, self.config.llm.bidirectional)
        hidden = self.llm(
            rows.embeddings,
            rows.text["position_ids"],
            mask,
            response=rows.text["loss_masks"] > 0,
            key=dropout_key if train else None,
            remat=self.config.remat == "blocks",
        )
        return hidden, rows


def abstract_model(config: ModelConfig) -> VideoLanguageModel:
    """Returns a model of shapes in place of arrays; of one configuration, traced only once."""
    leaves, structure = _traced(config)
    return jax.tree.unflatten(structure, leaves)


@lru_cache(maxsize=32)
def _traced(config: ModelConfig) -> tuple[list[jax.ShapeDtypeStruct], Any]:
    # Leaves and structure are kept, as a model itself could be changed by who is given it.
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
    """The same parameters under another configuration of the same sizes: another ratio, say.

    A scorer that the new configuration has no use for is left out.
    """
    abstract = abstract_model(config)
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


def in_compute_dtype(model: VideoLanguageModel) -> VideoLanguageModel:
    """Shapes of a model that answers: what is cast in every use is cast once and for all.

    Kernels, embedding and head are what a model is made of, and tokens decoded one by one wait for
    them: in bfloat16 a device reads half as much. Answers stay the same to the bit.

    Args:
      model: abstract, as of `abstract_model`.
    """

    def cast(name: str, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        is_cast = name.endswith(".kernel") or name in ("llm.embedding", "llm.head")
        return leaf.update(dtype=model.dtype) if is_cast else leaf

    leaves = [cast(name, leaf) for name, leaf in named_parameters(model).items()]
    return jax.tree.unflatten(jax.tree.structure(model), leaves)


def compute_dtype(config: ModelConfig) -> jnp.dtype:
    """`auto` is bfloat16 where the hardware has it, float32 on CPUs."""
    if config.compute_dtype == "auto":
        return jnp.dtype(jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)
    return jnp.dtype(config.compute_dtype)


def kept_llm_tokens(
    plan: PruningPlan, batch: dict[str, jax.Array], budget: Budget, config: ModelConfig
) -> LlmTokens:
    """Returns what stays of the LLM's input by a plan.

    Args:
      plan: of the drop.
      batch: the arrays of `budget.batch_arrays`.
      budget: static sizes.
      config: the model's configuration.
    """
    ids = batch["input_ids"]
    return plan.llm_tokens(
        batch["token_pooling"],
        ids == config.llm.special_token("<im_patch>"),
        ids >= 0,
        visual=budget.visual,
        tokens=row_length(budget.tokens),
    )


def row_length(tokens: int) -> int:
    """Returns L, the length of a row in the LLM: on a TPU whole tiles, where there are many.

    Otherwise heads are transposed in memory before and after each attention there.
    """
    if jax.default_backend() != "tpu" or tokens < 8 * TOKEN_TILE:
        return tokens
    return -(-tokens // TOKEN_TILE) * TOKEN_TILE
