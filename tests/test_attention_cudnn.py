"""The call of cuDNN for a request equals the plain float32 form, forward and gradient.

XLA computes it here in cuDNN's place, and differs in three ways; `as_cudnn` takes two of them away:
- XLA takes any type, width and length; cuDNN half types, widths of whole 8s and, to have a
  gradient, even lengths. This is asserted, but for types: float32 shows what bfloat16 would hide.
- Behind a length XLA gives zeros and no gradient. Of what cuDNN leaves there, in the output and in
  gradients, nothing is promised, nor of anything in a frame that is empty; so NaN is written there.
- XLA rounds weights to bfloat16 when they are a softmax, whole rows at once; a kernel that goes
  block by block rounds others. So in bfloat16 only what rounding leaves open is asked for.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_attention import FORWARD, GRADIENT, check, draw, plain_attention

from stts_jax.attention import segment_mask
from stts_jax.attention.gpu.cudnn import cudnn_attention, cudnn_stream_attention, frame_attention
from stts_jax.attention.requests import AttentionRequest, StreamRequest

BATCH, HEADS, KEY_HEADS, WIDTH = (2, 3), 4, 2, 12
# Worst seen: 1.6e-2 forward, 3.9e-2 gradients.
BFLOAT16 = 6e-2
TYPES = pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])


def tolerances(dtype):
    return (FORWARD, GRADIENT) if dtype == jnp.float32 else (BFLOAT16, BFLOAT16)


def behind(x, lengths):
    return jnp.arange(x.shape[1])[:, None, None] >= lengths[:, None, None, None]


@jax.custom_vjp
def undefined_gradient_behind(x, lengths):
    return x


undefined_gradient_behind.defvjp(
    lambda x, lengths: (x, lengths),
    lambda lengths, gradient: (jnp.where(behind(gradient, lengths), jnp.nan, gradient), None),
)


@pytest.fixture
def asked(monkeypatch):
    """`as_cudnn` in place of the real one; a list of the options of each call."""
    attend, calls = jax.nn.dot_product_attention, []

    def as_cudnn(query, key, value, *, implementation, **options):
        assert implementation == "cudnn"
        assert query.ndim == key.ndim == value.ndim == 4
        assert query.shape[-1] == key.shape[-1] == value.shape[-1]
        assert query.shape[-1] % 8 == query.shape[1] % 2 == key.shape[1] % 2 == 0
        calls.append(options)
        lengths = options.get("query_seq_lengths")
        if lengths is None:
            return attend(query, key, value, implementation="xla", **options)
        key_lengths = options["key_value_seq_lengths"]
        assert lengths.dtype == key_lengths.dtype == jnp.int32
        query = undefined_gradient_behind(query, lengths)
        key, value = (undefined_gradient_behind(x, key_lengths) for x in (key, value))
        out = attend(query, key, value, implementation="xla", **options)
        return jnp.where(behind(out, lengths), jnp.nan, out)

    monkeypatch.setattr(jax.nn, "dot_product_attention", as_cudnn)
    return calls


@TYPES
@pytest.mark.parametrize(
    ("queries", "keys", "kind"),
    [(37, 37, "full"), (37, 37, "causal"), (38, 38, "causal"), (1, 9, "full"), (6, 8, "full")],
)
@pytest.mark.parametrize("biased", [False, True], ids=["plain", "biased"])
def test_a_request_for_cudnn_equals_the_plain_form(
    queries, keys, kind, biased, dtype, asked, report_error
):
    shapes = ((*BATCH, queries, HEADS, WIDTH), *((*BATCH, keys, KEY_HEADS, WIDTH),) * 2)
    arrays, (bias, weights) = draw(0, *shapes, dtype=dtype), draw(1, (*BATCH, keys), shapes[0])
    mask = jnp.tril(jnp.ones((queries, keys), bool)) if kind == "causal" else None

    def cudnn(query, key, value, bias=None):
        return cudnn_attention(AttentionRequest(query, key, value, key_bias=bias, mask_kind=kind))

    check(
        cudnn,
        lambda q, k, v, b=None: plain_attention(q, k, v, mask, b),
        [*arrays, *([bias] if biased else [])],
        weights,
        report_error,
        *tolerances(dtype),
    )
    odd = bool(queries % 2 or keys % 2)
    assert all(("query_seq_lengths" in options) == odd for options in asked)


# A whole frame, an empty one, one token, and lengths of either kind.
FRAME, LENGTHS = 15, (15, 0, 1, 8, 11)


@TYPES
def test_frames_for_cudnn_equal_the_plain_form_within_their_lengths(dtype, asked, report_error):
    shape = (len(LENGTHS), FRAME, HEADS, WIDTH)
    arrays, (weights,) = draw(2, shape, shape, shape, dtype=dtype), draw(3, shape)
    lengths = jnp.asarray(LENGTHS, jnp.int32)
    inside = ~behind(weights, lengths)
    seen = jnp.broadcast_to(inside[:, None, :, 0, 0], (len(LENGTHS), FRAME, FRAME))

    def within(attend):
        """Large inputs behind a length, so that it shows if they have a part in anything."""
        return lambda *x: jnp.where(inside, attend(*(jnp.where(inside, a, 9) for a in x)), 0)

    check(
        within(lambda *x: frame_attention(*x, lengths)),
        within(lambda *x: plain_attention(*x, seen)),
        arrays,
        weights,
        report_error,
        *tolerances(dtype),
    )
    assert asked


@TYPES
def test_a_stream_for_cudnn_equals_attention_within_segments(dtype, asked, report_error):
    """Values that cuDNN leaves undefined reach neither the output nor a gradient."""
    length = sum(LENGTHS) + 4
    ids = np.concatenate([np.repeat(np.arange(len(LENGTHS)), LENGTHS), np.full(4, -1)])
    ids = jnp.asarray(np.stack([ids, np.full(length, -1)]), jnp.int32)
    shape = (2, length, HEADS, WIDTH)
    arrays, (weights,) = draw(4, shape, shape, shape, dtype=dtype), draw(5, shape)
    out, gradients = check(
        lambda *x: cudnn_stream_attention(StreamRequest(*x, ids, FRAME, len(LENGTHS))),
        lambda *x: plain_attention(*x, segment_mask(ids, ids)),
        arrays,
        weights,
        report_error,
        *tolerances(dtype),
    )
    padding = np.asarray(ids) < 0
    assert all((np.asarray(x)[padding] == 0).all() for x in (out, *gradients))
    assert asked
