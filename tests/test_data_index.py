"""The index of own data: what it groups, when it is built again, and what a killed build leaves."""

import fcntl
import json
import os
import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from full_disk import no_room_in_files

from stts_jax.data.sources import index_building, indexed_lines, own_records
from stts_jax.data.sources.index_building import index_of
from stts_jax.data.sources.index_files import content_hash, files_for
from stts_jax.data.sources.line_file import LineFile
from stts_jax.data.sources.line_groups import arrange, group_lines
from stts_jax.data.sources.line_index import HEADER_BYTES, in_memory
from stts_jax.data.sources.own_data import OwnData, OwnDataError, read_own_data

LINES = 50


@pytest.fixture(autouse=True)
def saved(monkeypatch, tmp_path):
    """Indexes of small files are saved too, after every few lines; the cache is the test's."""
    for module in (index_building, indexed_lines):
        monkeypatch.setattr(module, "SAVED_FROM", 1)
    monkeypatch.setattr(index_building, "SAVED_EVERY", 8)
    monkeypatch.setattr(index_building, "TIME_STEP", -(10**18))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def line(number, **fields):
    return {"video": f"{number % 7}.mp4", "question": f"{number}?", "answer": "a"} | fields


@pytest.fixture
def file(tmp_path):
    """A file of lines about seven videos."""
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "my.jsonl"
    path.write_text("".join(json.dumps(line(number)) + "\n" for number in range(LINES)))
    return path


def questions(example):
    return [annotation["question"] for annotation in example.annotations]


@pytest.fixture
def scanned(monkeypatch):
    """The lines that were read to build indexes."""
    seen, scan = [], index_building._scan

    def counted(file, is_list, work, signature):
        before = work.lines
        scan(file, is_list, work, signature)
        seen.append(work.lines - before)

    monkeypatch.setattr(index_building, "_scan", counted)
    return seen


# ------------------------------------------------------------------------------------ grouping


def test_examples_are_in_the_order_of_their_first_lines(file):
    examples = read_own_data(file)
    assert [questions(example) for example in examples] == [
        [f"{number}?" for number in range(video, LINES, 7)] for video in range(7)
    ]


@pytest.mark.parametrize("per_example", [1, 2, 3, 7, 8, 100])
def test_examples_are_split_as_a_list_would_be(file, per_example, monkeypatch):
    monkeypatch.setattr("stts_jax.data.sources.line_index.Parts._EVERY", 2)
    whole = [questions(example) for example in read_own_data(file)]
    parts = [
        asked[start : start + per_example]
        for asked in whole
        for start in range(0, len(asked), per_example)
    ]
    assert [questions(example) for example in read_own_data(file, per_example)] == parts


@pytest.mark.parametrize("at_once", [1, 3, 8, 1000])
def test_grouping_in_parts_is_grouping(at_once):
    random = np.random.RandomState(at_once)
    values = random.randint(0, 2**63, 40).astype(np.uint64)
    digests = np.stack([values[random.randint(0, 40, 200)], np.zeros(200, np.uint64)], 1)
    order = dict.fromkeys(digests[:, 0].tolist())
    rows = [np.flatnonzero(digests[:, 0] == np.uint64(value)) for value in order]

    def allocate(name, kind, length):
        return np.zeros(length, kind)

    numbers, count, most = group_lines(digests, allocate, at_once)
    columns = {name: np.arange(200) for name in ("offsets", "numbers", "lengths")}
    arrays = in_memory(200, count)
    arrange(columns, numbers, arrays, allocate, at_once)
    assert (count, most) == (len(rows), max(map(len, rows)))
    assert arrays.offsets.tolist() == np.concatenate(rows).tolist()
    assert arrays.starts.tolist() == [0, *np.cumsum([len(row) for row in rows])]


# --------------------------------------------------------------------------- finding it again


def test_an_index_is_beside_the_data_and_built_once(file, scanned):
    first = OwnData(file)
    assert files_for(file, "index")[0].is_file() and not list(file.parent.glob("*.work"))
    second = OwnData(file)
    assert scanned == [LINES]
    assert list(first.records) == list(second.records)


def test_small_data_leave_no_file(file, monkeypatch):
    for module in (index_building, indexed_lines):
        monkeypatch.setattr(module, "SAVED_FROM", 1 << 20)
    assert len(OwnData(file)) == 7
    assert [path.name for path in file.parent.iterdir()] == ["my.jsonl"]


def test_data_that_are_only_touched_or_moved_keep_their_index(file, scanned, tmp_path):
    OwnData(file)
    os.utime(file, ns=(5, 5))
    OwnData(file)
    moved = file.parent.rename(tmp_path / "moved") / file.name
    assert OwnData(moved).get(0, None).video == moved.parent / "0.mp4"
    assert scanned == [LINES]


def test_other_data_of_the_same_size_are_read_again(file, scanned):
    before = OwnData(file).fingerprint()
    state = file.stat()
    file.write_text(file.read_text().replace('"0?"', '"9?"'))
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    found = OwnData(file)
    assert questions(found.get(0, None))[0] == "9?" and found.fingerprint() != before
    assert len(scanned) == 2


def test_a_change_within_the_clocks_step_is_seen(file, scanned, monkeypatch):
    monkeypatch.setattr(index_building, "TIME_STEP", 10**18)
    compared = []
    monkeypatch.setattr(
        index_building, "content_hash", lambda path: compared.append(path) or content_hash(path)
    )
    OwnData(file)
    OwnData(file)
    assert scanned == [LINES] and len(compared) == 2


@pytest.mark.parametrize("position", [3, 40, HEADER_BYTES + 9, -1])
def test_a_damaged_index_is_built_again(file, scanned, position):
    examples = list(OwnData(file).records)
    index_path = files_for(file, "index")[0]
    content = bytearray(index_path.read_bytes())
    content[position] ^= 1
    index_path.write_bytes(content)
    assert list(OwnData(file).records) == examples
    assert len(scanned) == 2


@pytest.mark.parametrize("content", [b"", b"stts_jax index 1\n", b"\x80\x04."])
def test_what_is_no_index_is_built_again(file, scanned, content):
    files_for(file, "index")[0].write_bytes(content)
    assert len(OwnData(file)) == 7 and scanned == [LINES]


def test_an_index_of_other_lines_gives_no_mixed_example(file):
    """Though its checksum be right, as that of one made on purpose."""
    data = OwnData(file)
    arrays = data.records._lines.index.arrays
    swapped = arrays.offsets[:].copy()
    swapped[[0, -1]] = swapped[[-1, 0]]
    data.records._lines.index._arrays = type(arrays)(
        swapped, arrays.numbers, arrays.lengths, arrays.starts
    )
    with pytest.raises(OwnDataError, match="was written after the run had begun"):
        data.get(0, None)


def unwritable(index_path):
    """Puts a file where the work on an index would be, which stops the superuser too."""
    index_path.with_name(f"{index_path.name}.work").write_text("no folder")


def test_where_nothing_can_be_written_beside_the_data_the_index_is_in_the_cache(file):
    beside, cached = files_for(file, "index")
    unwritable(beside)
    assert len(OwnData(file)) == 7
    assert cached.is_file() and not beside.exists()


def test_without_any_folder_the_index_is_in_memory(file, monkeypatch, tmp_path):
    (tmp_path / "cache").write_text("no folder")
    unwritable(files_for(file, "index")[0])
    assert OwnData(file).records._lines.index.path is None


def test_data_that_are_written_during_a_run_are_named(file):
    data = pickle.loads(pickle.dumps(OwnData(file)))
    os.utime(file, ns=(5, 5))
    with pytest.raises(OwnDataError, match=r"my\.jsonl' was written after the run had begun"):
        data.get(0, None)


def test_a_worker_is_sent_no_arrays(file):
    assert len(pickle.dumps(OwnData(file))) < 2000


# ------------------------------------------------------------------------------------- building


def test_a_wrong_line_leaves_nothing(file):
    file.write_text(file.read_text() + "{}\n")
    with pytest.raises(OwnDataError, match=rf"my\.jsonl:{LINES + 1}: field 'question' is missing"):
        OwnData(file)
    assert [path.name for path in file.parent.iterdir()] == ["my.jsonl"]


FORMS = {
    "lines": "\n".join(json.dumps(line(number)) for number in range(LINES)),
    "returns": "\r".join(json.dumps(line(number)) for number in range(LINES)),
    "both": "\r\n\r\n".join(json.dumps(line(number)) for number in range(LINES)),
    "list": json.dumps([line(number) for number in range(LINES)]),
    "indented": json.dumps([line(number) for number in range(LINES)], indent=1),
    "ä": "\ufeff" + json.dumps([line(number, type="ä") for number in range(LINES)], indent=1),
}


@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("kills", [1, 3])
def test_a_killed_build_goes_on(file, text, kills, monkeypatch, scanned):
    monkeypatch.setattr(own_records, "_BUFFER", 64)
    file.write_bytes(text.encode())
    whole = list(read_own_data(file))
    files_for(file, "index")[0].unlink()
    scanned.clear()
    add, left = index_building._Work.add, [kills]

    def killed(*arguments):
        add(*arguments)
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(index_building._Work, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        OwnData(file)
    with (file.with_name("my.jsonl.index.work") / "offsets").open("ab") as offsets:
        offsets.write(b"half of what was being saved")
    assert list(OwnData(file).records) == whole
    assert scanned == [LINES - 8 * kills]


def test_what_a_killed_build_left_of_other_data_is_not_taken(file, monkeypatch, scanned):
    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(index_building, "group_lines", killed)
    with pytest.raises(KeyboardInterrupt):
        OwnData(file)
    monkeypatch.undo()
    for module in (index_building, indexed_lines):
        monkeypatch.setattr(module, "SAVED_FROM", 1)
    file.write_text(json.dumps(line(3)) + "\n")
    assert [questions(example) for example in OwnData(file).records] == [["3?"]]


def test_data_that_grow_while_they_are_read_are_named(file, monkeypatch):
    group = index_building.group_lines

    def grown(*arguments):
        with file.open("a") as more:
            more.write(json.dumps(line(1)) + "\n")
        return group(*arguments)

    monkeypatch.setattr(index_building, "group_lines", grown)
    with pytest.raises(OwnDataError, match=r"my\.jsonl' was written while it was read"):
        OwnData(file)


def test_one_builds_and_the_others_wait(file, scanned):
    """Locks are of opened files, so threads stand for processes."""
    folder = file.with_name("my.jsonl.index.work")
    folder.mkdir()
    with ThreadPoolExecutor(3) as pool:
        with (folder / "lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = [pool.submit(index_of, LineFile.at(file)) for _ in range(3)]
            time.sleep(0.3)
            assert scanned == []
        assert [index.result(timeout=30).header.examples for index in found] == [7] * 3
    assert not folder.exists() and scanned == [LINES]


def test_on_a_full_disk_the_index_is_in_memory(file, monkeypatch):
    no_room_in_files(monkeypatch)
    assert OwnData(file).records._lines.index.path is None
    assert [path.name for path in file.parent.iterdir()] == ["my.jsonl"]
