"""What GPUs there are kernels for, and what arrays these take."""

from __future__ import annotations

import jax

from stts_jax.layers.attention.choice import kernel_refusal

# Older GPUs have no fused attention in cuDNN, and no bfloat16.
LEAST_CAPABILITY = 8.0
HALF_TYPES = ("bfloat16", "float16")
WIDEST = 128
# Rows (frames, segments, cells) of one call: cuDNN has no plan for more, and a grid no programs.
MOST_LEADS = 65_535


def gpu_refusal() -> str | None:
    """Why this machine's GPU, if that is what it has, isn't for its kernels, or None."""
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


def type_refusal(query: jax.Array, columns: int) -> str | None:
    """Why heads of this type and width, with columns for a bias, are none for them, or None."""
    if query.dtype.name not in HALF_TYPES:
        return f"it computes in {' or '.join(HALF_TYPES)}, not in {query.dtype.name}"
    if query.shape[-1] + columns > WIDEST:
        return f"heads are {query.shape[-1] + columns} wide; it takes at most {WIDEST}"
    return None


def leads_refusal(leads: int) -> str | None:
    """Why so many rows at a time are none for them, or None."""
    return None if leads <= MOST_LEADS else f"of {leads} rows; it takes at most {MOST_LEADS}"


def mixed_refusal(*arrays: jax.Array) -> str | None:
    """Why queries, keys and values of these types are none for our kernels, or None."""
    types = [array.dtype.name for array in arrays]
    if len(set(types)) == 1:
        return None
    return f"queries, keys and values are {', '.join(types)}; it multiplies those of one type"
