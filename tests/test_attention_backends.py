"""The backend that is taken, and why no other; the splash kernel, interpreted, and its bias."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_attention import check, draw, plain_attention

from stts_jax.attention import (
    IndexMask,
    MaskSpec,
    TokenMaskIds,
    attention,
    dispatch,
    segment_mask,
    stream_attention,
)
from stts_jax.attention.dispatch import BACKENDS, STREAM_BACKENDS
from stts_jax.attention.gpu import cudnn
from stts_jax.attention.gpu.limits import unsupported_device, unsupported_types
from stts_jax.attention.requests import AttentionRequest, StreamRequest
from stts_jax.attention.softmax import with_bias_columns
from stts_jax.attention.tpu import splash
from stts_jax.attention.tpu.splash import splash_attention
from stts_jax.parallel.mesh import make_mesh, on_mesh

LENGTH, HEADS, KEY_HEADS, WIDTH = 200, 2, 1, 72
SHAPES = ((1, LENGTH, HEADS, WIDTH), (1, LENGTH, KEY_HEADS, WIDTH), (1, LENGTH, KEY_HEADS, WIDTH))
IDS = jnp.asarray(np.repeat([0, 1, 4, -1], [70, 1, 110, 19]).astype(np.int32))[None]
# Worst seen are printed with the tests; bfloat16 has 8 bits.
FLOAT32, BFLOAT16 = 2e-5, 6e-2


def small_request(**changes) -> AttentionRequest:
    arrays = dict(zip(("query", "key", "value"), draw(0, *[(1, 4, 1, 8)] * 3), strict=True))
    return AttentionRequest(**(arrays | changes))


def chosen(name: str) -> str:
    return dispatch.select_backend(BACKENDS, "attention", small_request(), name).name


# ----------------------------------------------------------------------------------- the dispatch


def test_auto_takes_plain_xla_on_this_machine_and_says_why_once(caplog):
    dispatch._log.cache_clear()
    with caplog.at_level(logging.INFO, logger=dispatch.__name__):
        assert chosen("auto") == "xla"
        assert chosen("auto") == "xla"
    # Threads of another test, whose disk was full, may still have something to say.
    said = [record for record in caplog.records if record.name == dispatch.__name__]
    messages = [record.getMessage() for record in said]
    assert messages == [
        "attention takes xla; not stream_tpu: it needs a TPU, and this is a cpu; "
        "not splash: it needs a TPU, and this is a cpu; "
        "not flash_tpu: it needs a TPU, and this is a cpu; "
        "not cudnn: it needs a GPU, and this is a cpu; "
        "not flash_gpu: it needs a GPU, and this is a cpu"
    ]


def test_a_backend_asked_for_by_name_runs_or_raises():
    arrays = draw(0, *[(1, 4, 1, 8)] * 3)
    with pytest.raises(ValueError, match="'splash' cannot be used: it needs a TPU"):
        attention(*arrays, backend="splash")
    assert attention(*arrays, backend="xla").shape == arrays[0].shape


def test_an_unknown_backend_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="'flash' is unknown; use one of auto, stream_tpu, "):
        chosen("flash")


def test_a_former_name_finds_its_backend_and_is_told_the_new_one(caplog):
    dispatch._log_renamed.cache_clear()
    with pytest.raises(ValueError, match="'place_kernel' cannot be used: it needs a TPU"):
        chosen("place_kernel")
    messages = [record.getMessage() for record in caplog.records]
    assert "attention backend 'place_kernel' is now called 'flash_tpu'" in messages


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mask": jnp.ones((1, 4, 4), bool)}, "no mask but segment ids"),
        ({}, "4 tokens are fewer than its blocks of 128"),
        ({"query": jnp.ones((1, 1, 1, 8))}, "1 queries and 4 keys"),
    ],
)
def test_the_kernel_says_what_it_is_not_for(changes, reason):
    assert reason in splash.unsupported(small_request(**changes))


HALF = jnp.bfloat16


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"segment_ids": jnp.zeros((1, 4), jnp.int32)}, "an array as large as the scores"),
        ({}, "not in float32"),
        ({"query": jnp.ones((1, 4, 1, 136), HALF)}, "heads are 136 wide"),
        ({"query": jnp.ones((1, 4, 1, 128), HALF), "key_bias": jnp.ones((1, 4))}, "130 wide"),
        ({"query": jnp.ones((1, 1, 1, 72), HALF)}, "for one query a single product"),
        ({"query": jnp.ones((65_536, 2, 1, 8), HALF)}, "of 65536 rows; it takes at most 65535"),
        ({"query": jnp.ones((1, 4, 1, 72), HALF), "key_bias": jnp.ones((1, 4))}, None),
    ],
)
def test_cudnn_says_what_it_is_not_for(changes, reason):
    reason_given = cudnn.unsupported(small_request(**changes))
    assert reason_given is None if reason is None else reason in reason_given


@pytest.mark.parametrize(
    ("platform", "capability", "reason"),
    [
        ("PJRT C API\ncuda 13000", "9.0", None),
        ("cuda 13000", "7.5", "compute capability 8.0, and this GPU has 7.5"),
        ("rocm 60300", "gfx90a", "it needs CUDA, and this GPU's platform is 'rocm 60300'"),
    ],
)
def test_kernels_are_not_for_every_gpu(platform, capability, reason):
    client = SimpleNamespace(platform_version=platform)
    reason_given = unsupported_device(SimpleNamespace(client=client, compute_capability=capability))
    assert reason_given is None if reason is None else reason in reason_given


def test_gpu_kernels_multiply_halves_of_one_type():
    half, other = jnp.ones((1,), HALF), jnp.ones((1,), jnp.float16)
    assert unsupported_types(half, half, half) is None
    assert "are bfloat16, float16, bfloat16" in unsupported_types(half, other, half)


@pytest.mark.parametrize("name", ["stream_gpu", "cudnn"])
def test_a_gpu_takes_no_more_segments_than_a_grid_has_programs(name, monkeypatch):
    monkeypatch.setattr(dispatch, "unsupported_platform", lambda platform: None)
    (backend,) = (own for own in STREAM_BACKENDS if own.name == name)
    arrays, ids = [jnp.ones((2, 4, 1, 8), HALF)] * 3, jnp.zeros((2, 4), jnp.int32)
    assert backend.unsupported_reason(StreamRequest(*arrays, ids, 4, 32_767)) is None
    reason_given = backend.unsupported_reason(StreamRequest(*arrays, ids, 4, 32_768))
    assert reason_given == "of 65536 rows; it takes at most 65535"


def test_one_device_of_several_may_run_a_kernel_where_its_mesh_says_so(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert "no mesh is set" in dispatch.unsupported_platform("tpu")
    with on_mesh(make_mesh(devices=jax.devices()[:1])):
        assert dispatch.unsupported_platform("tpu") is None


@pytest.mark.parametrize(
    ("platform", "asked", "name"),
    [
        ("tpu", "frames", "stream_tpu"),
        ("tpu", "bins", "splash"),
        ("tpu", "tokens", "flash_tpu"),
        ("tpu", "stream", "stream_tpu"),
        ("gpu", "frames", "cudnn"),
        ("gpu", "bins", "flash_gpu"),
        ("gpu", "tokens", "flash_gpu"),
        ("gpu", "stream", "stream_gpu"),
    ],
)
def test_a_chip_takes_its_kernel_unasked(platform, asked, name, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    arrays, ids = [jnp.ones((1, LENGTH, HEADS, WIDTH), HALF)] * 3, jnp.zeros((1, LENGTH), jnp.int32)
    token_ids = TokenMaskIds(index=ids)
    requests = {
        "frames": AttentionRequest(*arrays, key_bias=jnp.ones((1, LENGTH))),
        "bins": AttentionRequest(*arrays, segment_ids=ids),
        "tokens": AttentionRequest(*arrays, IndexMask(token_ids, token_ids, MaskSpec(causal=True))),
        "stream": StreamRequest(*arrays, ids, LENGTH, 1),
    }
    backends = STREAM_BACKENDS if asked == "stream" else BACKENDS
    with on_mesh(make_mesh(devices=jax.devices()[:1])):
        assert dispatch.select_backend(backends, "attention", requests[asked], "auto").name == name


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        ("stream_tpu", "it needs a TPU"),
        ("stream_gpu", "it needs a GPU"),
        ("cudnn", "it needs a GPU"),
        ("segments", "too short"),
    ],
)
def test_a_backend_of_streams_asked_for_by_name_says_why_not(backend, reason):
    arrays, ids = draw(0, *[(1, 4, 1, 8)] * 3), jnp.zeros((1, 4), jnp.int32)
    with pytest.raises(ValueError, match=f"streams backend '{backend}' cannot be used: .*{reason}"):
        stream_attention(*arrays, ids, longest_segment=4, segments=1, backend=backend)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_kind": "prefix"}, "mask_kind is 'prefix'; use 'full' or 'causal'"),
        ({"query": jnp.ones((1, 4, 3, 8)), "key": jnp.ones((1, 4, 2, 8))}, "use a multiple"),
        ({"query": jnp.ones((1, 2, 1, 8)), "mask_kind": "causal"}, "give a mask instead"),
        (
            {"mask": jnp.ones((1, 4, 4), bool), "mask_kind": "causal"},
            "express all of it in the mask",
        ),
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
        request = AttentionRequest(query, key, value, None, bias, IDS, kind)
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
        return splash_attention(AttentionRequest(query, key, value, None, bias), interpret=True)

    check(
        kernel,
        lambda q, k, v, b: plain_attention(q, k, v, None, b),
        [*arrays, bias],
        weights,
        report_error,
        BFLOAT16,
        BFLOAT16,
    )


@pytest.mark.parametrize("hidden", [-np.inf, np.finfo(np.float32).min, -1e9])
@pytest.mark.parametrize("dtype", [jnp.float32, HALF, jnp.float16], ids=lambda x: x.__name__)
def test_a_bias_may_hide_keys(hidden, dtype, report_error):
    """With its gradient, whatever of its size a column can hold."""
    shape = (1, 6, 2, 8)
    arrays, (bias, weights) = draw(7, shape, shape, shape, dtype=dtype), draw(8, (1, 6), shape)
    seen = jnp.asarray([[True, False, True, True, False, True]])

    def columns(query, key, value, bias):
        query, key = with_bias_columns(query, key, jnp.where(seen, bias, hidden))
        scale = query.shape[-1] ** 0.5
        return plain_attention(query.astype(jnp.float32) * scale, key, value)

    _, gradients = check(
        columns,
        lambda q, k, v, b: plain_attention(q, k, v, seen[:, None], b),
        [*arrays, bias],
        weights,
        report_error,
        *((FLOAT32, FLOAT32) if dtype == jnp.float32 else (BFLOAT16, BFLOAT16)),
    )
    assert (gradients[3][~seen] == 0).all()


def test_a_row_whose_keys_are_all_hidden_by_their_bias_stays_finite():
    query, key = draw(9, *[(1, 6, 2, 8)] * 2, dtype=HALF)
    columns = with_bias_columns(query, key, jnp.full((1, 6), -jnp.inf))
    assert all(bool(jnp.isfinite(x).all()) for x in columns)
    assert bool(jnp.isfinite(plain_attention(*columns, key)).all())
