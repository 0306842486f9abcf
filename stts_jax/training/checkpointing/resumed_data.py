"""Opens the data of a run: from the beginning, or at the position of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import jax
from jax.sharding import Mesh

from stts_jax.config import Config
from stts_jax.parallel.processes import is_first, notice
from stts_jax.terminal import doing
from stts_jax.training.data_parts import DataParts, OpenPart, natural_parts
from stts_jax.training.distributed import Agreement


def open_new_data(config: Config, mesh: Mesh, stack: ExitStack, open_part: OpenPart) -> DataParts:
    """Opens the data at their beginning.

    Args:
      config: of the run.
      mesh: that batches are sharded over.
      stack: closes the data.
      open_part: opens one part of the data stream, of so many.
    """
    parts = natural_parts(config.data.batch_rows, mesh)
    with doing(
        f"opening the data, '{config.data.train}', tokenizer '{config.data.tokenizer}'", notice
    ):
        batches = _open(config, mesh, stack, parts, open_part)
    _print_if_shared(batches)
    return batches


def open_resumed_data(
    config: Config,
    mesh: Mesh,
    stack: ExitStack,
    open_part: OpenPart,
    states: Sequence[Any],
    changes: Sequence[str],
) -> DataParts:
    """Opens the data at the position of a checkpoint; at their beginning if they changed.

    Args:
      config, mesh, stack, open_part: as of `open_new_data`.
      states: of the parts of the data in the checkpoint; an old one may have none.
      changes: settings of the data that differ from those of the checkpoint.
    """
    if changes or not states:
        reason = ", ".join(changes) or "the checkpoint has no position in the data"
        notice(f"the data start from the beginning, as the settings changed: {reason}")
        return open_new_data(config, mesh, stack, open_part)
    batches = _open(config, mesh, stack, len(states), open_part)
    if changed := batches.changed_sources(states):
        notice(
            f"the data start from the beginning: {', '.join(changed)} has other content than when "
            "the run was saved; the model goes on"
        )
        _print_if_shared(batches)
        return batches
    batches.restore(states)
    if len(states) == natural_parts(config.data.batch_rows, mesh):
        _print_if_shared(batches)
    else:
        how = (
            "some processes read the same part and use a share of it"
            if batches.shared
            else "each process reads several"
        )
        notice(
            f"the data go on exactly where they stood: they were cut into {len(states)} "
            f"parts, and there are {jax.process_count()} processes now, so {how}"
        )
    return batches


def _open(
    config: Config, mesh: Mesh, stack: ExitStack, parts: int, open_part: OpenPart
) -> DataParts:
    agreement = Agreement()
    if not is_first():
        agreement.meet("data")  # the first process makes the procedural set, if need be
    batches = stack.enter_context(DataParts(open_part, config.data.batch_rows, parts, mesh))
    if is_first():
        agreement.meet("data")
    return batches


def _print_if_shared(batches: DataParts) -> None:
    if batches.shared:
        notice(
            "some processes read and decode the same part of the data, as train.mesh gives them "
            "the same rows; keep tensor and context within a host where that is too slow"
        )
