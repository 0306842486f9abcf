"""Dropping equals masking, in the LLM and in the ViT, in every packing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from float32_encoding import encode
from model_cases import (
    BUDGET,
    KEY,
    ROWS,
    SMALL,
    numpy_rows,
    rows,
    small_model,
)
from model_cases import small_model_config as small
from model_checks import FEATURES, LOGITS, PACKINGS, forward, total_loss, with_gradients
from random_batches import IMAGE, MULTI_IMAGE, TEXT, VIDEO
from reference_cases import worst, worst_gradient

from stts_jax.attention import attention
from stts_jax.budget import tokens_to_prune
from stts_jax.layers.attention_mask import attention_mask, token_table
from stts_jax.model.video_language_model import VideoLanguageModel
from stts_jax.model.vision import frames_of
from stts_jax.parallel.parameters import named_parameters
from stts_jax.pruning.first_fit import bin_sizes, first_fit_layout
from stts_jax.pruning.layout import DenseLayout
from stts_jax.pruning.pooling_windows import to_patches
from stts_jax.pruning.score_bias import score_bias
from stts_jax.pruning.selection import protect_first_frames, select
from stts_jax.pruning.stream import stream_layout

LOSS = 5e-6
GRADIENTS = 1e-4


def dropped_tokens(config: Any, batch: Any, keep_patches: jax.Array) -> tuple[Any, Any]:
    """Whether each token of the rows before the prune is dropped, and its number among patches."""
    ids, pooling = batch.text.input_ids, batch.token_pooling
    is_patch = ids == config.llm.special_token("<im_patch>")
    number = jnp.where(is_patch, jnp.cumsum(is_patch, axis=1) - 1, 0)
    flat = keep_patches.reshape(len(ids), -1)
    seen = (pooling >= 0) & jax.vmap(lambda row, i: row[i])(flat, jnp.maximum(pooling, 0))
    kept = jax.vmap(lambda row, i: row[i])(seen.any(-1), number)
    return is_patch & ~kept, jnp.where(is_patch, number, -1)


@partial(jax.jit, static_argnums=2)
def masked_instead(model: VideoLanguageModel, batch: Any, budget: Any) -> Any:
    """The same ViT; the LLM has all tokens, and nobody sees the ones that should be dropped."""
    config = model.config

    def loss(model: VideoLanguageModel) -> Any:
        vision = encode_rows(model, batch, budget)
        dropped, number = dropped_tokens(config, batch, vision.plan.keep_patches)
        pooling = batch.token_pooling
        visual = model.connector(vision.plan.layout.lookup(vision.features, pooling), pooling >= 0)
        own = jax.vmap(lambda row, i: row[i])(visual, jnp.maximum(number, 0))
        embeddings = model.llm.embed(batch.text.input_ids, jnp.dtype("float32"))
        embeddings += jnp.where((number >= 0)[..., None], own, 0)
        tokens = token_table(batch.text.input_ids, batch.text.subsegment_ids, config.llm)
        mask = attention_mask(tokens, tokens, config.llm.bidirectional).holds()
        mask = mask & ~dropped[:, None, :]
        hidden = model.llm(embeddings, batch.text.position_ids, mask)
        total = total_loss(model, hidden, batch.text, vision.temporal_loss)
        return total, (model.llm.logits(hidden), dropped)

    return jax.value_and_grad(loss, has_aux=True)(model)


@pytest.fixture(scope="module", params=PACKINGS)
def dropped_and_masked(request: pytest.FixtureRequest) -> tuple[Any, Any, Any]:
    model, batch = small_model(small(prune__layout=request.param)), rows()
    return (
        with_gradients(model, batch, BUDGET, KEY, False),
        masked_instead(model, batch, BUDGET),
        batch,
    )


def test_the_rows_looked_at_hold_all_there_is():
    batch = numpy_rows()
    assert set(np.unique(batch.multimodal_type)) == {-1, TEXT, IMAGE, VIDEO, MULTI_IMAGE}
    assert ((batch.num_images >= 0).sum(1) > 1).any()
    assert len(np.unique(batch.text.subsegment_ids)) > 4
    k = tokens_to_prune(batch.num_images, batch.multimodal_type, SMALL.prune, 9)
    assert (k > 0).sum() > 1


def gradient_error(ours: VideoLanguageModel, theirs: VideoLanguageModel) -> float:
    """Worst error of all gradients; that of a bias on keys is zero, but for rounding."""
    ours, theirs = (
        {n: g for n, g in jax.device_get(named_parameters(x)).items() if "key.bias" not in n}
        for x in (ours, theirs)
    )
    norms = {name: float(np.linalg.norm(g)) for name, g in theirs.items()}
    # All parts take part, or equality says little.
    parts = {name.split(".")[0] for name, norm in norms.items() if norm > 0}
    assert {"vit", "scorer"} <= parts
    return max(worst_gradient(ours, theirs, norms))


def test_dropping_gives_the_logits_of_masking(dropped_and_masked, report_error):
    ((_, (logits, fused)), _), ((_, (expected, dropped)), _), batch = dropped_and_masked
    source, valid = np.asarray(fused.source), np.asarray(fused.tokens.valid)
    assert np.asarray(dropped).any()
    for row in range(ROWS):
        stay = (batch.text.input_ids[row] >= 0) & ~dropped[row]
        assert (source[row][valid[row]] == np.flatnonzero(stay)).all()
    expected = np.take_along_axis(
        np.asarray(expected), np.where(valid, source, 0)[..., None], axis=1
    )
    error = worst(np.asarray(logits)[valid], expected[valid])
    report_error("logits", error, LOGITS)
    assert error <= LOGITS


def test_dropping_gives_the_loss_of_masking(dropped_and_masked, report_error):
    ((ours, _), _), ((theirs, _), _), _ = dropped_and_masked
    error = abs(float(ours) - float(theirs)) / float(theirs)
    report_error("loss", error, LOSS)
    assert error <= LOSS


def test_dropping_gives_the_gradients_of_masking(dropped_and_masked, report_error):
    (_, ours), (_, theirs), _ = dropped_and_masked
    error = gradient_error(ours, theirs)
    report_error("gradients", error, GRADIENTS)
    assert error <= GRADIENTS


# ----------------------------------------------------------- dropping is masking as key, in the ViT


def encode_rows(model: VideoLanguageModel, batch: Any, budget: Any) -> Any:
    return encode(model.vit, model.scorer, batch, budget, model.config, KEY)


@dataclass(frozen=True)
class Masked(DenseLayout):
    """Every patch in its place, and only those of `keep` (B, T, N) are seen."""

    keep: jax.Array | None = None

    def attend(self, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        return attention(query, key, value, mask=self.keep[..., None, :])


def masked_vit(model: VideoLanguageModel, batch: Any) -> tuple[jax.Array, jax.Array]:
    """A ViT that keeps every patch, and hides the ones that should be dropped after block l+1."""
    config, prune = model.config, model.config.prune
    x = model.vit.embed(batch.images, jnp.dtype("float32"))
    frames = frames_of(batch, config)
    upto = prune.prune_at + 1
    x, first = model.vit.run(x, 0, upto, DenseLayout(), remat=False)
    scores = model.scorer(x)
    keep = to_patches(select(protect_first_frames(scores, frames), frames), config.vit.grid, 3)
    bias = score_bias(
        scores, frames, grid=config.vit.grid, pooling=3, minimum=prune.rescale_bias_min
    )
    x, second = model.vit.run(x, upto, upto + 1, DenseLayout(key_bias=bias), remat=False)
    _, third = model.vit.run(x, upto + 1, config.vit.depth, Masked(keep=keep), remat=False)
    return model.vit.concatenate(first | second | third), keep


def features_everywhere(vision: Any) -> jax.Array:
    """(B, T, N, D), zeros where nothing is kept."""
    shape = vision.plan.keep_patches.shape
    everything = jnp.broadcast_to(
        jnp.arange(shape[1] * shape[2]), (shape[0], 1, shape[1] * shape[2])
    )
    return vision.plan.layout.lookup(vision.features, everything).reshape(*shape, -1)


def test_a_stream_gives_the_features_and_gradients_of_masking(report_error):
    model, batch = small_model(), rows()
    weights = jax.random.normal(KEY, (ROWS, BUDGET.frames, 81, 2 * SMALL.vit.width))

    def streamed(model: VideoLanguageModel) -> Any:
        vision = encode_rows(model, batch, BUDGET)
        features = features_everywhere(vision)
        return (features * weights).sum(), (features, vision.plan.keep_patches)

    def masked(model: VideoLanguageModel) -> Any:
        features, keep = masked_vit(model, batch)
        features = jnp.where(keep[..., None], features, 0)
        return (features * weights).sum(), (features, keep)

    (_, (ours, our_keep)), our_gradients = jax.jit(jax.value_and_grad(streamed, has_aux=True))(
        model
    )
    (_, (theirs, keep)), gradients = jax.jit(jax.value_and_grad(masked, has_aux=True))(model)
    assert (our_keep == keep).all() and 0.2 < keep.mean() < 0.9
    error = worst(ours, theirs)
    report_error("features", error, FEATURES)
    assert error <= FEATURES
    assert (np.asarray(gradients.scorer.last.kernel[...]) != 0).any()  # through the bias alone
    error = gradient_error(our_gradients, gradients)
    report_error("gradients", error, GRADIENTS)
    assert error <= GRADIENTS


# ------------------------------------------------------------------------------------- packings


@partial(jax.jit, static_argnums=3)
def packed_both_ways(model: VideoLanguageModel, x: jax.Array, keep: jax.Array, size: int) -> Any:
    """The last blocks in a stream, in bins, and with every patch in place; at all patches."""
    count, frames, patches = keep.shape
    bins = first_fit_layout(keep, bin_sizes(count, frames, size, patches))
    everything = jnp.broadcast_to(jnp.arange(frames * patches), (count, 1, frames * patches))

    def run(layout: Any) -> jax.Array:
        out, _ = model.vit.run(layout.gather(x), 2, 4, layout, remat=False)
        return layout.lookup(out, everything).reshape(*x.shape)

    return run(stream_layout(keep, size)), run(bins), run(DenseLayout()), bins.refilled


def hidden_and_masks(kept: int) -> tuple[jax.Array, np.ndarray]:
    """Some hidden states, and `kept` random patches of each of 2 x 4 frames."""
    rng = np.random.default_rng(0)
    keep = rng.permuted(np.broadcast_to(np.arange(81) < kept, (2, 4, 81)), axis=-1)
    return jnp.asarray(rng.normal(size=(2, 4, 81, 16)).astype(np.float32)), keep


def test_both_packings_are_alike_where_no_frame_is_alone(report_error):
    x, keep = hidden_and_masks(27)
    stream, bins, _, refilled = packed_both_ways(small_model(), x, keep, 4 * 60)
    assert not refilled.any()
    error = worst(stream, bins)
    report_error("features", error, FEATURES)
    assert error <= FEATURES


def test_a_lone_frame_of_first_fit_sees_its_dropped_patches(report_error):
    x, keep = hidden_and_masks(60)
    stream, bins, dense, refilled = packed_both_ways(small_model(), x, keep, 4 * 60)
    assert (np.asarray(refilled) == ~keep).all()
    dense = np.where(keep[..., None], dense, 0)
    error = worst(bins, dense)
    report_error("features", error, FEATURES)
    assert error <= FEATURES
    assert worst(stream, dense) > 1e-3


def test_pruning_only_at_the_connector_leaves_the_vit_whole():
    config = small(prune__pruning_in_scorer=False)
    model, batch = small_model(config), rows()
    _, (_, fused) = forward(model, batch, BUDGET, KEY, False)
    layout = fused.vision.plan.layout
    assert isinstance(layout, DenseLayout) and (layout.key_bias < 0).any()
    assert fused.vision.features.shape == (ROWS, BUDGET.frames, 81, 2 * SMALL.vit.width)
    stays = np.asarray(fused.vision.plan.keep).sum((1, 2))
    counts, kinds = batch.num_images, batch.multimodal_type
    k = tokens_to_prune(counts, kinds, config.prune, 9)
    assert (stays == np.maximum(counts, 0).sum(1) * 9 - k.sum(1)).all()
    tokens = (batch.text.input_ids >= 0).sum(1) - k.sum(1)
    assert (np.asarray(fused.tokens.valid).sum(1) == tokens).all()


def test_without_pruning_in_the_scorer_the_bias_stays_in_all_later_blocks(report_error):
    model, batch = small_model(small(prune__pruning_in_scorer=False)), rows()
    vision = forward(model, batch, BUDGET, KEY, False)[1][1].vision

    @jax.jit
    def plain(model: VideoLanguageModel, bias: jax.Array) -> jax.Array:
        x = model.vit.embed(batch.images, jnp.dtype("float32"))
        x, first = model.vit.run(x, 0, 1, DenseLayout(), remat=False)
        _, rest = model.vit.run(x, 1, 4, DenseLayout(key_bias=bias), remat=False)
        return model.vit.concatenate(first | rest)

    error = worst(vision.features, plain(model, vision.plan.layout.key_bias))
    report_error("features", error, FEATURES)
    assert error <= FEATURES
