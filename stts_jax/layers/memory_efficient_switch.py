"""A switch that keeps no more for the backward pass than its largest branch needs.

`jax.lax.switch` under gradient keeps the residuals of every branch, and fills all but one's with
zeros. If branches compute the same in different sizes, that is several times too much memory; here
they share buffers, each as large as the largest residual that it may hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

# Computes its result from operands and constants.
Branch = Callable[[Any, Any], Any]
# The buffer of a residual: dtype, number of axes, and how many like it come before.
Buffer = tuple[str, int, int]


def memory_efficient_switch(
    index: jax.Array, branches: Sequence[Branch], operands: Any, constants: Any
) -> Any:
    """Runs one branch, as `jax.lax.switch`; the backward pass recomputes nothing.

    Args:
      index: () int, of the branch to run.
      branches: all give arrays of the same shapes, and close over no traced arrays.
      operands: arrays that gradients pass to.
      constants: arrays that no gradients pass to.
    """
    if len(branches) == 1:
        return branches[0](operands, constants)
    return _switch(tuple(branches), operands, constants, index)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _switch(branches: Sequence[Branch], operands: Any, constants: Any, index: jax.Array) -> Any:
    return jax.lax.switch(index, branches, operands, constants)


@jax.tree_util.register_static
@dataclass(frozen=True, eq=False)
class _Pullback:
    """A branch's backward pass without its residuals.

    Attributes:
      structure: of the function that `jax.vjp` returns.
      arrays: shapes and dtypes of its arrays.
      inputs: for each of them, which of the branch's inputs it is, or None.
    """

    structure: Any
    arrays: list[jax.ShapeDtypeStruct]
    inputs: list[int | None]

    def sources(self, shared: Iterable[int]) -> list[int | Buffer]:
        """Returns for each array its input if that is a shared one, else its buffer."""
        before: Counter[tuple[str, int]] = Counter()
        sources: list[int | Buffer] = []
        for array, number in zip(self.arrays, self.inputs, strict=True):
            if number is not None and number in shared:
                sources.append(number)
                continue
            kind = (str(array.dtype), array.ndim)
            sources.append((*kind, before[kind]))
            before[kind] += 1
        return sources

    def run(
        self, inputs: dict[int, jax.Array], kept: dict[Buffer, jax.Array], gradient: Any
    ) -> Any:
        """Returns the gradients of the operands from shared inputs and kept residuals."""
        arrays = [
            inputs[source]
            if isinstance(source, int)
            else kept[source][tuple(map(slice, array.shape))]
            for source, array in zip(self.sources(inputs), self.arrays, strict=True)
        ]
        return jax.tree.unflatten(self.structure, arrays)(gradient)[0]


def _linearized(
    branch: Branch, operands: Any, constants: Any
) -> tuple[Any, list[jax.Array], _Pullback]:
    """Returns a branch's result, its residuals, and the rest of its backward pass."""
    out, pull = jax.vjp(lambda operands: branch(operands, constants), operands)
    arrays, structure = jax.tree.flatten(pull)
    numbers = {id(leaf): n for n, leaf in enumerate(jax.tree.leaves((operands, constants)))}
    shapes = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays]
    return out, arrays, _Pullback(structure, shapes, [numbers.get(id(array)) for array in arrays])


def _forward(
    branches: Sequence[Branch], operands: Any, constants: Any, index: jax.Array
) -> tuple[Any, Any]:
    given = operands, constants
    pullbacks = [jax.eval_shape(partial(_linearized, branch), *given)[2] for branch in branches]
    shared = set.intersection(*(set(own.inputs) - {None} for own in pullbacks))
    buffers = _buffer_shapes(pullbacks, shared)

    def run(branch: Branch, *given: Any) -> tuple[Any, dict[Buffer, jax.Array]]:
        out, arrays, pullback = _linearized(branch, *given)
        own = dict(zip(pullback.sources(shared), arrays, strict=True))
        return out, {buffer: _padded(own.get(buffer), like) for buffer, like in buffers.items()}

    out, kept = jax.lax.switch(index, [partial(run, branch) for branch in branches], *given)
    leaves = jax.tree.leaves(given)
    return out, (index, {number: leaves[number] for number in shared}, kept, pullbacks)


def _backward(branches: Sequence[Branch], residuals: Any, gradient: Any) -> tuple[Any, None, None]:
    index, inputs, kept, pullbacks = residuals
    backward = [pullback.run for pullback in pullbacks]
    return jax.lax.switch(index, backward, inputs, kept, gradient), None, None


_switch.defvjp(_forward, _backward)


def _buffer_shapes(
    pullbacks: Sequence[_Pullback], shared: Iterable[int]
) -> dict[Buffer, jax.ShapeDtypeStruct]:
    """Returns for each buffer the shape that holds the residuals of every branch."""
    buffers: dict[Buffer, jax.ShapeDtypeStruct] = {}
    for pullback in pullbacks:
        for source, array in zip(pullback.sources(shared), pullback.arrays, strict=True):
            if not isinstance(source, int):
                shape = map(max, array.shape, buffers.get(source, array).shape)
                buffers[source] = jax.ShapeDtypeStruct(tuple(shape), array.dtype)
    return buffers


def _padded(array: jax.Array | None, like: jax.ShapeDtypeStruct) -> jax.Array:
    """Pads the array with zeros to a buffer's shape; all zeros if there is no array."""
    zero = jnp.zeros((), like.dtype)
    if array is None:
        return jnp.broadcast_to(zero, like.shape)
    behind = [(0, to - size, 0) for size, to in zip(array.shape, like.shape, strict=True)]
    return jax.lax.pad(array, zero, behind)
