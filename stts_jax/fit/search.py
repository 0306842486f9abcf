"""The most rows that fit, and the mesh that they fit on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from stts_jax.budget import row_budget
from stts_jax.config import Config, ConfigError
from stts_jax.fit.memory import Memory
from stts_jax.training.run_mesh import even_fsdp, even_tensor

# Rows beyond this are not looked for.
MOST_ROWS = 256
Try = Callable[[int], Memory]


def mesh_shapes(config: Config, devices: int, slices: int = 1) -> list[dict[str, int]]:
    """Returns the meshes to try, in order of devices for a row.

    A row is shared over `tensor`, which must divide heads and widths, or over `context`, which must
    divide its tokens; both must divide the devices of a slice, and `fsdp` takes what it can of the
    rest of a slice.
    """
    tokens = row_budget(config.model, config.data).tokens
    shareable = {"tensor": even_tensor(config), "context": tokens}
    shapes: list[dict[str, int]] = []
    sharers, together = 1, devices // slices
    while together % sharers == 0:
        axes = [axis for axis, size in shareable.items() if size % sharers == 0]
        if not axes:
            break
        fsdp = even_fsdp(config, together // sharers)
        shape = {"data": devices // sharers // fsdp, "fsdp": fsdp}
        shapes += [shape | {axis: sharers} for axis in axes] if sharers > 1 else [shape]
        sharers *= 2
    return shapes


def most_rows(memory_of: Try, each: int = 1) -> int:
    """Returns the largest number of rows that fits, 0 if not even the smallest does.

    Memory grows with the rows nearly in a line, so two measurements say where to look; the answer
    and the count above it are then compiled themselves, as nothing else proves it.

    Args:
      memory_of: compiles with a count of rows.
      each: what the rows must be a multiple of.
    """
    return each * _most(lambda count: memory_of(each * count))


def _most(memory_of: Try) -> int:
    known: dict[int, Memory] = {}

    def fits(rows: int) -> bool:
        if rows not in known:
            known[rows] = memory_of(rows)
        return known[rows].fits

    if not fits(1):
        return 0
    if not fits(2):
        return 1
    growth = max(known[2].total - known[1].total, 1)
    low = 2
    guess = min(max(low + known[2].left // growth, 3), MOST_ROWS)
    high = MOST_ROWS + 1
    while high - low > 1:
        guess = min(max(guess, low + 1), high - 1)
        if fits(guess):
            low, guess = guess, guess + 1
        else:
            high, guess = guess, guess - 1
    return low


def find_mesh(
    shapes: list[dict[str, int]],
    memory_on: Callable[[Mapping[str, int], int], Memory],
    each: int = 1,
) -> tuple[dict[str, int], int]:
    """Returns the first mesh on which a row fits, and the most rows that fit there.

    Args:
      shapes: in the order of `mesh_shapes`.
      memory_on: compiles on a mesh with a count of rows.
      each: what the rows must be a multiple of.

    Raises:
      ConfigError: if no mesh takes even one row.
    """
    for shape in shapes:
        rows = most_rows(lambda rows, shape=shape: memory_on(shape, rows), each)  # type: ignore[misc]
        if rows:
            return shape, rows
    fewest = "one row fits" if each == 1 else f"{each} rows fit (train.accumulate)"
    tried = "; ".join(",".join(f"{a}={n}" for a, n in shape.items()) for shape in shapes)
    raise ConfigError(
        f"not even {fewest}, on none of the meshes {tried}; use fewer frames (--frames), fewer "
        "videos in a row (--videos), prune more, or take larger devices"
    )
