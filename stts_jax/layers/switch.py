"""One of several branches, of which the backward pass keeps no more than the largest needs.

`jax.lax.switch` under gradient keeps what each branch would keep, side by side, and fills all but
one with zeros. Where branches do the same in different sizes that is several times too much; here
they keep their arrays in the same places, each as large as the largest that may lie there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

# Makes its result of operands and constants.
Branch = Callable[[Any, Any], Any]
# Where an array is kept: dtype, number of axes, and how many like it come before.
Place = tuple[str, int, int]


def switch(index: jax.Array, branches: Sequence[Branch], operands: Any, constants: Any) -> Any:
    """As `jax.lax.switch`; nothing is computed a second time in the backward pass.

    Args:
      index: () int, of the branch to run.
      branches: all give arrays of the same shapes, and close over no traced arrays.
      operands: arrays that gradients pass to.
      constants: arrays that none pass to.
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
    """A branch's backward pass without the arrays that it needs.

    Attributes:
      structure: of the function that `jax.vjp` gives.
      arrays: shapes and dtypes of its arrays.
      inputs: for each of them, which of the branch's inputs it is, or None.
    """

    structure: Any
    arrays: list[jax.ShapeDtypeStruct]
    inputs: list[int | None]

    def sources(self, shared: Iterable[int]) -> list[int | Place]:
        """For each array its input, if that is a shared one, or else its place."""
        before: Counter[tuple[str, int]] = Counter()
        sources: list[int | Place] = []
        for array, number in zip(self.arrays, self.inputs, strict=True):
            if number is not None and number in shared:
                sources.append(number)
                continue
            kind = (str(array.dtype), array.ndim)
            sources.append((*kind, before[kind]))
            before[kind] += 1
        return sources

    def run(self, inputs: dict[int, jax.Array], kept: dict[Place, jax.Array], gradient: Any) -> Any:
        """Gradients of the operands, of shared inputs and of what is kept."""
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
    """What a branch gives, the arrays that its backward pass needs, and the rest of that."""
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
    rooms = _rooms(pullbacks, shared)

    def run(branch: Branch, *given: Any) -> tuple[Any, dict[Place, jax.Array]]:
        out, arrays, pullback = _linearized(branch, *given)
        own = dict(zip(pullback.sources(shared), arrays, strict=True))
        return out, {place: _grown(own.get(place), room) for place, room in rooms.items()}

    out, kept = jax.lax.switch(index, [partial(run, branch) for branch in branches], *given)
    leaves = jax.tree.leaves(given)
    return out, (index, {number: leaves[number] for number in shared}, kept, pullbacks)


def _backward(branches: Sequence[Branch], residuals: Any, gradient: Any) -> tuple[Any, None, None]:
    index, inputs, kept, pullbacks = residuals
    backward = [pullback.run for pullback in pullbacks]
    return jax.lax.switch(index, backward, inputs, kept, gradient), None, None


_switch.defvjp(_forward, _backward)


def _rooms(
    pullbacks: Sequence[_Pullback], shared: Iterable[int]
) -> dict[Place, jax.ShapeDtypeStruct]:
    """For each place an array that holds what any of the branches keeps there."""
    rooms: dict[Place, jax.ShapeDtypeStruct] = {}
    for pullback in pullbacks:
        for source, array in zip(pullback.sources(shared), pullback.arrays, strict=True):
            if not isinstance(source, int):
                shape = map(max, array.shape, rooms.get(source, array).shape)
                rooms[source] = jax.ShapeDtypeStruct(tuple(shape), array.dtype)
    return rooms


def _grown(array: jax.Array | None, room: jax.ShapeDtypeStruct) -> jax.Array:
    """The array with zeros behind the end of each axis; all zeros if there is none."""
    zero = jnp.zeros((), room.dtype)
    if array is None:
        return jnp.broadcast_to(zero, room.shape)
    behind = [(0, to - size, 0) for size, to in zip(array.shape, room.shape, strict=True)]
    return jax.lax.pad(array, zero, behind)
