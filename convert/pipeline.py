"""The conversion: open, map names, check that there is room, write to a temporary folder, rename.

What is written appears under its name only when all of it is there. An interrupted conversion
leaves a folder `.NAME.converting`, which the next one replaces. In a bucket, where nothing can be
renamed, it is written where it stays: while it has a file `.converting` it is not whole, and the
next conversion replaces it; the commit file of its step comes last.
"""

from __future__ import annotations

import errno
import math
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from convert.hf_export import export_files
from convert.hf_folder import write_folder
from convert.init import init_scorer
from convert.mapping import Origin, ParameterMapping, map_parameters
from convert.names import HF, HF_HEAD, name_table
from convert.orbax_folder import write_arrays
from convert.sources import DEFAULT_TOPK, Source
from convert.stored_dtype import DTYPES, stored_dtype
from convert.tensor_reader import ConvertError, Rows, join_parts
from convert.tokenizer_files import TOKENIZER, Files
from stts_jax.buckets.address import is_bucket
from stts_jax.buckets.whole_files import COMMITTED, delete_folder
from stts_jax.config import Config, ModelConfig, replace
from stts_jax.model.video_language_model import VideoLanguageModel
from stts_jax.parallel.parameters import named_parameters
from stts_jax.terminal import progress_bar
from stts_jax.training.checkpointing.run_folder import CHECKPOINTS

Target = Literal["orbax", "hf"]
# In a folder of a bucket that is not whole yet.
_CONVERTING = ".converting"


@dataclass(frozen=True)
class Plan:
    """A conversion that is known to be possible.

    Attributes:
      source: what is converted.
      model: the configuration of what comes out.
      mappings: the tensors that fill each of our parameters.
      notes: what a user should know, a sentence each.
    """

    source: Source
    model: ModelConfig
    mappings: tuple[ParameterMapping, ...]
    notes: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """Scalars in our parameters."""
        return sum(self.parameters_by_part.values())

    @property
    def parameters_by_part(self) -> dict[str, int]:
        """Scalars in the parameters of the vision transformer, the connector, and so on."""
        counts: dict[str, int] = {}
        for mapping in self.mappings:
            part = mapping.name.ours.split(".")[0]
            size = int(np.prod(mapping.shape, dtype=np.int64))
            counts[part] = counts.get(part, 0) + size
        return counts

    def bytes_in(self, dtype: np.dtype | None) -> int:
        """Returns the bytes of our parameters; of the dtype see `stored_dtype`."""
        return sum(
            math.prod(mapping.shape) * stored_dtype(mapping.layers, dtype).itemsize
            for mapping in self.mappings
        )


def plan(source: Source, *, add_scorer: bool = False, topk: float | None = None) -> Plan:
    """Maps a checkpoint's tensors to our parameters.

    Args:
      source: the opened checkpoint.
      add_scorer: give a model that has no scorer a newly initialised one.
      topk: share of the tokens that such a model is to drop; `DEFAULT_TOPK` if not given.

    Raises:
      ConvertError: with all that is missing, unread or misshapen.
    """
    model, notes, tensors = source.model, source.notes, dict(source.tensors)
    if add_scorer:
        if model.prune.method == "scorer":
            raise ConvertError(
                f"--add-scorer is given, but '{source.folder}' has a scorer; leave the flag out"
            )
        topk = DEFAULT_TOPK if topk is None else topk
        model = replace(model, {"prune.method": "scorer", "prune.topk": topk})
        tensors |= init_scorer(model, source.column)
        notes += (
            f"the scorer is newly initialised, with topk={topk}; train it before you rely on it",
        )
    origin = Origin(tensors, source.column, source.ignore)
    mappings = map_parameters(abstract_parameters(model), [origin], name_table(model))
    return Plan(source, model, mappings, notes)


def abstract_parameters(model: ModelConfig) -> dict[str, Any]:
    """Shapes of our parameters by name."""
    return named_parameters(
        jax.eval_shape(lambda: VideoLanguageModel(model, key=jax.random.key(0)))
    )


def convert(
    planned: Plan,
    target: Path,
    *,
    to: Target = "orbax",
    dtype: str | None = None,
    warn: Callable[[str], None] = print,
    progress: bool = True,
) -> None:
    """Write what was planned.

    Args:
      planned: see `plan`.
      target: folder that must not exist, or be empty.
      to: `orbax`, a folder that `train.py` and `eval.py` take, or `hf`.
      dtype: to store the values in; by default that which they are stored in, see `stored_dtype`.
      warn: takes a line of text.
      progress: show a bar.

    Raises:
      ConvertError: if the folder can't be written or there is no room.
    """
    target = target.resolve()  # the array store takes no ".." in a path
    asked = None if dtype is None else DTYPES[dtype]
    wanted = planned.bytes_in(asked)
    temporary = _prepare(target, wanted)
    try:
        with progress_bar(
            total=planned.parameters,
            desc="converting",
            unit="parameters",
            unit_scale=True,
            shown=progress,
        ) as bar:
            if to == "hf":
                tensors = hf_tensors(planned)
                found = write_folder(temporary, tensors, planned.model, asked, bar.update)
            else:
                step = temporary / CHECKPOINTS / "0"
                step.parent.mkdir(exist_ok=True)
                found = write_arrays(step, planned.mappings, planned.model, asked, bar.update)
                has_tokenizer = planned.source.tokenizer is not None
                output_config(planned.model, target, has_tokenizer).save(temporary)
        for name, count in found.items():
            warn(f"warning: {name} holds {count}")
        files, note = _files_beside(planned, to)
        for name, text in files.items():
            (temporary / name).write_text(text, encoding="utf-8")
        if note:
            warn(f"note: {note}")
        _finish(temporary, target, to)
    except BaseException as error:
        delete_folder(temporary)
        if is_full(error):
            raise ConvertError(
                f"the disk of '{target.parent}' is full; {wanted / 1e9:.1f} GB are needed, so make "
                "room or choose another folder, and run this again"
            ) from error
        raise


def _files_beside(planned: Plan, to: Target) -> tuple[Files, str]:
    """Texts of the files that go along, by name, and what a user should know of them."""
    source = planned.source
    if to == "hf":
        return export_files(source.tokenizer, planned.model, source.data)
    return source.tokenizer or {}, ""


def output_config(model: ModelConfig, target: Path, has_tokenizer: bool) -> Config:
    """Returns the config that is saved beside a converted checkpoint."""
    config = Config(model=model)
    tokenizer = str((target / TOKENIZER).resolve()) if has_tokenizer else TOKENIZER
    return replace(config, {"name": target.name, "data.tokenizer": tokenizer})


def hf_tensors(planned: Plan) -> dict[str, Rows]:
    """Our parameters as the tensors of a Hugging Face folder, by their released names."""
    mappings = {mapping.name.ours: mapping for mapping in planned.mappings}
    parts: dict[str, dict[int, Rows]] = {}
    for name in name_table(planned.model):
        template, bounds = name.in_column(HF)
        mapping = mappings[name.ours]
        for layer, rows in enumerate(mapping.layers):
            theirs = template.format(layer=layer)
            parts.setdefault(theirs, {})[bounds[0] if bounds else 0] = rows
    tensors = join_parts(parts)
    if planned.model.llm.tied_head:
        tensors[HF_HEAD] = tensors["model.transformer.wte.embedding"]
    return dict(sorted(tensors.items()))


def is_full(error: BaseException) -> bool:
    """Whether an error, or what caused it, says that there is no space left."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno == errno.ENOSPC:
            return True
        if "No space left" in str(cause) or "RESOURCE_EXHAUSTED" in str(cause):
            return True
        cause = cause.__cause__
    return False


def _finish(temporary: Path, target: Path, to: Target) -> None:
    """Gives what is whole its name."""
    if is_bucket(target):
        if to == "orbax":
            (target / CHECKPOINTS / "0" / COMMITTED).write_text("converted\n")
        (target / _CONVERTING).unlink()
        return
    if target.is_dir():  # empty, see _prepare
        target.rmdir()
    temporary.rename(target)


def _prepare_in_bucket(target: Path) -> Path:
    """Marks the folder, which is empty or left by a conversion that was killed."""
    marked = (target / _CONVERTING).is_file()
    if target.exists() and not marked:
        raise _is_there(target)
    if marked:
        delete_folder(target)
    (target / _CONVERTING).write_text("")
    return target


def _is_there(target: Path) -> ConvertError:
    return ConvertError(
        f"'{target}' is there already; choose another folder, or delete it to convert again"
    )


def _prepare(target: Path, wanted: int) -> Path:
    """Makes an empty folder beside `target`, on the same disk; in a bucket it is the target."""
    if is_bucket(target):
        return _prepare_in_bucket(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise _is_there(target)
    temporary = target.parent / f".{target.name}.converting"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
    except OSError as error:
        raise ConvertError(
            f"folder '{target}' cannot be written: {error.strerror}; choose another one"
        ) from error
    free = shutil.disk_usage(target.parent).free
    if free < wanted:
        temporary.rmdir()
        raise ConvertError(
            f"'{target}' will take {wanted / 1e9:.1f} GB, but its disk has {free / 1e9:.1f} GB "
            "left; make room or choose another folder"
        )
    return temporary


def table_lines(planned: Plan) -> Iterable[str]:
    """Returns the lines of `--dry-run`: our names, shapes, what fills them, and counts."""
    width = max(len(mapping.name.ours) for mapping in planned.mappings)
    for mapping in planned.mappings:
        template, bounds = mapping.theirs
        shape = "x".join(map(str, mapping.shape))
        rows = f" rows {bounds[0]}:{bounds[1]}" if bounds else ""
        transposed = " transposed" if mapping.name.transpose else ""
        yield f"{mapping.name.ours:<{width}}  {shape:>18}  {template}{rows}{transposed}"
    for part, count in planned.parameters_by_part.items():
        yield f"{part:<{width}}  {count:>18,}  parameters"
