"""Compiles programs that answer with bfloat16 parameters on a CPU: small, and fast enough.

XLA on a CPU computes bfloat16 in float32. Left alone it takes float32 copies of all stacked kernels
out of the loop over layers, twice the bytes of the parameters themselves
(docs/performance.md#at-full-size-on-one-machine). Parameters in float32 are compiled as elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from stts_jax.layers.linear import Linear
from stts_jax.layers.replace_linears import replace_linears
from stts_jax.parallel.platform import compiler_options

_HALF = jnp.dtype(jnp.bfloat16)


def jit_to_answer(
    function: Callable[..., Any], static_argnums: Sequence[int] = (), **settings: Any
) -> Any:
    """Returns `jax.jit` of a function of models, which on a CPU makes no copies of parameters.

    Args:
      function: its first argument is a model, or a part of one; others may be models too.
      static_argnums: see `jax.jit`.
      settings: others of `jax.jit`.
    """
    jit = partial(jax.jit, static_argnums=static_argnums, **settings)
    jitted = jit(function)

    @wraps(function)
    def of_half(*arguments: Any) -> Any:
        return function(*(_with_cpu_layers(argument) for argument in arguments))

    @wraps(function)
    def run(*arguments: Any) -> Any:
        return program_for(*arguments)(*arguments)

    def program_for(*arguments: Any) -> Any:
        options = compiler_options([each for each in arguments if isinstance(each, nnx.Module)])
        if options is None:
            return jitted
        if not programs:  # made late: the platform is known now
            programs.append(jit(of_half, compiler_options=options))
        return programs[0]

    programs: list[Any] = []
    run.program_for = program_for  # type: ignore[attr-defined]
    return run


def bind_to_answer(
    function: Callable[..., Any],
    models: Sequence[Any],
    static_argnums: Sequence[int] = (),
    **settings: Any,
) -> Any:
    """Returns what `jit_to_answer` does, of a function whose models stay the same.

    To find the arrays in a model takes longer than a small one's step, so they are found once.

    Args:
      function: its first argument is the tuple of models.
      models: models, or tuples of parts of them.
      static_argnums, settings: those of `jax.jit`; the models are argument 0.
    """
    leaves, structure = jax.tree.flatten(tuple(models))
    options = compiler_options(leaves)

    @wraps(function)
    def run(leaves: Any, *arguments: Any) -> Any:
        own = jax.tree.unflatten(structure, leaves)
        return function(tuple(map(_with_cpu_layers, own)) if options else own, *arguments)

    jitted = jax.jit(run, static_argnums=static_argnums, compiler_options=options, **settings)
    return partial(jitted, leaves)


class CpuLinear(Linear):
    """`Linear` whose bfloat16 products a CPU computes without a float32 copy of the kernel.

    Its library multiplies bfloat16 with sums in float32, but not into bfloat16, and no single row.
    """

    def __init__(self, linear: Linear) -> None:
        self.kernel, self.bias = linear.kernel, linear.bias

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the layer: (..., inputs) -> (..., outputs)."""
        kernel = self.kernel[...]
        if not x.dtype == kernel.dtype == _HALF:
            return super().__call__(x)
        rows = x.reshape(-1, x.shape[-1])
        count = len(rows)
        if count == 1:
            rows = jnp.pad(rows, ((0, 1), (0, 0)))
        y = jnp.dot(rows, kernel, preferred_element_type=jnp.float32)[:count].astype(x.dtype)
        y = y.reshape(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


def _with_cpu_layers(argument: Any) -> Any:
    if not isinstance(argument, nnx.Module):
        return argument
    return replace_linears(argument, lambda _, linear: CpuLinear(linear))
