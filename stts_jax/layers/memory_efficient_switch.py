"""A switch whose backward pass needs no more memory than its largest branch.

Under differentiation, `jax.lax.switch` stores the residuals of all branches side by side, zeros for
those that don't run. Where branches compute the same at different sizes, that is several times too
much. Here branches share residual slots, each as large as the largest array stored in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

# (operands, constants) -> result.
Branch = Callable[[Any, Any], Any]
# A slot for a residual: dtype, number of axes, and how many like it come before.
Slot = tuple[str, int, int]


def memory_efficient_switch(
    index: jax.Array, branches: Sequence[Branch], operands: Any, constants: Any
) -> Any:
    """Runs one branch, like `jax.lax.switch`; the backward pass recomputes nothing.

    Args:
      index: () int, of the branch to run.
      branches: all return arrays of the same shapes, and close over no traced arrays.
      operands: arrays that are differentiated.
      constants: arrays that are not.
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
      structure: the treedef of the function that `jax.vjp` returns.
      arrays: shapes and dtypes of its residuals.
      inputs: for each residual the index of the input that it is, or None.
    """

    structure: Any
    arrays: list[jax.ShapeDtypeStruct]
    inputs: list[int | None]

    def sources(self, shared: Iterable[int]) -> list[int | Slot]:
        """Returns for each residual its input index, if that input is shared, or else its slot."""
        before: Counter[tuple[str, int]] = Counter()
        sources: list[int | Slot] = []
        for array, index in zip(self.arrays, self.inputs, strict=True):
            if index is not None and index in shared:
                sources.append(index)
                continue
            kind = (str(array.dtype), array.ndim)
            sources.append((*kind, before[kind]))
            before[kind] += 1
        return sources

    def run(self, inputs: dict[int, jax.Array], kept: dict[Slot, jax.Array], gradient: Any) -> Any:
        """Returns the gradients of the operands, from shared inputs and stored residuals."""
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
    indices = {id(leaf): n for n, leaf in enumerate(jax.tree.leaves((operands, constants)))}
    shapes = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays]
    return out, arrays, _Pullback(structure, shapes, [indices.get(id(array)) for array in arrays])


def _forward(
    branches: Sequence[Branch], operands: Any, constants: Any, index: jax.Array
) -> tuple[Any, Any]:
    given = operands, constants
    pullbacks = [jax.eval_shape(partial(_linearized, branch), *given)[2] for branch in branches]
    shared = set.intersection(*(set(own.inputs) - {None} for own in pullbacks))
    slots = _slots(pullbacks, shared)

    def run(branch: Branch, *given: Any) -> tuple[Any, dict[Slot, jax.Array]]:
        out, arrays, pullback = _linearized(branch, *given)
        own = dict(zip(pullback.sources(shared), arrays, strict=True))
        return out, {slot: _padded(own.get(slot), array) for slot, array in slots.items()}

    out, kept = jax.lax.switch(index, [partial(run, branch) for branch in branches], *given)
    leaves = jax.tree.leaves(given)
    return out, (index, {i: leaves[i] for i in shared}, kept, pullbacks)


def _backward(branches: Sequence[Branch], residuals: Any, gradient: Any) -> tuple[Any, None, None]:
    index, inputs, kept, pullbacks = residuals
    backward = [pullback.run for pullback in pullbacks]
    return jax.lax.switch(index, backward, inputs, kept, gradient), None, None


_switch.defvjp(_forward, _backward)


def _slots(
    pullbacks: Sequence[_Pullback], shared: Iterable[int]
) -> dict[Slot, jax.ShapeDtypeStruct]:
    """Returns for each slot an array large enough for every branch's residual in it."""
    slots: dict[Slot, jax.ShapeDtypeStruct] = {}
    for pullback in pullbacks:
        for source, array in zip(pullback.sources(shared), pullback.arrays, strict=True):
            if not isinstance(source, int):
                shape = map(max, array.shape, slots.get(source, array).shape)
                slots[source] = jax.ShapeDtypeStruct(tuple(shape), array.dtype)
    return slots


def _padded(array: jax.Array | None, slot: jax.ShapeDtypeStruct) -> jax.Array:
    """Pads the array with zeros to the size of its slot; all zeros if there is none."""
    zero = jnp.zeros((), slot.dtype)
    if array is None:
        return jnp.broadcast_to(zero, slot.shape)
    padding = [(0, to - size, 0) for size, to in zip(array.shape, slot.shape, strict=True)]
    return jax.lax.pad(array, zero, padding)
