"""The model as a whole: sizes, rows, masks, residual dropout, connector, and compiling once."""

from __future__ import annotations

import dataclasses
import math
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import (
    BUDGET,
    KEY,
    SIZES,
    SMALL,
    VIT,
    numpy_rows,
    on_device,
    rows,
    small_model,
)
from model_cases import small_model_config as small
from model_checks import FEATURES, LOGITS, PACKINGS, forward, loss_and_more, with_gradients
from random_batches import IMAGE, MULTI_IMAGE, TEXT, VIDEO
from reference_cases import worst

from stts_jax.budget import tokens_to_prune
from stts_jax.config import ConfigError, config_names, load_config
from stts_jax.layers.attention_mask import attention_mask, token_table
from stts_jax.layers.rotary import rotary_tables
from stts_jax.model.connector import Connector
from stts_jax.model.llm import residual_dropout
from stts_jax.model.video_language_model import VideoLanguageModel, reconfigure
from stts_jax.parallel.parameters import count_parameters, named_parameters

# ------------------------------------------------------------------------------ published sizes

SCORER = 33_766_769


@cache
def abstract(config: Any) -> VideoLanguageModel:
    return jax.eval_shape(lambda: VideoLanguageModel(config, key=KEY))


@pytest.mark.parametrize("name", [n for n in config_names() if n.split("_stts")[0] in SIZES])
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


# ------------------------------------------------------------------------- rows and compilations


def test_a_row_is_the_same_whatever_the_others_hold(report_error):
    first, second = numpy_rows(seed=0), numpy_rows(seed=1)
    mixed = jax.tree.map(lambda a, b: np.concatenate([b[1:], a[:1]]), first, second)
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
        counts.add(np.asarray(batch.num_images).tobytes())
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
    config = small(prune__method=method, prune__layout=packing, prune__topk=topk)
    model, step = small_model(config), jax.jit(partial(loss_and_more), static_argnums=(2, 4))
    counts = set()
    contents = [(kind,) for kind in (VIDEO, IMAGE, MULTI_IMAGE, TEXT)] + [None] * 6
    for seed, kinds in enumerate(contents):
        options = {"kinds": kinds} if kinds else {"empty_rows": seed % 4}
        batch = rows(config, seed=seed, **options)
        counts.add(np.asarray(batch.num_images).tobytes())
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
    images = batch.images
    first = images[:, :1] if alike == "frames" else images[:, :1, :1]
    batch = on_device(dataclasses.replace(batch, images=np.broadcast_to(first, images.shape)))
    model = small_model(small(prune__layout=packing))
    (loss, (logits, fused)), gradients = with_gradients(model, batch, BUDGET, KEY, False)
    counts, kinds = batch.num_images, batch.multimodal_type
    k = np.asarray(tokens_to_prune(counts, kinds, SMALL.prune, 9))
    assert (k > 0).sum() > 1
    stays = np.asarray(fused.vision.plan.keep).sum((1, 2))
    assert (stays == np.maximum(counts, 0).sum(1) * 9 - k.sum(1)).all()
    assert (
        np.asarray(fused.tokens.valid).sum(1) == (batch.text.input_ids >= 0).sum(1) - k.sum(1)
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
