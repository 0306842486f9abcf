"""A conversion as a user asks for it, and carrying it out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from convert.adapters import export_adapter, import_adapter, is_peft
from convert.assemble import assemble_start
from convert.cache import local_checkpoint
from convert.pipeline import Plan, convert, plan, table_lines
from convert.sources import Options, open_source
from convert.tensor_reader import ConvertError
from stts_jax.config import Bidirectional, load_config

TARGETS = ("orbax", "hf", "peft")


@dataclass(frozen=True)
class Request:
    """What is to be converted, as the options of `python -m convert` say it.

    Attributes:
      source: folder of a checkpoint; with `init` of the new folder.
      target: a new folder.
      init: folders of a vision tower and a language model to start from.
      config: setup of the model that `init` assembles.
      to: one of `TARGETS`.
      base: folder of the model that adapters belong to.
      dtype: to store in, None for that of each tensor.
      step: of a folder of steps, None for the latest.
      bidirectional: which image tokens see each other, where the checkpoint doesn't say.
      add_scorer: give a model without a scorer a new one.
      topk: share of tokens to drop, where the checkpoint doesn't say.
      dry_run: print the table of names and write nothing.
    """

    source: Path | None = None
    target: Path | None = None
    init: tuple[Path, Path] | None = None
    config: str | None = None
    to: Literal["orbax", "hf", "peft"] = "orbax"
    base: Path | None = None
    dtype: str | None = None
    step: int | None = None
    bidirectional: Bidirectional | None = None
    add_scorer: bool = False
    topk: float | None = None
    dry_run: bool = False


def carry_out(request: Request, notice: Callable[[str], None] = print) -> None:
    """Converts; `notice` takes a line of text.

    Raises:
      ConvertError: if it can't be converted.
      ConfigError: if there is no such setup.
      OSError: if a file can't be written.
    """
    peft = request.source is not None and is_peft(request.source)
    if request.to == "peft" or peft:
        _convert_adapter(request, notice)
        return
    planned, target = _plan(request, notice)
    notice(f"{planned.source.folder}: {planned.source.kind}, {planned.parameters:,} parameters")
    for note in planned.notes:
        notice(f"  {note}")
    if request.dry_run:
        notice("\n".join(table_lines(planned)))
        return
    if target is None:
        raise ConvertError("DST is missing; name the folder to write")
    convert(planned, target, to=request.to, dtype=request.dtype, warn=notice)
    notice(f"written to '{target}'")


def _convert_adapter(request: Request, notice: Callable[[str], None]) -> None:
    """Converts adapters alone, from PEFT or to it."""
    source, target = request.source, request.target
    if source is None or target is None:
        raise ConvertError("SRC or DST is missing; name the folder of adapters and a new folder")
    base = None if request.base is None else local_checkpoint(request.base, notice)
    if request.to == "peft":
        notice(f"{source}: {export_adapter(source, target, base)}")
    elif base is None:
        raise ConvertError(f"'{source}' is an adapter of PEFT; name its model with --base")
    elif request.to == "orbax":
        import_adapter(source, target, base)
    else:
        raise ConvertError(
            f"'{source}' is an adapter of PEFT; convert it without --to first, and that to hf"
        )
    notice(f"written to '{target}'")


def _plan(request: Request, notice: Callable[[str], None]) -> tuple[Plan, Path | None]:
    if request.init is None:
        if request.source is None:
            raise ConvertError("SRC is missing; name the folder of a checkpoint, or give --init")
        base = None if request.base is None else local_checkpoint(request.base, notice)
        given = Options(request.step, request.bidirectional, request.topk, base)
        source = open_source(request.source, given)
        return plan(source, add_scorer=request.add_scorer, topk=request.topk), request.target
    if request.config is None:
        raise ConvertError("--init needs --config: the setup of the model, molmo2_4b for example")
    if request.target is not None:
        raise ConvertError("--init takes no SRC; give DST alone")
    vit, llm = request.init
    return assemble_start(vit, llm, load_config(request.config).model), request.source
