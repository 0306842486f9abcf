"""What GPUs there are kernels for, and what arrays these take."""

from __future__ import annotations

import jax

from stts_jax.layers.attention.choice import kernel_refusal

# Older GPUs have no fused attention in cuDNN, and no bfloat16.
LEAST_CAPABILITY = 8.0
HALF_TYPES = ("bfloat16", "float16")
WIDEST = 128
# Numbers of an array: our kernels count them in 32 bits.
MOST_NUMBERS = 2**31 - 1


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


def size_refusal(query: jax.Array) -> str | None:
    """Why there are too many numbers for one of our kernels, or None."""
    if query.size <= MOST_NUMBERS:
        return None
    return f"of {query.size} numbers; it counts up to {MOST_NUMBERS}"
