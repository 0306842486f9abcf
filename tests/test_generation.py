"""Answers: the cache against the full forward pass, rows of unequal length, sampling."""

from __future__ import annotations

import dataclasses
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import BUDGET, KEY, ROWS, SMALL, numpy_rows, on_device, rows, small_model
from model_cases import small_model_config as small
from random_batches import IMAGE, MULTI_IMAGE, TEXT, VIDEO
from reference_cases import worst

from stts_jax.batch import Batch
from stts_jax.data.packing.rows import pack_row, stack_rows
from stts_jax.inference import cpu_cache, decoding
from stts_jax.inference.agreement import token_agreement
from stts_jax.inference.cache import KeyValueCache
from stts_jax.inference.cpu_cache import CpuCache, decoding_cache
from stts_jax.inference.decoding import generate
from stts_jax.inference.likelihood import log_likelihoods
from stts_jax.inference.sampling import Sampling, sample
from stts_jax.model.int8_weights import in_int8
from stts_jax.model.llm import LanguageModel
from stts_jax.model.video_language_model import VideoLanguageModel, abstract_model
from stts_jax.parallel.mesh import make_mesh, parameter_shardings

# Worst seen: 4e-7.
HIDDEN = 2e-5
# Worst seen: 7e-8.
LIKELIHOOD = 1e-5
# Worst seen: 3e-7.
DIVERGENCE = 1e-5
NEW = 6
LONGER = dataclasses.replace(
    BUDGET, tokens=BUDGET.tokens + NEW, tokens_before=BUDGET.tokens_before + NEW
)
NO_END = -2  # an id that is never chosen
GREEDY = Sampling()
# With a head of its own a model of random parameters doesn't just repeat the last token.
UNTIED = small(llm__tied_head=False)


@cache
def answers(seed: int = 0, *, end_token: int = NO_END) -> np.ndarray:
    return answer(rows(seed=seed), end_token=end_token)


def answer(batch: Any, *, end_token: int = NO_END, model: Any = None, key: Any = KEY) -> np.ndarray:
    return np.asarray(
        generate(
            model or small_model(UNTIED),
            batch,
            BUDGET,
            max_new_tokens=NEW,
            end_token=end_token,
            sampling=GREEDY,
            key=key,
        )
    )


# ------------------------------------------------------------------- against the full forward pass


def with_answers(batch: Batch, said: np.ndarray) -> Batch:
    """The prompts with their answers as further text, in rows with room for it."""

    def padded(array: np.ndarray) -> np.ndarray:
        fill = 0 if array.dtype == np.float32 else -1
        return np.pad(array, ((0, 0), (0, NEW)), constant_values=fill)

    text, longer = batch.text, jax.tree.map(padded, batch.text)
    for row, length in enumerate((text.input_ids >= 0).sum(1)):
        place = slice(length, length + NEW)
        longer.input_ids[row, place] = said[row]
        last = text.position_ids[row, length - 1]
        longer.position_ids[row, place] = last + 1 + np.arange(NEW)
        longer.subsegment_ids[row, place] = text.subsegment_ids[row, length - 1]
    return dataclasses.replace(batch, text=longer)


@partial(jax.jit, static_argnums=2)
def all_logits(model: VideoLanguageModel, batch: Any, budget: Any) -> tuple[jax.Array, jax.Array]:
    hidden, fused = model(batch, budget, key=KEY)
    return model.llm.logits(hidden), fused.tokens.valid.sum(1)


@pytest.mark.parametrize("seed", [0, 1])
def test_every_token_is_the_one_a_full_forward_pass_would_choose(seed):
    said = answers(seed)
    batch = on_device(with_answers(numpy_rows(seed=seed), said))
    logits, lengths = all_logits(small_model(UNTIED), batch, LONGER)
    for row, length in enumerate(np.asarray(lengths)):
        chosen = np.asarray(logits)[row, length - NEW - 1 : length - 1].argmax(-1)
        assert (said[row] == chosen).all()
    assert len(np.unique(said)) > 4


def test_likelihoods_of_answers_are_those_of_a_full_forward_pass(report_error):
    prompts = numpy_rows(seed=0)
    count, model = len(prompts.text.input_ids), small_model(UNTIED)
    same = jax.tree.map(lambda array: np.repeat(array[:1], count, axis=0), prompts)
    said = np.random.default_rng(0).integers(1, UNTIED.llm.vocab_size, (count, NEW))
    logits, lengths = all_logits(model, on_device(with_answers(same, said)), LONGER)
    first = int(lengths[0]) - NEW - 1
    log_probabilities = jax.nn.log_softmax(np.asarray(logits, np.float32))[:, first : first + NEW]
    gained = np.take_along_axis(np.asarray(log_probabilities), said[..., None], axis=2)[..., 0]
    ends = [NEW, 2, 4][:count]
    answers = [list(map(int, row[:end])) for row, end in zip(said, ends, strict=False)]
    one = on_device(jax.tree.map(lambda array: array[:1], prompts))
    found = log_likelihoods(model, one, BUDGET, answers, KEY)
    expected = [gained[row, :end].sum() for row, end in enumerate(ends)]
    error = worst(found, np.array(expected))
    report_error("log-likelihoods of answers", error, LIKELIHOOD)
    assert error < LIKELIHOOD and len(found) == len(answers) > 1


def test_agreement_at_each_token_is_that_of_full_forward_passes(report_error):
    whole, model = small_model(UNTIED), in_int8(small_model(UNTIED))
    said = answers(0)
    batch = on_device(with_answers(numpy_rows(seed=0), said))
    logs = []
    for each in (whole, model):
        logits, lengths = all_logits(each, batch, LONGER)
        rows = [np.asarray(logits)[r, n - NEW - 1 : n - 1] for r, n in enumerate(map(int, lengths))]
        logs.append(np.asarray(jax.nn.log_softmax(np.array(rows, np.float32))))
    same, divergence = token_agreement(
        whole, model, on_device(numpy_rows(seed=0)), BUDGET, jnp.asarray(said), KEY
    )
    np.testing.assert_array_equal(same, logs[0].argmax(-1) == logs[1].argmax(-1))
    expected = (np.exp(logs[0]) * (logs[0] - logs[1])).sum(-1)
    error = worst(divergence, expected)
    report_error("divergence of tokens", error, DIVERGENCE)
    assert error < DIVERGENCE and expected.max() > 1e-4


LENGTH, PROMPT, CAPACITY = 12, 7, 16
OLMO = {"llm__norm_position": "post", "llm__qk_norm": "full", "llm__kv_heads": 4}


@cache
def full_pass(form: str) -> tuple[LanguageModel, tuple[jax.Array, ...], jax.Array]:
    """An LLM; embeddings, positions and mask; and the hidden states that it makes of them."""
    config = small(**(OLMO if form == "olmo3" else {})).llm
    x = jax.random.normal(KEY, (2, LENGTH, config.width))
    positions = jnp.arange(LENGTH)[None] + jnp.array([[0], [5]])
    causal = jnp.tril(jnp.ones((LENGTH, CAPACITY), bool))[None].repeat(2, 0)

    @jax.jit
    def make(key: jax.Array) -> tuple[LanguageModel, jax.Array]:
        llm = VideoLanguageModel(dataclasses.replace(SMALL, llm=config), key=key).llm
        return llm, llm(x, positions, causal[..., :LENGTH])

    llm, hidden = make(KEY)
    return llm, (x, positions, causal), hidden


@pytest.mark.parametrize("kind", [KeyValueCache, CpuCache])
@pytest.mark.parametrize("form", ["qwen3", "olmo3"])
def test_cached_steps_give_the_hidden_states_of_a_full_forward_pass(
    form, kind, report_error, monkeypatch
):
    """Teacher forcing, in the LLM alone, with room in the cache that stays unused."""
    monkeypatch.setattr(cpu_cache, "_LEAST_BYTES", 0 if kind is CpuCache else 2**24)
    llm, (x, positions, causal), full = full_pass(form)

    @jax.jit
    def in_steps(llm: LanguageModel) -> jax.Array:
        hidden, keys, values = llm.prefill(
            x[:, :PROMPT], positions[:, :PROMPT], causal[:, :PROMPT, :PROMPT], CAPACITY
        )
        cache = decoding_cache(KeyValueCache(keys, values), llm.blocks, CAPACITY - PROMPT)
        assert isinstance(cache, kind)
        steps = [hidden]
        for index in range(PROMPT, LENGTH):
            now = slice(index, index + 1)
            hidden, cache = llm.step(
                x[:, now], positions[:, now], causal[:, now], cache, jnp.int32(index)
            )
            steps.append(hidden)
        return jnp.concatenate(steps, axis=1)

    error = worst(in_steps(llm), full)
    report_error("hidden states", error, HIDDEN)
    assert error <= HIDDEN


def test_a_cpu_s_cache_answers_with_the_same_tokens(monkeypatch):
    monkeypatch.setattr(cpu_cache, "_LEAST_BYTES", 0)
    model, batch = small_model(UNTIED), rows()

    @jax.jit
    def found(model: VideoLanguageModel, batch: Any) -> jax.Array:
        state = decoding.start_decoding(model, batch, BUDGET, NEW, NO_END, GREEDY, KEY)
        return decoding.decode(model, state, NEW, NO_END, GREEDY)

    assert (np.asarray(found(model, batch)) == answers()).all()


@pytest.mark.parametrize(
    ("platform", "least", "most", "kind"),
    [
        ("cpu", 0, 0, CpuCache),
        ("cpu", 1, 9, KeyValueCache),
        ("cpu", -9, -1, KeyValueCache),
        ("gpu", 0, 0, KeyValueCache),
    ],
)
def test_a_cpu_has_its_own_cache_if_a_second_copy_of_the_blocks_is_small(
    monkeypatch, platform, least, most, kind
):
    blocks = jax.eval_shape(lambda: VideoLanguageModel(SMALL, key=KEY)).llm.blocks
    size = sum(4 * leaf.size for leaf in jax.tree.leaves(blocks))
    monkeypatch.setattr(cpu_cache, "_LEAST_BYTES", size + least)
    monkeypatch.setattr(cpu_cache, "MOST_BYTES", size + most)
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    keys = jnp.zeros((SMALL.llm.layers, 1, 3, 2, 4))
    found = jax.eval_shape(
        lambda cache, blocks: decoding_cache(cache, blocks, 1), KeyValueCache(keys, keys), blocks
    )
    assert isinstance(found, kind)


def test_the_cache_holds_only_what_the_prune_left():
    state = jax.eval_shape(
        lambda model, batch: decoding.start_decoding(model, batch, BUDGET, NEW, 0, GREEDY, KEY),
        abstract_model(SMALL),
        rows(),
    )
    llm = SMALL.llm
    capacity = BUDGET.tokens + NEW
    assert BUDGET.tokens < BUDGET.tokens_before
    assert state.cache.keys.shape == (llm.layers, ROWS, capacity, llm.kv_heads, llm.head_dim)
    assert state.cache.values.shape == state.cache.keys.shape
    assert state.tokens.valid.shape == (ROWS, capacity)


def test_a_step_writes_the_cache_in_place():
    """Of a cache that is much larger than anything else, a step has no second copy."""
    config = small(llm__layers=8)
    model = jax.eval_shape(lambda: VideoLanguageModel(config, key=KEY))
    state = jax.eval_shape(
        lambda model, batch: decoding.start_decoding(model, batch, BUDGET, 50_000, 0, GREEDY, KEY),
        model,
        rows(),
    )
    step = jax.jit(
        lambda model, state: decoding.decode_step(model, state, 0, GREEDY), donate_argnums=1
    )
    memory = step.lower(model, state).compile().memory_analysis()
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.cache))
    assert memory.alias_size_in_bytes >= size
    # One layer's keys and values are cut out to be looked at.
    assert memory.temp_size_in_bytes < size / 2


def test_a_model_that_devices_share_answers_as_on_one():
    mesh = make_mesh({"data": ROWS, "tensor": 2}, jax.devices()[: 2 * ROWS])
    model = small_model(UNTIED)
    shared = jax.device_put(model, parameter_shardings(model, mesh))
    assert (answer(rows(), model=shared) == answers()).all()


# -------------------------------------------------------------------------------- rows of a batch


def test_prompts_of_unequal_length_are_answered_as_if_alone():
    batch, together = numpy_rows(), answers()
    lengths = (batch.text.input_ids >= 0).sum(1)
    assert len(set(lengths)) == ROWS
    empty = pack_row([], BUDGET, SMALL)
    for row in range(ROWS):
        own = jax.tree.map(lambda array, row=row: array[row], batch)
        alone = stack_rows([own, *[empty] * (ROWS - 1)])
        assert (answer(on_device(alone))[0] == together[row]).all()


def test_ten_batches_of_prompts_compile_once(report_error):
    contents = [(kind,) for kind in (VIDEO, IMAGE, MULTI_IMAGE, TEXT)] + [None] * 6
    model = small_model(small(prune__rescale_bias_min=0.2))  # compiled for no other test
    before = decoding.program_to_answer(model)._cache_size()
    for seed, kinds in enumerate(contents):
        options = {"kinds": kinds} if kinds else {"empty_rows": seed % 3}
        said = answer(rows(seed=seed, **options), model=model, key=jax.random.key(seed))
        assert ((said >= 0) & (said < SMALL.llm.vocab_size) | (said == NO_END)).all()
    compilations = decoding.program_to_answer(model)._cache_size() - before
    report_error("compilations for ten batches", compilations, 1)
    assert len(contents) == 10 and compilations == 1


# -------------------------------------------------------------------------------------- stopping


@pytest.fixture(scope="module")
def stopped() -> tuple[int, np.ndarray, np.ndarray, list[int]]:
    """An end token that some answer holds; answers with it, of a batch and of padding; steps."""
    steps: list[int] = []
    step = decoding.decode_step

    def counted(*arguments: Any) -> Any:
        jax.debug.callback(lambda: steps.append(1))
        return step(*arguments)

    end = int(answers()[0, 2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "decode_step", counted)
        said = answer(rows(), end_token=end)
        jax.effects_barrier()
        taken = [len(steps)]
        padding = answer(rows(empty_rows=ROWS), end_token=end)
        jax.effects_barrier()
        taken.append(len(steps) - taken[0])
    return end, said, padding, taken


def test_an_answer_ends_at_its_end_token(stopped):
    end, said, _, _ = stopped
    for with_end, without in zip(said, answers(), strict=True):
        length = np.argmax(without == end) if end in without else NEW
        assert (with_end[:length] == without[:length]).all()
        assert (with_end[length:] == end).all()
    assert end in answers()[0, :3]


def test_decoding_stops_when_all_rows_have_ended(stopped):
    end, said, _, (steps, _) = stopped
    longest = max(int(np.argmax(row == end)) if end in row else NEW - 1 for row in said)
    assert steps == longest


def test_rows_of_padding_finish_at_once(stopped):
    end, _, padding, (_, steps) = stopped
    assert (padding == end).all()
    assert steps == 0


# -------------------------------------------------------------------------------------- sampling

PROBABILITIES = np.array([0.15, 0.5, 0.05, 0.3])
DRAWS = 4000


def shares(**settings: Any) -> np.ndarray:
    """How often each of four tokens is drawn."""
    logits = jnp.broadcast_to(jnp.log(jnp.asarray(PROBABILITIES)) + 3.0, (DRAWS, 4))
    drawn = sample(logits, Sampling(**settings), KEY)
    assert drawn.dtype == jnp.int32
    return np.bincount(np.asarray(drawn), minlength=4) / DRAWS


def expect(shares: np.ndarray, weights: list[float]) -> None:
    """Tokens of no weight are never drawn, the others in proportion (5 standard deviations)."""
    expected = np.array(weights) / np.sum(weights)
    assert (shares[expected == 0] == 0).all()
    np.testing.assert_allclose(shares, expected, atol=0.04)


def test_temperature_0_takes_the_most_probable():
    expect(shares(), [0, 1, 0, 0])


def test_temperature_1_draws_by_probability():
    expect(shares(temperature=1.0), PROBABILITIES)


def test_temperature_sharpens_and_flattens():
    expect(shares(temperature=0.5), PROBABILITIES**2)
    expect(shares(temperature=2.0), PROBABILITIES**0.5)


def test_top_k_draws_from_the_k_most_probable_only():
    expect(shares(temperature=1.0, top_k=2), [0, 0.5, 0, 0.3])
    expect(shares(temperature=1.0, top_k=1), [0, 1, 0, 0])


def test_top_k_beyond_the_vocabulary_draws_from_all():
    expect(shares(temperature=1.0, top_k=9), PROBABILITIES)


def test_top_p_includes_the_token_that_crosses_it():
    expect(shares(temperature=1.0, top_p=0.6), [0, 0.5, 0, 0.3])
    expect(shares(temperature=1.0, top_p=0.85), [0.15, 0.5, 0, 0.3])


def test_top_p_draws_from_one_token_at_least():
    expect(shares(temperature=1.0, top_p=0.01), [0, 1, 0, 0])


def test_top_p_measures_the_whole_distribution_also_after_top_k():
    """Of the two that top-k leaves, the first alone has 0.625."""
    expect(shares(temperature=1.0, top_k=2, top_p=0.6), [0, 0.5, 0, 0.3])


def test_a_key_gives_the_same_draws():
    settings = {"temperature": 1.0, "top_k": 3}
    assert (shares(**settings) == shares(**settings)).all()
