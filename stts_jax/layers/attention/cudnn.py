"""cuDNN's fused attention, for GPUs, by way of JAX."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from stts_jax.layers.attention.bias_columns import with_bias
from stts_jax.layers.attention.choice import kernel_refusal
from stts_jax.layers.attention.request import Request

# Widths of heads are a multiple of the one, and at most the other.
WIDTH_STEP, WIDEST = 8, 128
# Lengths are a multiple of this, or there is no gradient.
EVEN = 2
# Rows (frames, cells) of one call: cuDNN has no plan for more.
MOST_LEADS = 65_535
# Older GPUs have no fused attention.
LEAST_CAPABILITY = 8.0
HALF_TYPES = ("bfloat16", "float16")


def cudnn_refusal(request: Request) -> str | None:
    """Why it cannot do what is asked, or None."""
    return gpu_refusal() or cudnn_shape_refusal(request)


def gpu_refusal() -> str | None:
    """Why this machine's GPU, if that is what it has, isn't for cuDNN, or None."""
    device = jax.local_devices()[0]
    # Programs that are compiled for another machine's GPU are traced where there is none.
    here = device_refusal(device) if device.platform == "gpu" else None
    return kernel_refusal("gpu") or here


def device_refusal(device: jax.Device) -> str | None:
    """The same of a GPU."""
    version = device.client.platform_version
    if "cuda" not in version.lower():
        return f"it needs CUDA, and this GPU's platform is '{version.splitlines()[0]}'"
    capability = device.compute_capability
    if float(capability) < LEAST_CAPABILITY:
        return f"it needs compute capability {LEAST_CAPABILITY}, and this GPU has {capability}"
    return None


def cudnn_shape_refusal(request: Request) -> str | None:
    """The same of what holds for any device."""
    if request.mask is not None or request.segment_ids is not None:
        return "it would make a mask or segments an array as large as the scores"
    if request.lengths[0] == 1:
        return "one query looks at its keys sooner in one product"
    leads = leads_refusal(math.prod(request.query.shape[:-3]))
    return leads or type_refusal(request.query, columns=0 if request.key_bias is None else 2)


def leads_refusal(leads: int) -> str | None:
    """Why so many rows at a time are none for cuDNN, or None."""
    return None if leads <= MOST_LEADS else f"of {leads} rows; it takes at most {MOST_LEADS}"


def type_refusal(query: jax.Array, columns: int) -> str | None:
    """Why heads of this type and width, with columns for a bias, are none for cuDNN, or None."""
    if query.dtype.name not in HALF_TYPES:
        return f"it computes in {' or '.join(HALF_TYPES)}, not in {query.dtype.name}"
    if query.shape[-1] + columns > WIDEST:
        return f"heads are {query.shape[-1] + columns} wide; it takes at most {WIDEST}"
    return None


def cudnn_attention(request: Request) -> jax.Array:
    """What `attention` returns, for a request that `cudnn_shape_refusal` has nothing against."""
    query, key = with_bias(request.query, request.key, request.key_bias)
    leads, (queries, keys) = math.prod(query.shape[:-3]), request.lengths
    lengths: dict[str, jax.Array] = {}
    if queries % EVEN or keys % EVEN:
        lengths = {
            "query_seq_lengths": jnp.full(leads, queries, jnp.int32),
            "key_value_seq_lengths": jnp.full(leads, keys, jnp.int32),
        }
    causal = request.mask_kind == "causal"
    out = _fused(query, key, request.value, is_causal=causal, **lengths)
    return out.reshape(request.query.shape)


def cudnn_frames(
    query: jax.Array, key: jax.Array, value: jax.Array, lengths: jax.Array
) -> jax.Array:
    """Attention among the first places of each frame: (F, N, H, d) each, and (F,) lengths."""
    query, key = with_bias(query, key, None)
    return _fused(query, key, value, query_seq_lengths=lengths, key_value_seq_lengths=lengths)


def _fused(query: jax.Array, key: jax.Array, value: jax.Array, **options: object) -> jax.Array:
    """Of queries that have the scale in them; (leads, Lq, H, d of `value`)."""
    width = -(-query.shape[-1] // WIDTH_STEP) * WIDTH_STEP

    def plain(x: jax.Array) -> jax.Array:
        x = x.reshape(math.prod(x.shape[:-3]), *x.shape[-3:])
        return jnp.pad(x, ((0, 0), (0, -x.shape[1] % EVEN), (0, 0), (0, width - x.shape[-1])))

    out = jax.nn.dot_product_attention(
        plain(query), plain(key), plain(value), scale=1.0, implementation="cudnn", **options
    )
    return out[:, : query.shape[-3], :, : value.shape[-1]]
