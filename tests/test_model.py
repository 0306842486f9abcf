"""The model as a whole: sizes, what dropping is equal to, packing, masks, and compiling once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import (
    BUDGET,
    KEY,
    ROWS,
    SIZES,
    SMALL,
    VIT,
    numpy_rows,
    on_device,
    rows,
    small_model,
)
from model_cases import small_model_config as small
from random_batches import IMAGE, MULTI_IMAGE, TEXT, VIDEO
from reference_cases import worst, worst_gradient

from stts_jax.attention import attention
from stts_jax.budget import tokens_to_prune
from stts_jax.config import ConfigError, config_names, load_config
from stts_jax.layers.attention_mask import attention_mask, token_table
from stts_jax.layers.rotary import rotary_tables
from stts_jax.model.connector import Connector
from stts_jax.model.llm import residual_dropout
from stts_jax.model.video_language_model import VideoLanguageModel, reconfigure
from stts_jax.model.vision import encode, frames_of
from stts_jax.parallel.parameters import count_parameters, named_parameters
from stts_jax.pruning.first_fit import bin_sizes, first_fit_layout
from stts_jax.pruning.layout import DenseLayout
from stts_jax.pruning.pooling_windows import to_patches
from stts_jax.pruning.score_bias import score_bias
from stts_jax.pruning.selection import protect_first_frames, select
from stts_jax.pruning.stream import stream_layout
from stts_jax.training.loss import token_loss

# Worst seen: logits 5e-7, loss 0, gradients 2e-5, features 3e-7 (relative to the largest value).
LOGITS = 2e-5
LOSS = 5e-6
GRADIENTS = 1e-4
FEATURES = 2e-5
PACKINGS = ("stream", "first_fit")
Z_LOSS = 1e-4


# ------------------------------------------------------------------------------ published sizes

SCORER = 33_766_769


@cache
def abstract(config: Any) -> VideoLanguageModel:
    return jax.eval_shape(lambda: VideoLanguageModel(config, key=KEY))


@pytest.mark.parametrize("name", [n for n in config_names() if n.startswith("molmo2")])
def test_parameters_are_as_many_as_published(name):
    llm, connector, total = SIZES[name.split("_stts")[0]]
    model = abstract(load_config(name).model)
    head = 0 if model.llm.head is None else model.llm.head.size
    scorer = SCORER if "_stts_" in name else 0
    assert count_parameters(model.llm) - head == llm
    assert count_parameters(model.vit) == VIT
    assert count_parameters(model.connector) == connector
    assert count_parameters(model.scorer) == scorer
    assert count_parameters(model) == total + scorer


# ----------------------------------------------------------- dropping is masking as key, in the LLM


def total_loss(model: Any, hidden: jax.Array, text: Any, auxiliary: jax.Array) -> jax.Array:
    sums = token_loss(hidden, text["labels"], text["loss_masks"], model.llm.logits, Z_LOSS)
    return (sums["cross_entropy"] + sums["z_loss"]) / jnp.maximum(sums["weight"], 1e-6) + auxiliary


def loss_and_more(model: VideoLanguageModel, batch: Any, budget: Any, key: Any, train: bool) -> Any:
    """The loss; logits and what went into the LLM beside it."""
    hidden, fused = model(batch, budget, key=key, train=train)
    loss = total_loss(model, hidden, fused.text, fused.vision.temporal_loss)
    return loss, (model.llm.logits(hidden), fused)


forward = jax.jit(loss_and_more, static_argnums=(2, 4))
with_gradients = jax.jit(jax.value_and_grad(loss_and_more, has_aux=True), static_argnums=(2, 4))


def dropped_tokens(config: Any, batch: Any, keep_patches: jax.Array) -> tuple[Any, Any]:
    """Whether each token of the rows before the prune is dropped, and its number among patches."""
    ids, pooling = batch["input_ids"], batch["token_pooling"]
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
        pooling = batch["token_pooling"]
        visual = model.connector(vision.plan.layout.lookup(vision.features, pooling), pooling >= 0)
        own = jax.vmap(lambda row, i: row[i])(visual, jnp.maximum(number, 0))
        embeddings = model.llm.embed(batch["input_ids"], jnp.dtype("float32"))
        embeddings += jnp.where((number >= 0)[..., None], own, 0)
        tokens = token_table(batch["input_ids"], batch["subsegment_ids"], config.llm)
        mask = attention_mask(tokens, tokens, config.llm.bidirectional).holds()
        mask = mask & ~dropped[:, None, :]
        hidden = model.llm(embeddings, batch["position_ids"], mask)
        total = total_loss(model, hidden, batch, vision.temporal_loss)
        return total, (model.llm.logits(hidden), dropped)

    return jax.value_and_grad(loss, has_aux=True)(model)


@pytest.fixture(scope="module", params=PACKINGS)
def dropped_and_masked(request: pytest.FixtureRequest) -> tuple[Any, Any, Any]:
    model, batch = small_model(small(prune__packing=request.param)), rows()
    return (
        with_gradients(model, batch, BUDGET, KEY, False),
        masked_instead(model, batch, BUDGET),
        batch,
    )


def test_the_rows_looked_at_hold_all_there_is():
    batch = numpy_rows()
    assert set(np.unique(batch["multimodal_type"])) == {-1, TEXT, IMAGE, VIDEO, MULTI_IMAGE}
    assert ((batch["num_images"] >= 0).sum(1) > 1).any()
    assert len(np.unique(batch["subsegment_ids"])) > 4
    k = tokens_to_prune(batch["num_images"], batch["multimodal_type"], SMALL.prune, 9)
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
        stay = (batch["input_ids"][row] >= 0) & ~dropped[row]
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
    return encode(
        model.vit,
        model.scorer,
        batch["images"],
        frames_of(batch, model.config),
        budget,
        model.config,
        dtype=jnp.dtype("float32"),
        key=KEY,
    )


@dataclass(frozen=True)
class Masked(DenseLayout):
    """Every patch in its place, and only those of `keep` (B, T, N) are seen."""

    keep: jax.Array | None = None

    def attend(self, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        return attention(query, key, value, mask=self.keep[..., None, :])


def masked_vit(model: VideoLanguageModel, batch: Any) -> tuple[jax.Array, jax.Array]:
    """A ViT that keeps every patch, and hides the ones that should be dropped after block l+1."""
    config, prune = model.config, model.config.prune
    x = model.vit.embed(batch["images"], jnp.dtype("float32"))
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
    counts, kinds = batch["num_images"], batch["multimodal_type"]
    k = tokens_to_prune(counts, kinds, config.prune, 9)
    assert (stays == np.maximum(counts, 0).sum(1) * 9 - k.sum(1)).all()
    tokens = (batch["input_ids"] >= 0).sum(1) - k.sum(1)
    assert (np.asarray(fused.tokens.valid).sum(1) == tokens).all()


def test_without_pruning_in_the_scorer_the_bias_stays_in_all_later_blocks(report_error):
    model, batch = small_model(small(prune__pruning_in_scorer=False)), rows()
    vision = forward(model, batch, BUDGET, KEY, False)[1][1].vision

    @jax.jit
    def plain(model: VideoLanguageModel, bias: jax.Array) -> jax.Array:
        x = model.vit.embed(batch["images"], jnp.dtype("float32"))
        x, first = model.vit.run(x, 0, 1, DenseLayout(), remat=False)
        _, rest = model.vit.run(x, 1, 4, DenseLayout(key_bias=bias), remat=False)
        return model.vit.concatenate(first | rest)

    error = worst(vision.features, plain(model, vision.plan.layout.key_bias))
    report_error("features", error, FEATURES)
    assert error <= FEATURES


# ------------------------------------------------------------------------- rows and compilations


def test_a_row_is_the_same_whatever_the_others_hold(report_error):
    first, second = numpy_rows(seed=0), numpy_rows(seed=1)
    mixed = {name: np.concatenate([second[name][1:], first[name][:1]]) for name in first}
    errors = []
    _, (logits, fused) = forward(small_model(), rows(), BUDGET, KEY, False)
    _, (other, other_fused) = forward(small_model(), on_device(mixed), BUDGET, KEY, False)
    assert (fused.source[0] == other_fused.source[-1]).all()
    errors.append(worst(other[-1], logits[0]))
    errors.append(worst(other_fused.vision.scores[-1], fused.vision.scores[0]))
    report_error("logits and scores", max(errors), LOGITS)
    assert max(errors) <= LOGITS


def test_ten_batches_of_different_content_compile_once(report_error):
    model = small_model(small(llm__residual_dropout=0.1))
    before = with_gradients._cache_size()
    contents = [(kind,) for kind in (VIDEO, IMAGE, MULTI_IMAGE, TEXT)] + [None] * 6
    counts = set()
    for seed, kinds in enumerate(contents):
        options = {"kinds": kinds} if kinds else {"empty_rows": seed % 4}
        batch = rows(seed=seed, **options)
        counts.add(np.asarray(batch["num_images"]).tobytes())
        (loss, _), gradients = with_gradients(model, batch, BUDGET, jax.random.key(seed), True)
        assert np.isfinite(loss)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    compilations = with_gradients._cache_size() - before
    report_error("compilations for ten batches", compilations, 1)
    assert len(contents) == 10 and len(counts) > 8
    assert compilations == 1


@pytest.mark.parametrize(
    ("method", "packing"),
    [
        ("scorer", "first_fit"),
        ("heuristic", "stream"),
        ("easy", "first_fit"),
        ("random", "stream"),
        ("none", "stream"),
    ],
)
def test_ten_contents_compile_once_with_every_method_and_packing(method, packing, report_error):
    """Forward passes, as gradients follow them; a function of its own, so that its cache is too."""
    topk = 0.0 if method == "none" else 0.5
    config = small(prune__method=method, prune__packing=packing, prune__topk=topk)
    model, step = small_model(config), jax.jit(partial(loss_and_more), static_argnums=(2, 4))
    counts = set()
    contents = [(kind,) for kind in (VIDEO, IMAGE, MULTI_IMAGE, TEXT)] + [None] * 6
    for seed, kinds in enumerate(contents):
        options = {"kinds": kinds} if kinds else {"empty_rows": seed % 4}
        batch = rows(config, seed=seed, **options)
        counts.add(np.asarray(batch["num_images"]).tobytes())
        loss, _ = step(model, batch, BUDGET, jax.random.key(seed), False)
        assert np.isfinite(loss), seed
    report_error("compilations for ten batches", step._cache_size(), 1)
    assert len(contents) == 10 and len(counts) > 6
    assert step._cache_size() == 1


@pytest.mark.parametrize("alike", ["frames", "patches"])
@pytest.mark.parametrize("packing", PACKINGS)
def test_frames_that_are_all_alike_lose_exactly_their_budget(packing, alike):
    """All similarities are 1, and all scores of a place (or of all places) are the same."""
    batch = numpy_rows()
    images = batch["images"]
    first = images[:, :1] if alike == "frames" else images[:, :1, :1]
    batch = on_device({**batch, "images": np.broadcast_to(first, images.shape)})
    model = small_model(small(prune__packing=packing))
    (loss, (logits, fused)), gradients = with_gradients(model, batch, BUDGET, KEY, False)
    counts, kinds = batch["num_images"], batch["multimodal_type"]
    k = np.asarray(tokens_to_prune(counts, kinds, SMALL.prune, 9))
    assert (k > 0).sum() > 1
    stays = np.asarray(fused.vision.plan.keep).sum((1, 2))
    assert (stays == np.maximum(counts, 0).sum(1) * 9 - k.sum(1)).all()
    assert (
        np.asarray(fused.tokens.valid).sum(1) == (batch["input_ids"] >= 0).sum(1) - k.sum(1)
    ).all()
    for array in (loss, logits, *jax.tree.leaves(gradients)):
        assert np.isfinite(array).all()


def test_bfloat16_is_near_float32(report_error):
    model = small_model(small(compute_dtype="bfloat16"))
    loss, (logits, fused) = forward(model, rows(), BUDGET, KEY, False)
    expected, _ = forward(small_model(), rows(), BUDGET, KEY, False)
    assert fused.embeddings.dtype == fused.vision.features.dtype == jnp.bfloat16
    assert logits.dtype == loss.dtype == jnp.float32
    error = abs(float(loss) - float(expected)) / float(expected)
    report_error("loss in bfloat16", error, 0.02)
    assert error <= 0.02


# ----------------------------------------------------------------------------- residual dropout


def dropped_share(plain: float, answer: float, key: Any = KEY) -> tuple[float, float, np.ndarray]:
    """Shares of zeros in prompts and in answers, and the result."""
    config = small(llm__residual_dropout=plain, llm__response_residual_dropout=answer).llm
    response = jnp.arange(400)[None] >= 200
    out = np.asarray(residual_dropout(config, response, key)(jnp.ones((1, 400, 64)), 0))
    return (out[0, :200] == 0).mean(), (out[0, 200:] == 0).mean(), out


# Of 12800 draws each; 0.015 is four standard deviations.
@pytest.mark.parametrize("rates", [(0.1, 0.3), (0.0, 0.2), (0.4, 0.2)])
def test_prompts_and_answers_drop_at_their_own_rates(rates):
    prompt, answer, out = dropped_share(*rates)
    assert prompt == pytest.approx(rates[0], abs=0.018)
    assert answer == pytest.approx(rates[1], abs=0.018)
    for part, rate in ((out[0, :200], rates[0]), (out[0, 200:], rates[1])):
        np.testing.assert_allclose(part[part > 0], 1 / (1 - rate), rtol=1e-6)


def test_answers_drop_like_prompts_without_a_rate_of_their_own():
    prompt, answer, _ = dropped_share(0.3, 0.0)
    assert prompt == pytest.approx(0.3, abs=0.018) and answer == pytest.approx(0.3, abs=0.018)


def test_nothing_is_dropped_without_a_key_or_a_rate():
    assert (dropped_share(0.3, 0.3, key=None)[2] == 1).all()
    assert (dropped_share(0.0, 0.0)[2] == 1).all()


def test_both_sub_layers_drop_differently():
    config = small(llm__residual_dropout=0.5).llm
    drop = residual_dropout(config, None, KEY)
    x = jnp.ones((1, 8, 64))
    assert (drop(x, 0) != drop(x, 1)).any()


def test_dropout_is_on_in_training_only():
    model = small_model(small(llm__residual_dropout=0.1))
    keys = KEY, jax.random.key(9)
    (first, _), (second, _) = (forward(model, rows(), BUDGET, key, True) for key in keys)
    (still, _), (again, _) = (forward(model, rows(), BUDGET, key, False) for key in keys)
    assert len({float(still), float(first), float(second)}) == 3
    assert still == again


# ------------------------------------------------------------------------------------ connector


@jax.jit
def connected(connector: Connector, slots: jax.Array, filled: jax.Array) -> jax.Array:
    return connector(slots, filled)


def windows(*filled: int) -> tuple[jax.Array, jax.Array]:
    """One row of tokens of 9 slots, of which that many are filled; the others hold rubbish."""
    rng = np.random.default_rng(4)
    slots = rng.normal(size=(1, len(filled), 9, 2 * SMALL.vit.width)).astype(np.float32)
    return jnp.asarray(slots), jnp.asarray(np.arange(9) < np.array(filled)[:, None])[None]


def test_windows_of_both_sizes_share_a_row(report_error):
    connector = small_model().connector
    slots, filled = windows(9, 4, 4, 9, 2)
    together = connected(connector, slots, filled)
    errors = []
    for size, tokens in ((9, [0, 3]), (4, [1, 2]), (2, [4])):
        own = slots[:, np.array(tokens), :size]
        alone = connected(connector, own, jnp.ones(own.shape[:-1], bool))
        errors.append(worst(together[:, np.array(tokens)], alone))
    report_error("pooled tokens", max(errors), FEATURES)
    assert max(errors) <= FEATURES


def test_a_token_without_any_slot_is_finite_and_has_finite_gradients():
    slots, filled = windows(9, 0)

    @jax.jit
    @partial(jax.value_and_grad, argnums=(0, 1))
    def run(connector: Connector, slots: jax.Array) -> jax.Array:
        return jnp.square(connector(slots, filled)).sum()

    loss, gradients = run(small_model().connector, slots)
    assert np.isfinite(loss) and all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
    assert not np.asarray(gradients[1])[0, 1].any()


# ---------------------------------------------------------------------------------------- masks

NAMES = {
    ".": -1,
    "t": 1,
    "S": SMALL.llm.special_token("<frame_start>"),
    "p": SMALL.llm.special_token("<im_patch>"),
    "E": SMALL.llm.special_token("<frame_end>"),
}


def truth_table(tokens: str, subsegments: list[int], mode: str) -> list[str]:
    """One line a query, `x` where it may look."""
    ids = jnp.array([[NAMES[token] for token in tokens]])
    table = token_table(ids, jnp.array([subsegments]), SMALL.llm)
    mask = attention_mask(table, table, mode).holds()[0]
    return ["".join("x" if seen else "-" for seen in line) for line in mask]


def test_causal_tokens_look_back():
    assert truth_table("tSpEt.", [0] * 6, "none") == [
        "x-----",
        "xx----",
        "xxx---",
        "xxxx--",
        "xxxxx-",
        "xxxxx-",  # padding may look, but is not seen
    ]


def test_image_tokens_look_at_each_other():
    assert truth_table("tSpEtSpt", [0] * 8, "image_tokens") == [
        "x-------",
        "xxxx-xx-",
        "xxxx-xx-",
        "xxxx-xx-",
        "xxxxx---",
        "xxxxxxx-",
        "xxxxxxx-",
        "xxxxxxxx",
    ]


def test_image_tokens_look_ahead_within_their_frame_only():
    assert truth_table("tSpEtSpt", [0] * 8, "within_image") == [
        "x-------",
        "xxxx----",
        "xxxx----",
        "xxxx----",
        "xxxxx---",
        "xxxxxxx-",
        "xxxxxxx-",
        "xxxxxxxx",
    ]


@pytest.mark.parametrize("mode", ["none", "image_tokens", "within_image"])
def test_branches_see_the_trunk_and_themselves(mode):
    """A video that two questions share, then another example."""
    subsegments = [10000] * 3 + [0, 0, 1, 1] + [100000] * 2
    first = {"none": ["x--", "xx-", "xxx"]}.get(mode, ["xxx"] * 3)
    assert truth_table("SpEttttSp", subsegments, mode) == [
        *(line + "------" for line in first),
        "xxxx-----",
        "xxxxx----",
        "xxx--x---",
        "xxx--xx--",
        "-------x-" if mode == "none" else "-------xx",
        "-------xx",
    ]


# ----------------------------------------------------------------------------------------- YaRN


def test_yarn_stretches_the_slow_frequencies_of_some_layers():
    config = load_config("molmo2_o_7b").model.llm
    frequencies, magnitudes = rotary_tables(config)
    plain = 5e5 ** (-np.arange(64) / 64.0)
    on = np.arange(32) % 4 == 3
    np.testing.assert_allclose(frequencies[~on], np.tile(plain, (24, 1)), rtol=1e-6)
    ramp = np.clip((np.arange(64) - 18) / 17, 0, 1)
    stretched = plain * (1 - ramp) + plain / 8 * ramp
    np.testing.assert_allclose(frequencies[on], np.tile(stretched, (8, 1)), rtol=1e-6)
    np.testing.assert_allclose(magnitudes[on], 1.2079441541679836, rtol=1e-7)
    assert (magnitudes[~on] == 1).all()
    assert math.isclose(1.2079441541679836, 0.1 * math.log(8) + 1)


# ----------------------------------------------------------------------- heads and reconfiguring


def test_a_tied_head_is_the_base_embedding():
    llm = small_model().llm
    hidden = jax.random.normal(KEY, (5, SMALL.llm.width))
    assert llm.head is None
    expected = np.asarray(hidden) @ np.asarray(llm.embedding[...]).T
    np.testing.assert_allclose(llm.logits(hidden), expected, atol=1e-5)


def test_an_untied_head_is_its_own():
    llm = small_model(small(llm__tied_head=False)).llm
    hidden = jax.random.normal(KEY, (5, SMALL.llm.width))
    expected = np.asarray(hidden) @ np.asarray(llm.head[...])
    np.testing.assert_allclose(llm.logits(hidden), expected, atol=1e-5)
    assert llm.logits(hidden).shape == (5, SMALL.llm.vocab_size)


def test_reconfiguring_shares_the_parameters():
    model = small_model()
    other = reconfigure(model, small(prune__topk=0.3))
    assert other.config.prune.topk == 0.3
    ours, theirs = named_parameters(model), named_parameters(other)
    assert ours.keys() == theirs.keys() and all(ours[name] is theirs[name] for name in ours)


def test_reconfiguring_leaves_a_scorer_out_that_is_not_needed():
    other = reconfigure(small_model(), small(prune__method="random"))
    assert other.scorer is None
    assert not any(name.startswith("scorer") for name in named_parameters(other))


def test_a_model_without_scorer_cannot_be_made_to_score():
    plain = reconfigure(small_model(), small(prune__method="random"))
    with pytest.raises(ConfigError, match=r"model\.prune\.method is 'scorer'.*fine-tune"):
        reconfigure(plain, SMALL)
