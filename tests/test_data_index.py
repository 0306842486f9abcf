"""The index of own data: what it groups, when it is built again, and what a killed build leaves."""

import errno
import fcntl
import json
import os
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from stts_jax.data import shared_orders
from stts_jax.data.mixture_order import MixtureOrder
from stts_jax.data.shared_orders import SharedOrders
from stts_jax.data.sources import index_building, indexed_lines, own_records, quick_keys
from stts_jax.data.sources.index_building import index_of
from stts_jax.data.sources.index_files import content_hash, files_for
from stts_jax.data.sources.line_file import LineFile
from stts_jax.data.sources.line_groups import arrange, group_lines
from stts_jax.data.sources.line_index import HEADER_BYTES, in_memory
from stts_jax.data.sources.media_key import line_key
from stts_jax.data.sources.own_data import OwnData, OwnDataError, read_own_data
from stts_jax.data.sources.own_line import parse_value
from stts_jax.data.sources.quick_keys import quick_key

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


CONVERSATIONS = ("human", "gpt", "from", "value")
MESSAGES = ("user", "assistant", "role", "content")
TEXT = {"type": "text", "text": "What?"}


def said(*contents, form=CONVERSATIONS):
    """Turns of the two speakers of a form, one after the other."""
    *speakers, role, content = form
    return [{role: speakers[n % 2], content: said} for n, said in enumerate(contents)]


USUAL = {
    "question": line(1),
    "options": line(1, options=["a", "b"], type="x", id=3),
    "caption": {"video": "a/b.mp4", "caption": "ein Häschen"},
    "clip": line(1, clip=[0, 2.5]),
    "no_clip": line(1, clip=None),
    "images": {"images": ["1.jpg", "2.jpg"], "question": "a", "answer": "b"},
    "llava_video": {"video": "a.mp4", "conversations": said("<image>\na", "b", "c", "<video>")},
    "llava": {"image": "a.jpg", "id": "x", "conversations": said("<image>\na", "b")},
    "no_mark": {"image": "a.jpg", "conversations": said("a", "b")},
    "swift": {"messages": said("<image><image>a", "b", form=MESSAGES), "images": ["1", "2"]},
    "swift_video": {"messages": said("a", "b", form=MESSAGES), "videos": ["1.mp4"]},
    "parts": {"messages": said([{"type": "video", "video": "a.mp4"}, TEXT], [TEXT], form=MESSAGES)},
    "listed": {"messages": said([{"type": "image"}, TEXT], "b", form=MESSAGES), "images": ["1"]},
    "system": {
        "messages": [{"role": "system", "content": ""}, *said("a", "b", form=MESSAGES)],
        "videos": ["1.mp4"],
    },
}
UNUSUAL = {
    "half_character": line(1, answer="\ud83d"),
    "blank": line(1, question=" "),
    "other_field": line(1, subtitle="a"),
    "address": line(1, video="s3://b/a.mp4"),
    "dots": line(1, video="./a.mp4"),
    "slashes": line(1, video="a//b.mp4"),
    "absolute": line(1, video="/a.mp4"),
    "wrong_option": line(1, options=["b", "c"]),
    "option_twice": line(1, options=["a", "a"]),
    "clip_order": line(1, clip=[2, 1]),
    "clip_truth": line(1, clip=[False, True]),
    "both": line(1, caption="a"),
    "null_caption": {"video": "a.mp4", "caption": None},
    "no_object": [1],
    "video_and_images": line(1, images=["1.jpg"]),
    "mark_of_a_video": {"image": "a.jpg", "conversations": said("<video>a", "b")},
    "mark_within": {"video": "a.mp4", "conversations": said("a <video> b", "b")},
    "mark_later": {"video": "a.mp4", "conversations": said("a", "b", "<video>c", "d")},
    "no_answer": {"video": "a.mp4", "conversations": said("a", "b", "c")},
    "empty_answer": {"video": "a.mp4", "conversations": said("a", " ")},
    "only_a_mark": {"video": "a.mp4", "conversations": said("<video>", "a")},
    "weight": {"video": "a.mp4", "conversations": [*said("a"), {**said("a", "b")[1], "weight": 0}]},
    "field_of_theirs": {"video": "a.mp4", "conversations": said("a", "b"), "source": "x"},
    "too_many_marks": {"messages": said("<image><image>a", "b", form=MESSAGES), "images": ["1"]},
    "mark_in_a_part": {"messages": said([{"type": "text", "text": "<image>"}, TEXT], "b",
                                        form=MESSAGES), "images": ["1"]},
    "address_in_a_part": {"messages": said([{"type": "image", "image": "s3://a"}, TEXT], "b",
                                           form=MESSAGES)},
    "two_videos": {"messages": said("a", "b", form=MESSAGES), "videos": ["1.mp4", "2.mp4"]},
    "two_kinds": {"messages": said("a", "b", form=MESSAGES), "videos": ["1"], "images": ["1"]},
    "tab": line(1, video="\t"),
    "empty_other_kind": {"messages": said("a", "b", form=MESSAGES), "videos": ["1"], "images": ""},
    "named_beside_nothing": {"messages": said([{"type": "image", "image": "1"}, TEXT], "b",
                                              form=MESSAGES), "images": {}},
    "nothing_shown": {"messages": said("a", "b", form=MESSAGES)},
}  # fmt: skip


@pytest.mark.parametrize("values", USUAL.values(), ids=USUAL)
def test_usual_lines_have_the_key_of_the_whole_check(values):
    assert quick_key(values) == line_key(parse_value(values, "f:1", "f:1"), Path("/x"))


@pytest.mark.parametrize("values", UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_lines_are_left_to_the_whole_check(values):
    assert quick_key(values) is None


def changed(value, random):
    """A JSON value with one part of it replaced, added or left out."""
    if isinstance(value, dict) and value and random.rand() < 0.9:
        name = list(value)[random.randint(len(value))]
        rest = {key: part for key, part in value.items() if key != name}
        if random.rand() < 0.15:
            return rest
        if random.rand() < 0.1:
            return value | {OTHERS[random.randint(len(OTHERS))]: value[name]}
        return rest | {name: changed(value[name], random)}
    if isinstance(value, list) and value and random.rand() < 0.9:
        number = random.randint(len(value))
        part = (
            []
            if random.rand() < 0.2
            else [changed(value[number], random)] * (1 + (random.rand() < 0.2))
        )
        return [*value[:number], *part, *value[number + 1 :]]
    return VALUES[random.randint(len(VALUES))]


OTHERS = ("images", "video", "image", "videos", "type", "clip", "answer", "system", "tools", "loss")
VALUES = (
    *(
        "a",
        "",
        " ",
        "a.mp4",
        "./a",
        "/a",
        "a//b",
        "s3://b/a",
        "data:image/png;base64,AAAA",
        "\ud83d",
    ),
    *("<image>", "<video>\na", "a <image>", "a\n<image>", "human", "gpt", "user", "assistant"),
    *(
        "system",
        "image",
        "text",
        "é",
        None,
        0,
        1,
        2.5,
        True,
        [],
        {},
        ["a"],
        ["a", "b"],
        [0, 1],
        {"a": 1},
    ),
)


def test_what_is_taken_quickly_is_taken_by_the_whole_check_alike():
    random, taken = np.random.RandomState(0), 0
    usual = list(USUAL.values())
    for _ in range(6000):
        values = usual[random.randint(len(usual))]
        for _ in range(random.randint(1, 4)):
            values = changed(values, random)
        key = quick_key(values)
        if key is not None:
            taken += 1
            assert key == line_key(parse_value(values, "f:1", "f:1"), Path("/x")), values
    assert taken > 600


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ({"video": "a//b.mp4"}, {"video": "./a/b.mp4"}, True),
        ({"video": "a.mp4"}, {"video": "/x/a.mp4"}, True),
        ({"video": "a.mp4"}, {"video": "/y/a.mp4"}, False),
        ({"clip": [0, 1]}, {"clip": [-0.0, 1.0]}, True),
        ({"subtitle": "a"}, {"subtitle": "b"}, False),
        ({"subtitle": "a.srt"}, {"subtitle": "./a.srt "}, True),
        ({"subtitle": "a"}, {}, False),
    ],
)
def test_keys_are_equal_where_media_are(one, other, equal):
    keys = [
        line_key(parse_value(line(1) | fields, "f:1", "f:1"), Path("/x")) for fields in (one, other)
    ]
    assert (keys[0] == keys[1]) is equal


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


# --------------------------------------------------------------------------------------- orders


def test_a_shared_order_is_the_one_in_memory(monkeypatch):
    alone = [SharedOrders(3, 1000).order(1000, epoch) for epoch in range(4)]
    monkeypatch.setattr(shared_orders, "SHARED_FROM", 100)
    shared = SharedOrders(3, 1000)
    copy = pickle.loads(pickle.dumps(shared))
    for epoch, order in enumerate(alone):
        assert (shared.order(1000, epoch) == order).all()
        assert (copy.order(1000, epoch) == order).all()
    folder = Path(shared._folder.name)
    assert sorted(path.name for path in folder.glob("*.npy")) == ["1000-2.npy", "1000-3.npy"]
    del shared
    assert not folder.exists()
    assert (copy.order(1000, 2) == alone[2]).all()


def test_large_datasets_are_drawn_as_small_ones_are(monkeypatch):
    small = [MixtureOrder([300], seed=5)[position] for position in range(700)]
    monkeypatch.setattr(shared_orders, "SHARED_FROM", 100)
    order = MixtureOrder([300], seed=5)
    assert [order[position] for position in range(700)] == small


@pytest.fixture
def full(monkeypatch):
    """A disk with room for the size of a file, and none for its content."""

    def fallocate(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", fallocate)


def test_on_a_full_disk_each_process_has_its_own_order(full, monkeypatch):
    alone = SharedOrders(3, 1000).order(1000, 0)
    monkeypatch.setattr(shared_orders, "SHARED_FROM", 100)
    shared = SharedOrders(3, 1000)
    assert (shared.order(1000, 0) == alone).all()
    assert [path.name for path in Path(shared._folder.name).iterdir()] == ["lock"]


def test_on_a_full_disk_the_index_is_in_memory(full, file):
    assert OwnData(file).records._lines.index.path is None
    assert [path.name for path in file.parent.iterdir()] == ["my.jsonl"]


def test_paths_that_need_a_closer_look_are_few():
    assert quick_keys._is_plain_path("clips/day 1/a.b.mp4")
