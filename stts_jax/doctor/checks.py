"""All checks of this device, in the order in which they run: what tells most comes first."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from stts_jax.doctor.results import Check, Kind, Outcome
from stts_jax.doctor.sizes import Sizes


def all_checks(sizes: Sizes) -> list[Check]:
    """Returns all checks for the first device of this machine.

    What can't even be imported or prepared, as with another version of JAX, is a check that fails.
    """
    return [
        *_prepared("attention", "kernel", lambda: _attention(sizes)),
        *_prepared("rates", "rate", lambda: _rates(sizes)),
        *_prepared("blocks", "block", lambda: _blocks(sizes)),
        *_prepared("other attention", "kernel", lambda: _other_attention(sizes)),
    ]


def _prepared(name: str, kind: Kind, make: Callable[[], Iterable[Check]]) -> list[Check]:
    try:
        return list(make())
    except Exception as error:
        return [_raising(name, kind, error)]


def _raising(name: str, kind: Kind, error: Exception) -> Check:
    def run() -> Outcome:
        raise error

    return Check(name, kind, run)


# Imported when they are needed, so that one that fails leaves the others.


def _attention(sizes: Sizes) -> Iterable[Check]:
    from stts_jax.doctor.attention_cases import attention_cases
    from stts_jax.doctor.kernels import backend_check, kernel_checks
    from stts_jax.parallel.platform import compute_dtype

    cases = attention_cases(sizes, compute_dtype("auto"))
    yield from map(backend_check, cases)
    for case in cases:
        yield from kernel_checks(case, sizes)


def _other_attention(sizes: Sizes) -> Iterable[Check]:
    from stts_jax.doctor.attention_cases import attention_cases
    from stts_jax.doctor.kernels import kernel_checks
    from stts_jax.parallel.platform import compute_dtype

    for case in attention_cases(sizes, compute_dtype("auto")):
        yield from kernel_checks(case, sizes, spare=True)


def _rates(sizes: Sizes) -> Iterable[Check]:
    from stts_jax.doctor.rates import rate_checks

    return rate_checks(sizes)


def _blocks(sizes: Sizes) -> Iterable[Check]:
    from stts_jax.doctor.blocks import block_checks
    from stts_jax.parallel.platform import compute_dtype

    return block_checks(sizes, compute_dtype("auto"))
