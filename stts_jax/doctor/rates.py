"""The rates that the device reaches: products of matrices, and reading and writing its memory."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from stts_jax.doctor.device import compiled, seconds_of
from stts_jax.doctor.drawn import normal
from stts_jax.doctor.results import Check, Outcome
from stts_jax.doctor.sizes import Sizes
from stts_jax.fit.hardware import CHIPS
from stts_jax.training.flops import peak_flops

DTYPES = ("bfloat16", "float32")


def rate_checks(sizes: Sizes) -> list[Check]:
    """Returns the checks of products in each type, and of memory."""
    checks = [
        Check(f"products in {name}", "rate", lambda name=name: _products(sizes, name))  # type: ignore[misc]
        for name in DTYPES
    ]
    return [*checks, Check("memory", "rate", lambda: _memory(sizes))]


def _products(sizes: Sizes, dtype: str) -> Outcome:
    n = sizes.products
    x, y = normal(0, (n, n), (n, n), dtype=jnp.dtype(dtype))
    multiply = compiled(lambda x, y: x @ y)
    jax.block_until_ready(multiply(x, y))
    rate = 2.0 * n**3 / seconds_of(lambda: multiply(x, y), sizes.rounds)
    peak = peak_flops(jax.devices()[0].device_kind) if dtype == "bfloat16" else None
    values = {"shape": f"({n}, {n}) x ({n}, {n})", "dtype": dtype}
    return Outcome(values | _rates("tflops_per_second", rate / 1e12, peak and peak / 1e12))


def _memory(sizes: Sizes) -> Outcome:
    x = jnp.zeros(sizes.copied_bytes // 4, jnp.float32)
    add = compiled(lambda x: x + 1)
    jax.block_until_ready(add(x))
    rate = 2.0 * x.nbytes / seconds_of(lambda: add(x), sizes.rounds)
    chip = CHIPS.get(jax.devices()[0].device_kind)
    values = {"shape": f"{x.nbytes / 1e6:.0f} MB read and written", "dtype": "float32"}
    peak = None if chip is None else chip.memory_rate / 1e9
    return Outcome(values | _rates("gb_per_second", rate / 1e9, peak))


def _rates(name: str, rate: float, peak: float | None) -> dict[str, float | str | None]:
    return {"unit": name, "rate": rate, "peak": peak, "share": rate / peak if peak else None}
