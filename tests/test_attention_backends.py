"""Which backend is taken and why not another; the splash kernel, interpreted, and its bias."""

from __future__ import annotations

import logging

import jax.numpy as jnp
import numpy as np
import pytest
from test_attention import check, draw, plain_attention

from stts_jax.layers.attention import attention, backends
from stts_jax.layers.attention.masks import segment_mask
from stts_jax.layers.attention.request import Request
from stts_jax.layers.attention.splash import splash_attention, splash_shape_refusal

LENGTH, HEADS, KEY_HEADS, WIDTH = 200, 2, 1, 72
SHAPES = ((1, LENGTH, HEADS, WIDTH), (1, LENGTH, KEY_HEADS, WIDTH), (1, LENGTH, KEY_HEADS, WIDTH))
IDS = jnp.asarray(np.repeat([0, 1, 4, -1], [70, 1, 110, 19]).astype(np.int32))[None]
# Worst seen are printed with the tests; bfloat16 has 8 bits.
FLOAT32, BFLOAT16 = 2e-5, 6e-2


def small_request(**changes) -> Request:
    arrays = dict(zip(("query", "key", "value"), draw(0, *[(1, 4, 1, 8)] * 3), strict=True))
    return Request(**(arrays | changes))


# ----------------------------------------------------------------------------------- the choice


def test_auto_takes_plain_xla_on_this_machine_and_says_why_once(caplog):
    backends._log.cache_clear()
    with caplog.at_level(logging.INFO, logger=backends.__name__):
        assert backends.choose(small_request(), "auto").name == "xla"
        assert backends.choose(small_request(), "auto").name == "xla"
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["attention takes xla; not splash: it needs a TPU, and this is a cpu"]


def test_a_backend_asked_for_by_name_runs_or_raises():
    arrays = draw(0, *[(1, 4, 1, 8)] * 3)
    with pytest.raises(ValueError, match="'splash' cannot be used: it needs a TPU"):
        attention(*arrays, backend="splash")
    assert attention(*arrays, backend="xla").shape == arrays[0].shape


def test_an_unknown_backend_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="'flash' is unknown; use one of auto, splash, xla"):
        backends.choose(small_request(), "flash")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mask": jnp.ones((1, 4, 4), bool)}, "no mask but segment ids"),
        ({}, "4 places are fewer than its blocks of 128"),
        ({"query": jnp.ones((1, 1, 1, 8))}, "1 queries and 4 keys"),
    ],
)
def test_the_kernel_says_what_it_is_not_for(changes, reason):
    assert reason in splash_shape_refusal(small_request(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_kind": "prefix"}, "mask_kind is 'prefix'; use 'full' or 'causal'"),
        ({"query": jnp.ones((1, 4, 3, 8)), "key": jnp.ones((1, 4, 2, 8))}, "use a multiple"),
        ({"query": jnp.ones((1, 2, 1, 8)), "mask_kind": "causal"}, "give a mask instead"),
        ({"mask": jnp.ones((1, 4, 4), bool), "mask_kind": "causal"}, "let the mask say all of it"),
    ],
)
def test_arguments_that_do_not_go_together_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        small_request(**changes).check()


# --------------------------------------------------------------------------------- who sees whom


@pytest.mark.parametrize("kind", ["full", "causal"])
def test_segments_and_kind_of_mask_limit_who_sees_whom(kind, report_error):
    arrays, (weights,) = draw(1, *SHAPES), draw(2, SHAPES[0])
    mask = segment_mask(IDS, IDS)
    if kind == "causal":
        mask = mask & jnp.tril(jnp.ones((LENGTH, LENGTH), bool))
    check(
        lambda *x: attention(*x, segment_ids=IDS, mask_kind=kind),
        lambda *x: plain_attention(*x, mask),
        arrays,
        weights,
        report_error,
        FLOAT32,
        FLOAT32,
    )


# ------------------------------------------------------------------------ the kernel, interpreted


@pytest.mark.parametrize("kind", ["full", "causal"])
def test_splash_with_segments_and_bias_equals_the_plain_form(kind, report_error):
    arrays, (bias, weights) = draw(3, *SHAPES), draw(4, (1, LENGTH), SHAPES[0])
    mask = segment_mask(IDS, IDS)
    if kind == "causal":
        mask = mask & jnp.tril(jnp.ones((LENGTH, LENGTH), bool))

    def kernel(query, key, value, bias):
        request = Request(query, key, value, None, bias, IDS, kind)
        return splash_attention(request, interpret=True)

    out, gradients = check(
        kernel,
        lambda q, k, v, b: plain_attention(q, k, v, mask, b),
        [*arrays, bias],
        weights,
        report_error,
        FLOAT32,
        FLOAT32,
    )
    assert (out[0, -19:] == 0).all()
    assert all((gradient[0, -19:] == 0).all() for gradient in gradients)


def test_splash_in_bfloat16_holds_the_bias_in_two_columns(report_error):
    arrays = draw(5, *SHAPES, dtype=jnp.bfloat16)
    bias, weights = draw(6, (1, LENGTH), SHAPES[0])

    def kernel(query, key, value, bias):
        return splash_attention(Request(query, key, value, None, bias), interpret=True)

    check(
        kernel,
        lambda q, k, v, b: plain_attention(q, k, v, None, b),
        [*arrays, bias],
        weights,
        report_error,
        BFLOAT16,
        BFLOAT16,
    )
