"""Changed folders of checkpoints: Hugging Face's, the reference's, ours."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from unittest.mock import patch

import numpy as np
import yaml
from convert_cases import SCORED
from test_convert_native import native_config
from torch_files import Sharded, model_pt

import convert.pipeline
from convert.__main__ import main
from convert.hf_folder import write_folder
from convert.measure import random_tensors
from convert.names import NATIVE, name_table
from convert.pipeline import Plan, abstract_parameters, plan
from convert.sources import Options, open_source
from convert.tensor_reader import ConvertError, row_blocks
from fuzz.changes import change_bytes, change_file, change_json
from fuzz.registry import Note, target
from stts_jax.config import ConfigError
from stts_jax.data.text.tokenizer import TINY_FILE

ERRORS = (ConvertError, ConfigError)
FLOAT = np.dtype(np.float32)
_DESCRIBING = ("config.json", "_METADATA", "_CHECKPOINT_METADATA", ".zarray", "tokenizer.json")
_SHAPES = functools.cache(abstract_parameters)  # the most expensive part, mostly unchanged
_BASES: list[tempfile.TemporaryDirectory] = []  # removed when Python ends


def base(make: Callable[[Path], None]) -> Callable[[], Path]:
    """A folder that is made once."""

    @functools.cache
    def made() -> Path:
        _BASES.append(tempfile.TemporaryDirectory(prefix="fuzz_"))
        folder = Path(_BASES[-1].name) / "base"
        folder.mkdir()
        make(folder)
        return folder

    return made


@base
def hugging_face(folder: Path) -> None:
    write_folder(folder, random_tensors(SCORED, FLOAT), SCORED, FLOAT)
    (folder / "tokenizer.json").write_bytes(TINY_FILE.read_bytes())
    (folder / "tokenizer_config.json").write_text('{"eos_token": {"content": "<|im_end|>"}}')
    (folder / "processor_config.json").write_text(
        json.dumps({"video_processor": {"pooling_size": [3, 3]}})
    )


def native_arrays() -> dict[str, np.ndarray]:
    parameters, shapes = abstract_parameters(SCORED), {}
    for name in name_table(SCORED):
        template, bounds = name.in_column(NATIVE)
        shape = tuple(parameters[name.ours].shape)
        stacked = "{layer}" in template
        one = shape[1:] if stacked else shape
        one = one[::-1] if name.transpose else one
        for layer in range(shape[0]) if stacked else [0]:
            theirs = template.format(layer=layer)
            rows = max(bounds[1] if bounds else one[0], shapes.get(theirs, (0,))[0])
            shapes[theirs] = (rows, *one[1:])
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(FLOAT) for name, shape in shapes.items()}


def write_native_config(folder: Path) -> None:
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": native_config(SCORED)}))


@base
def unsharded(folder: Path) -> None:
    write_native_config(folder)
    (folder / "model.pt").write_bytes(model_pt(native_arrays()))


@base
def sharded(folder: Path) -> None:
    write_native_config(folder)
    Sharded(folder / "model_and_optim").write(native_arrays())


@base
def ours(folder: Path) -> None:
    folder.rmdir()
    assert main([str(hugging_face()), str(folder)]) == 0


def read_all(planned: Plan) -> None:
    """Reads every value, as a conversion does."""
    for mapping in planned.mappings:
        for rows in mapping.layers:
            for block in row_blocks(rows):
                rows.read(*block)


def opened(folder: Path) -> None:
    """Opens a folder and reads it, as a conversion does."""
    with patch.object(convert.pipeline, "abstract_parameters", _SHAPES):
        read_all(plan(open_source(folder, Options())))


def changed(folder: Path, rng: Random, note: Note) -> None:
    """Some file of a folder is changed in one way."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    small = [path for path in files if path.suffix in (".json", ".yaml", ".metadata")]
    path = rng.choice(small if rng.random() < 0.6 else files)
    change_one(path, rng, note)


def change_one(path: Path, rng: Random, note: Note) -> None:
    """A file is changed, or something else is put in its place."""
    if path.suffix == ".json" and rng.random() < 0.7:
        note(change_json(path, rng))
    else:
        note((change_file if rng.random() < 0.25 else change_bytes)(path, rng))


def _register(name: str, made: Callable[[], Path], quick: int) -> None:
    @target(name, ERRORS, quick)
    def trial(folder: Path, rng: Random, note: Note) -> None:
        shutil.copytree(made(), folder, dirs_exist_ok=True)
        changed(folder, rng, note)
        opened(folder)


_register("Hugging Face folder", hugging_face, 100)
_register("model.pt", unsharded, 60)
_register("sharded checkpoint", sharded, 10)


@target("our checkpoint", ERRORS, 25)
def our_checkpoint(folder: Path, rng: Random, note: Note) -> None:
    """A folder of hundreds of files isn't copied each time: the changed file is put back."""
    files = sorted(path for path in ours().rglob("*") if path.is_file())
    described = [path for path in files if path.name in _DESCRIBING]
    path = rng.choice(described if rng.random() < 0.7 else files)
    data = path.read_bytes()
    try:
        if path.name in _DESCRIBING and rng.random() < 0.6:
            note(change_json(path, rng))
        else:
            change_one(path, rng, note)
        opened(ours())
    finally:
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        path.unlink(missing_ok=True)
        path.write_bytes(data)
