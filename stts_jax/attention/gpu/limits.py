"""The GPUs that there are kernels for, and the arrays that the kernels take."""

from __future__ import annotations

import jax

# Older GPUs have no fused attention in cuDNN, and no bfloat16.
LEAST_CAPABILITY = 8.0
HALF_TYPES = ("bfloat16", "float16")
WIDEST = 128
# Batch entries (frames, segments, windows) of one call: cuDNN has no plan for more, and CUDA's grid
# no room in its second and third dimension.
MOST_ROWS = 65_535


def unsupported_device(device: jax.Device) -> str | None:
    """Returns why a GPU cannot run the kernels, or None."""
    version = device.client.platform_version
    if "cuda" not in version.lower():
        return f"it needs CUDA, and this GPU's platform is '{version.splitlines()[0]}'"
    capability = device.compute_capability
    if float(capability) < LEAST_CAPABILITY:
        return f"it needs compute capability {LEAST_CAPABILITY}, and this GPU has {capability}"
    return None


def unsupported_heads(query: jax.Array, bias_columns: int = 0) -> str | None:
    """Returns why the kernels take no heads of this type and width, or None."""
    if query.dtype.name not in HALF_TYPES:
        return f"it computes in {' or '.join(HALF_TYPES)}, not in {query.dtype.name}"
    if query.shape[-1] + bias_columns > WIDEST:
        return f"heads are {query.shape[-1] + bias_columns} wide; it takes at most {WIDEST}"
    return None


def unsupported_rows(rows: int) -> str | None:
    """Returns why the kernels cannot take so many batch entries at once, or None."""
    return None if rows <= MOST_ROWS else f"of {rows} rows; it takes at most {MOST_ROWS}"


def unsupported_types(*arrays: jax.Array) -> str | None:
    """Returns why our own kernels cannot multiply arrays of these types, or None."""
    types = [array.dtype.name for array in arrays]
    if len(set(types)) == 1:
        return None
    return f"queries, keys and values are {', '.join(types)}; it multiplies those of one type"
