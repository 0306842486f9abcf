"""What torch writes, read without torch: where values lie, and what is refused."""

from __future__ import annotations

import io
import os
import struct
import time
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from torch_files import (
    METADATA,
    Name,
    Object,
    Reference,
    Sharded,
    archive,
    model_pt,
    pickled,
    tensor,
)

from convert.native import read_sharded, read_unsharded
from convert.pickle_subset import PickleError, load
from convert.pickled_metadata import read_metadata
from convert.tensor_reader import ConvertError, TensorReader

ARRAYS = {
    "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b.bias": np.arange(5).astype(np.float16),
    "c": np.linspace(0, 1, 6).reshape(2, 3).astype(ml_dtypes.bfloat16),
    "scalar": np.array(7, np.float32),
}


def values(tensors: dict[str, TensorReader]) -> dict[str, np.ndarray]:
    return {
        name: tensor.read(0, tensor.shape[0] if tensor.shape else 1).reshape(tensor.shape)
        for name, tensor in tensors.items()
    }


def same(found: dict[str, np.ndarray]) -> bool:
    return found.keys() == ARRAYS.keys() and all(
        found[name].dtype == array.dtype and np.array_equal(found[name], array)
        for name, array in ARRAYS.items()
    )


def folder_with(tmp_path: Path, data: bytes) -> Path:
    (tmp_path / "model.pt").write_bytes(data)
    return tmp_path


def refused(tmp_path: Path, data: bytes) -> str:
    with pytest.raises(ConvertError) as caught:
        read_unsharded(folder_with(tmp_path, data))
    return str(caught.value)


def test_tensors_are_read_from_where_torch_puts_them(tmp_path: Path) -> None:
    assert same(values(read_unsharded(folder_with(tmp_path, model_pt(ARRAYS)))))


def repacked(data: bytes, **options: Any) -> bytes:
    found = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(found, "w", **options) as new:
        for info in reversed(old.infolist()):
            new.writestr(info.filename, old.read(info))
        new.writestr("archive/note", b"x" * 1000)
    return found.getvalue()


def test_tensors_are_read_from_where_another_program_put_them(tmp_path: Path) -> None:
    assert same(values(read_unsharded(folder_with(tmp_path, repacked(model_pt(ARRAYS))))))
    behind = b"something before" + model_pt(ARRAYS)
    assert same(values(read_unsharded(folder_with(tmp_path, behind))))


def test_compressed_records_are_refused(tmp_path: Path) -> None:
    data = repacked(model_pt(ARRAYS), compression=zipfile.ZIP_DEFLATED)
    assert "is compressed" in refused(tmp_path, data)


def test_a_changed_value_is_refused(tmp_path: Path) -> None:
    data = bytearray(model_pt(ARRAYS))
    at = data.index(ARRAYS["a.weight"].tobytes())
    data[at + 9] ^= 1
    assert "CRC-32" in refused(tmp_path, bytes(data))


@pytest.mark.parametrize("size", [0, 1, 100, -1, -300])
def test_a_cut_file_is_refused(tmp_path: Path, size: int) -> None:
    data = model_pt(ARRAYS)
    assert "damaged" in refused(tmp_path, data[: size % len(data)])


def test_a_big_endian_archive_is_refused(tmp_path: Path) -> None:
    data = archive(
        {"x": tensor("0", ARRAYS["a.weight"])}, {"0": ARRAYS["a.weight"]}, byteorder=b"big"
    )
    assert "byte order" in refused(tmp_path, data)


@pytest.mark.parametrize("kept", [ARRAYS["a.weight"][:2], np.zeros((9, 9), np.float32)])
def test_a_storage_of_another_size_is_refused(tmp_path: Path, kept: np.ndarray) -> None:
    data = archive({"x": tensor("0", ARRAYS["a.weight"])}, {"0": kept})
    assert "another size than it says" in refused(tmp_path, data)


def test_a_strided_view_is_refused(tmp_path: Path) -> None:
    array = ARRAYS["a.weight"]
    data = archive({"x": tensor("0", array.T)}, {"0": array})
    assert "strided view" in refused(tmp_path, data)


def test_whole_numbers_and_what_is_no_tensor_are_refused(tmp_path: Path) -> None:
    storage = Reference(("storage", Name("torch", "LongStorage"), "0", "cpu", 2))
    whole = Object(
        "torch._utils", "_rebuild_tensor_v2", (storage, 0, (2,), (1,), False, None), None, True
    )
    data = archive({"x": whole}, {"0": np.zeros(2, np.int64)})
    assert "torch.int64" in refused(tmp_path, data)
    assert "no tensor but a int" in refused(tmp_path, archive({"step": 3}, {}))


def test_an_archive_that_lists_one_record_many_times_is_refused(tmp_path: Path) -> None:
    data = model_pt({"x": np.zeros((100, 100), np.float32)})
    found = io.BytesIO(data)
    with zipfile.ZipFile(found, "a") as file:
        one = file.getinfo("archive/data/0")
        for number in range(50):
            again = zipfile.ZipInfo(f"archive/data/more{number}")
            again.file_size = again.compress_size = one.file_size
            again.CRC, again.header_offset = one.CRC, one.header_offset
            file.filelist.append(again)
        file._didModify = True
    assert "overlap" in refused(tmp_path, found.getvalue())


def test_a_sharded_checkpoint_is_read(tmp_path: Path) -> None:
    Sharded(tmp_path / "model_and_optim").write(ARRAYS)
    assert same(values(read_sharded(tmp_path)))


@pytest.mark.parametrize("size", [0, 1, 700])
def test_a_part_that_was_cut_is_named(tmp_path: Path, size: int) -> None:
    Sharded(tmp_path / "model_and_optim").write(ARRAYS)
    os.truncate(tmp_path / "model_and_optim" / "__0_0.distcp", size)
    with pytest.raises(ConvertError, match=r"__0_0.distcp' is truncated"):
        read_sharded(tmp_path)


def test_a_part_outside_of_the_folder_is_refused(tmp_path: Path) -> None:
    Sharded(tmp_path / "model_and_optim").write(ARRAYS)
    part = tmp_path / "model_and_optim" / "__0_0.distcp"
    part.rename(tmp_path / "outside")
    part.symlink_to(tmp_path / "outside")
    with pytest.raises(ConvertError, match="leads out"):
        read_sharded(tmp_path)


def test_parts_that_lie_in_the_same_bytes_are_refused(tmp_path: Path) -> None:
    Sharded(tmp_path / "model_and_optim").write(ARRAYS)
    path = tmp_path / "model_and_optim" / ".metadata"
    sharded = Sharded(tmp_path / "again")
    sharded.write(ARRAYS)
    for place in sharded.places.values():
        place.state["offset"] = 0
    whole = {"state_dict_metadata": sharded.tensors, "storage_data": sharded.places}
    path.write_bytes(pickled(Object(METADATA, "Metadata", state=whole)))
    with pytest.raises(ConvertError, match="overlap"):
        read_sharded(tmp_path)


def keys_within_keys() -> bytes:
    """A tuple that holds another one twice, thirty levels deep, as a name: 2^30 steps to hash."""
    nested = b"]" + b"".join(
        b"q" + bytes([level]) + b"h" + bytes([level]) + b"\x86" for level in range(40)
    )
    return b"\x80\x02}" + nested + b"Ns."


BOMBS = {
    "a memo of 2^30 entries": b"\x80\x02Nr\x00\x00\x00\x40.",
    "a memo of 2^32 entries": b"\x80\x02Nr\xff\xff\xff\xff.",
    "names that take for ever to hash": keys_within_keys(),
    "numbers that have one hash": b"\x80\x02}("
    + b"".join(b"\x8a\x09" + (k * (2**61 - 1)).to_bytes(9, "little") + b"N" for k in range(9))
    + b"u.",
    "lists within lists": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
    "a text longer than the file": b"\x80\x02X\xff\xff\xff\x7fx.",
    "a number longer than the file": b"\x80\x02\x8b\xff\xff\xff\x7fx.",
    "nothing": b"",
    "no end": b"\x80\x02N",
    "values without an end": b"\x80\x02NN.",
    "a copy": b"\x80\x02N2.",
    "a call of data": b"\x80\x02N)R.",
    "a code of an extension": b"\x80\x02\x82\x01.",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_pickle_that_does_harm_is_refused_at_once(bomb: str, tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(BOMBS[bomb])
    began = time.process_time()
    with pytest.raises(ConvertError, match="nothing in it was run"):
        read_metadata(tmp_path / ".metadata")
    assert time.process_time() - began < 5


def test_a_pickle_of_too_many_steps_is_refused() -> None:
    with pytest.raises(PickleError, match="more than 1000 opcodes"):
        load(b"\x80\x02" + b"N" * 5000 + b".", {}, most_opcodes=1000)


def test_a_record_whose_fields_are_none_is_refused(tmp_path: Path) -> None:
    for value in (5, "x", [1], Object("torch", "Size", ((1,) * 100,), called=True)):
        (tmp_path / ".metadata").write_bytes(pickled(value))
        with pytest.raises(ConvertError, match="cannot be read"):
            read_metadata(tmp_path / ".metadata")


def test_the_description_of_a_tensor_must_be_of_whole_numbers(tmp_path: Path) -> None:
    sharded = Sharded(tmp_path / "model_and_optim")
    sharded.write(ARRAYS)
    path = tmp_path / "model_and_optim" / ".metadata"
    data = path.read_bytes()
    shape = b"\x8a\x09" + struct.pack("<q", 3) + b"\0"
    assert shape in data
    path.write_bytes(data.replace(shape, b"\x8a\x09" + struct.pack("<q", -3) + b"\xff", 1))
    with pytest.raises(ConvertError):
        read_sharded(tmp_path)
