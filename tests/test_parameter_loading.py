"""Loading parameters: the values, what each device gets, and how much memory that takes."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from orbax.checkpoint import v1 as ocp
from training_cases import fresh_state, small_config

from stts_jax.model.video_language_model import abstract_model
from stts_jax.parallel.mesh import make_mesh
from stts_jax.training.checkpointing import parameter_loading, stored_arrays
from stts_jax.training.checkpointing.load import save_model
from stts_jax.training.checkpointing.parameter_loading import load_parameters
from stts_jax.training.checkpointing.run_folder import MODEL
from stts_jax.training.checkpointing.save import Checkpoints
from stts_jax.training.checkpointing.stored_arrays import in_blocks, open_arrays

RNG = np.random.default_rng(0)
VALUES = {
    "vector": RNG.standard_normal(64, np.float32),
    "matrix": RNG.standard_normal((24, 20), np.float32),
    "stack": RNG.standard_normal((3, 16, 40), np.float32),
}
SPECS = {"vector": ("fsdp",), "matrix": (None, "fsdp"), "stack": (None, "fsdp", "tensor")}


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """Arrays in blocks of at most 256 bytes, of which 512 bytes are read at a time."""
    monkeypatch.setattr(stored_arrays, "_BLOCK_BYTES", 256)
    monkeypatch.setattr(parameter_loading, "_READ_BYTES", 512)
    with in_blocks():
        ocp.save_checkpointables(tmp_path / "0", {MODEL: jax.tree.map(jax.numpy.asarray, VALUES)})
    return open_arrays(tmp_path / "0" / MODEL)


def wanted(mesh, dtype):
    return {
        name: jax.ShapeDtypeStruct(
            array.shape,
            dtype,
            sharding=NamedSharding(mesh, PartitionSpec(*SPECS.get(name, ()))),
        )
        for name, array in VALUES.items()
    }


@pytest.mark.parametrize("axes", [{"data": 8}, {"fsdp": 4, "tensor": 2}, {"data": 4, "fsdp": 2}])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parameters_are_cast_as_jax_casts_and_placed_as_wanted(stored, axes, dtype):
    leaves = wanted(make_mesh(axes), dtype)
    loaded = load_parameters(stored, leaves)
    for name, array in loaded.items():
        assert array.dtype == dtype and array.sharding == leaves[name].sharding
        np.testing.assert_array_equal(array, jax.numpy.asarray(VALUES[name]).astype(dtype), name)


def test_each_part_is_read_once_however_many_devices_hold_it(stored, monkeypatch):
    totals, done = [], []
    bar = parameter_loading.byte_bar

    def counted(what, total, **options):
        totals.append(total)
        return bar(what, total, **options)

    read = parameter_loading._read

    def counting(stored, bounds, dtype, advance):
        return read(stored, bounds, dtype, lambda count: done.append(count))

    monkeypatch.setattr(parameter_loading, "byte_bar", counted)
    monkeypatch.setattr(parameter_loading, "_read", counting)
    load_parameters(stored, wanted(make_mesh({"data": 4, "fsdp": 2}), "bfloat16"))
    assert totals == [sum(done)] == [sum(2 * array.size for array in VALUES.values())]


def test_a_missing_block_is_damage_and_not_zeros(stored, tmp_path):
    context = in_blocks()
    context.array.saving.use_ocdbt = False
    with context:
        ocp.save_checkpointables(tmp_path / "1", {MODEL: {"a": jax.numpy.ones((40, 40))}})
    next(
        path for path in (tmp_path / "1" / MODEL / "a" / "c").rglob("*") if path.is_file()
    ).unlink()
    arrays = open_arrays(tmp_path / "1" / MODEL)
    leaf = jax.ShapeDtypeStruct(
        (40, 40), "float32", sharding=NamedSharding(make_mesh(), PartitionSpec())
    )
    with pytest.raises(ValueError, match="missing"):
        load_parameters(arrays, {"a": leaf})


def test_a_run_saves_blocks_that_are_small_to_decode(tmp_path, monkeypatch):
    monkeypatch.setattr(stored_arrays, "_BLOCK_BYTES", 512)
    with Checkpoints(tmp_path, 1, small_config().data) as checkpoints:
        checkpoints.save(fresh_state(), 1, {}, {0: None})
    for array in open_arrays(tmp_path / "checkpoints" / "1" / MODEL).values():
        block = array.chunk_layout.read_chunk.shape
        assert np.prod(block) * array.dtype.numpy_dtype.itemsize <= 512


def test_what_is_smaller_than_a_block_is_written_by_one_of_its_devices(tmp_path):
    whole = NamedSharding(make_mesh(), PartitionSpec())
    with in_blocks():
        array = jax.device_put(VALUES["vector"], whole)
        ocp.save_checkpointables(tmp_path / "0", {MODEL: {"a": array}})
    stored = open_arrays(tmp_path / "0" / MODEL)["a"]
    assert stored.chunk_layout.read_chunk.shape == VALUES["vector"].shape


# A model of 60 MB in the type that it computes in; what a load takes besides is of constant size.
LARGE = (
    "model.llm.width=512",
    "model.llm.mlp_width=2048",
    "model.llm.layers=9",
    "model.compute_dtype=bfloat16",
)
CONSTANT_BYTES = 40e6


def test_a_load_holds_the_parameters_once(tmp_path):
    config = small_config(*LARGE)
    shapes = abstract_model(config.model)
    model = jax.tree.map(lambda leaf: jax.numpy.ones(leaf.shape, leaf.dtype), shapes)
    save_model(model, config, tmp_path)
    program = Path(__file__).parent / "loading_process.py"
    done = subprocess.run(
        [sys.executable, program, tmp_path], capture_output=True, text=True, check=True
    )
    held, peak = json.loads(done.stdout)
    assert held > 50e6
    assert peak < 1.3 * held + CONSTANT_BYTES  # through Orbax 3 times and more
