"""Runs each backend of attention that this device has, and compares it with the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

from stts_jax.attention.dispatch import Backend
from stts_jax.doctor.attention_cases import Arrays, AttentionCase
from stts_jax.doctor.device import compiled, seconds_of, shapes_of
from stts_jax.doctor.drawn import normal
from stts_jax.doctor.reference import Distance, distance
from stts_jax.doctor.results import Check, Outcome, one_line
from stts_jax.doctor.sizes import Sizes

Attend = Callable[[Arrays, Any], jax.Array]
NAMES = ("o", "dq", "dk", "dv", "dbias")


@dataclass(frozen=True)
class Limits:
    """The largest `Distance.row` of a result that is right.

    Attributes:
      forward: of the output.
      backward: of gradients.
    """

    forward: float
    backward: float


# float32: sums over thousands of terms in another order. bfloat16: products take and give values of
# 8 bits, an error of 2^-9 each, and the backward pass rounds p, ds and the output that makes delta.
# A key too many or too few in a row of n is 1 / sqrt(n), 0.016 of 4,000 keys. Worst measured, on a
# CPU by XLA and by our kernels and splash, interpreted: float32 2.3e-6 and 2.6e-6, bfloat16 0.0067
# and 0.026, the latter dq of queries that see one or two keys.
LIMITS = {
    "float32": Limits(2e-5, 1e-4),
    "bfloat16": Limits(0.012, 0.05),
}


def reasons(case: AttentionCase) -> dict[str, str | None]:
    """Returns why each backend can't compute a case on this device, None for those that can."""
    found: dict[str, str | None] = {}

    def look(arrays: Arrays, ids: Any) -> tuple[()]:
        request = case.request(arrays, ids)
        for backend in case.backends():
            try:
                found[backend.name] = backend.unsupported_reason(request)
            except Exception as error:
                found[backend.name] = f"asking it raised {one_line(error)}"
        return ()

    shapes_of(look, jax.eval_shape(case.arrays), jax.eval_shape(case.ids))
    return found


def backend_check(case: AttentionCase) -> Check:
    """Returns the check that says which backend `auto` takes for a case, and why no other."""

    def run() -> Outcome:
        found = reasons(case)
        taken = next((name for name, reason in found.items() if reason is None), None)
        raised = [f"{name}: {reason}" for name, reason in found.items() if "raised" in str(reason)]
        others = {name: reason for name, reason in found.items() if reason is not None}
        spare = [name for name, reason in found.items() if reason is None and name != taken]
        values = {"case": case.name, "taken": taken, "refused": others, "could_too": spare}
        missing = "" if taken else "no backend can compute it"
        return Outcome(values, "; ".join(raised) or missing)

    return Check(f"backend: {case.name}", "backend", run)


def kernel_checks(case: AttentionCase, sizes: Sizes, *, spare: bool = False) -> list[Check]:
    """Returns a check for each backend that can compute a case on this device.

    Args:
      case: to compute.
      sizes: of it.
      spare: the plain backends that `auto` doesn't take, instead of the one that it takes and of
        all kernels.
    """
    found = reasons(case)
    able = [backend for backend in case.backends() if found[backend.name] is None]
    plain = [backend for backend in able[1:] if backend.platform is None]
    wanted = plain if spare else [backend for backend in able if backend not in plain]
    return [_kernel_check(case, backend, sizes) for backend in wanted]


def _kernel_check(case: AttentionCase, backend: Backend[Any], sizes: Sizes) -> Check:
    return Check(f"{backend.name}: {case.name}", "kernel", lambda: compare(case, backend, sizes))


def compare(case: AttentionCase, backend: Backend[Any], sizes: Sizes) -> Outcome:
    """Computes a case by a backend, forward and backward, compares and times it."""
    arrays, ids, do, expected = _expected(case)
    attend = attending(case, backend)
    distances, seconds = {}, {}
    if case.backward:
        both = compiled(lambda arrays, ids, do: with_gradients(attend, arrays, ids, do))
        found = both(arrays, ids, do)
        distances = dict(zip(NAMES, map(distance, found, expected), strict=False))
        seconds["with_gradients"] = seconds_of(lambda: both(arrays, ids, do), sizes.rounds)
    if sizes.alone or not case.backward:
        # Another program, which keeps nothing for a backward pass.
        forward = compiled(attend)
        distances["o alone"] = distance(forward(arrays, ids), expected[0])
        seconds["forward"] = seconds_of(lambda: forward(arrays, ids), sizes.rounds)
    limits = LIMITS[arrays[0].dtype.name]
    heads, width = arrays[0].shape[-2:]
    flops = 4.0 * case.pairs * heads * width
    values = {
        "case": case.name,
        "backend": backend.name,
        "shape": case.shape,
        "dtype": arrays[0].dtype.name,
        "errors": {name: asdict(own) for name, own in distances.items()},
        "limits": {"forward": limits.forward, "backward": limits.backward},
        "run_seconds": seconds,
        "forward_tflops_per_second": flops / seconds["forward"] / 1e12
        if "forward" in seconds
        else None,
    }
    return Outcome(values, _difference(distances, limits))


def _difference(distances: Mapping[str, Distance], limits: Limits) -> str:
    """Returns a sentence on the results beyond their limits, empty if there are none."""
    wrong = []
    for name, own in distances.items():
        limit = limits.forward if name.startswith("o") else limits.backward
        if not own.row <= limit:
            wrong.append(f"{name} is off by {own.row:.2g} (at most {limit:g})")
    return ", ".join(wrong)


def attending(case: AttentionCase, backend: Backend[Any]) -> Attend:
    """Returns the function of arrays and ids that computes a case by a backend."""
    return lambda arrays, ids: backend.run(case.request(arrays, ids))


def with_gradients(attend: Attend, arrays: Arrays, ids: Any, do: jax.Array) -> Arrays:
    """Returns the output, and the gradients of the arrays from that of the output."""
    out, pull = jax.vjp(lambda *arrays: attend(arrays, ids), *arrays)
    return out, *pull(do.astype(out.dtype))


# The backends of a case come one after the other, so its inputs and reference are made once.
@lru_cache(maxsize=1)
def _expected(case: AttentionCase) -> tuple[Arrays, Any, jax.Array, Arrays]:
    """Returns arrays, ids, the gradient of the output, and the reference's output and gradients."""
    arrays, ids = case.arrays(), case.ids()
    exact = tuple(x.astype(jnp.float32) for x in arrays)
    (do,) = normal(7, arrays[0].shape, dtype=arrays[0].dtype)
    if case.backward:
        plain = compiled(lambda exact, ids, do: with_gradients(case.reference, exact, ids, do))
        return arrays, ids, do, plain(exact, ids, do)
    return arrays, ids, do, (compiled(case.reference)(exact, ids),)
