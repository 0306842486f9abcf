"""Data of other formats: tables, folders and lines in the true form of public sets."""

import base64
import io
import json
import os

import numpy as np
import PIL.Image
import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from stts_jax.data.embedded import EmbeddedPicture
from stts_jax.data.images.file import ImageError, load_image
from stts_jax.data.sources import line_file, table_lines, tables
from stts_jax.data.sources.own_data import OwnData, OwnDataError, read_own_data
from stts_jax.data.sources.tables import tables_at

RED = (255, 0, 0)


def picture(colour=RED, kind="PNG"):
    """The bytes of a picture of one colour."""
    content = io.BytesIO()
    PIL.Image.new("RGB", (8, 6), colour).save(content, kind)
    return content.getvalue()


def uri(content, kind="image/png"):
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def written(path, *records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def asked(example):
    """Pairs of question and answer, of a caption the answer alone, of each line of an example."""
    found = []
    for annotation in example.annotations:
        turns = annotation.get("multi_turn_messages", [annotation])
        found.append(
            [(turn.get("question", ""), turn.get("answer", turn.get("text"))) for turn in turns]
        )
    return found


# ------------------------------------------------------------------- public sets, as they come

LLAVA_VIDEO = {
    "id": "ytb_7nRmsEw7nsE",
    "conversations": [
        {"from": "human", "value": "<image>\nWhat does the man pick up?\nA. a cup\nB. a hat"},
        {"from": "gpt", "value": "B. a hat"},
        {"from": "human", "value": "Where is he?"},
        {"from": "gpt", "value": "In a kitchen."},
    ],
    "data_source": "0_30_s_youtube_v0_1",
    "video": "liwei_youtube_videos/videos/youtube_video_2024/ytb_7nRmsEw7nsE.mp4",
}
SHAREGPT4VIDEO = {
    "video_id": "6a0ef0ad",
    "video_path": "panda/6a0ef0ad.mp4",
    "timestamp": ["00:00:00.000", "00:00:02.200"],
    "keyframe": [0, 66],
    "captions": [
        {"idx": "1", "content": "A cat sleeps."},
        {"idx": "-1", "content": "A cat sleeps, and wakes up."},
    ],
    "zip_folder": "panda_videos_1.zip",
}
SHAREGPT4VIDEO_VQA = {
    "id": "000", "video": "bdd100k/videos/a.mp4",
    "conversations": [
        {"from": "human", "value": "<video>\nWhat is shown?"},
        {"from": "gpt", "value": "A street."},
    ],
}  # fmt: skip
MS_SWIFT = {
    "messages": [
        {"role": "system", "content": "You are a helpful and harmless assistant."},
        {"role": "user", "content": "<image><image>What is the difference?"},
        {"role": "assistant", "content": "A kitten and a puppy."},
    ],
    "images": ["x.jpg", "x.png"],
}
MS_SWIFT_LOSS = {
    "messages": [
        {"role": "user", "content": "<video>Who is it?"},
        {"role": "assistant", "content": "A man.", "loss": False},
        {"role": "user", "content": "And then?"},
        {"role": "assistant", "content": "He leaves.", "loss": True},
    ],
    "videos": ["x.mp4"],
}
AXOLOTL = {
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "You are helpful."}]},
        {
            "role": "user",
            "content": [
                {"type": "image", "path": "bee.jpg"},
                {"type": "text", "text": "Describe this image in detail."},
            ],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "The image is a bee."}]},
    ]
}
AXOLOTL_TRAIN = {
    "conversations": [
        {"from": "system", "value": "You are an AI assistant.", "train": False},
        {"from": "human", "value": "<image>Hello", "train": False},
        {"from": "assistant", "value": "Hello", "train": True},
        {"from": "human", "value": "How are you?", "train": False},
        {"from": "assistant", "value": "Very well!", "train": False},
    ],
    "images": ["bee.jpg"],
}
PUBLIC = {
    "LLaVA-Video-178K": (
        LLAVA_VIDEO,
        [
            ("What does the man pick up?\nA. a cup\nB. a hat", "B. a hat"),
            ("Where is he?", "In a kitchen."),
        ],
    ),
    "ShareGPT4Video": (SHAREGPT4VIDEO, [("", "A cat sleeps, and wakes up.")]),
    "ShareGPT4Video VQA": (SHAREGPT4VIDEO_VQA, [("What is shown?", "A street.")]),
    "ms-swift": (
        MS_SWIFT,
        [
            (
                "You are a helpful and harmless assistant.\n\nWhat is the difference?",
                "A kitten and a puppy.",
            )
        ],
    ),
    "ms-swift loss": (MS_SWIFT_LOSS, [("Who is it?", "A man."), ("And then?", "He leaves.")]),
    "Axolotl": (
        AXOLOTL,
        [("You are helpful.\n\nDescribe this image in detail.", "The image is a bee.")],
    ),
    "Axolotl train": (AXOLOTL_TRAIN, [("You are an AI assistant.\n\nHello", "Hello")]),
}


@pytest.mark.parametrize(("record", "turns"), PUBLIC.values(), ids=PUBLIC)
@pytest.mark.parametrize("form", ["jsonl", "json"])
def test_a_record_of_a_public_set_is_read(tmp_path, record, turns, form):
    path = written(tmp_path / f"my.{form}", record if form == "jsonl" else [record])
    (example,) = read_own_data(path)
    assert asked(example) == [turns]


def test_turns_that_are_not_learnt_are_marked(tmp_path):
    (example,) = read_own_data(written(tmp_path / "my.jsonl", MS_SWIFT_LOSS))
    first, last = example.annotations[0]["multi_turn_messages"]
    assert first["weight"] == 0 and "weight" not in last


def test_a_line_of_which_nothing_is_learnt_is_wrong(tmp_path):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]
    path = written(tmp_path / "my.jsonl", {"messages": turns, "videos": ["a.mp4"]})
    with pytest.raises(OwnDataError, match=r"my.jsonl:1: .*no answer of it is learnt"):
        read_own_data(path)


def test_fields_that_are_not_read_are_named_once(tmp_path, caplog):
    OwnData(written(tmp_path / "my.jsonl", *[LLAVA_VIDEO] * 3))
    (record,) = [record for record in caplog.records if "not read" in record.message]
    assert record.message.endswith("fields that are not read: data_source")


# -------------------------------------------------------------------------------------- tables


def record(number):
    return {
        "messages": [
            {"role": "user", "content": [{"type": "image", "text": None},
                                         {"type": "text", "text": f"{number}?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "a"}]},
        ],
        "images": [{"bytes": picture((number, 0, 0)), "path": None}],
    }  # fmt: skip


def as_parquet(folder):
    (folder / "data").mkdir()
    for part in range(2):
        table = pa.Table.from_pylist([record(2 * part + row) for row in range(2)])
        parquet.write_table(table, folder / "data" / f"train-0000{part}-of-00002.parquet", 1)
    return folder


def as_saved(folder):
    table = pa.Table.from_pylist([record(row) for row in range(4)])
    with ipc.new_stream(folder / "data-00000-of-00001.arrow", table.schema) as stream:
        stream.write_table(table, 3)
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def as_file(folder):
    table = pa.Table.from_pylist([record(row) for row in range(4)])
    with ipc.new_file(folder / "my.arrow", table.schema) as file:
        file.write_table(table, 2)
    return folder / "my.arrow"


def as_split(folder):
    return as_parquet(folder) / "train"


@pytest.mark.parametrize("make", [as_parquet, as_saved, as_file, as_split])
def test_tables_with_pictures_inside_are_read(tmp_path, make):
    folder = tmp_path / "set"
    folder.mkdir()
    data = OwnData(make(folder))
    examples = [data.get(number, None) for number in range(len(data))]
    assert [asked(example) for example in examples] == [[[(f"{n}?", "a")]] for n in range(4)]
    pixels = [load_image(example.images[0])[0, 0].tolist() for example in examples]
    assert pixels == [[number, 0, 0] for number in range(4)]
    assert data.called(2).endswith(":3")


def test_the_folder_of_tables_may_be_where_one_is(tmp_path, monkeypatch):
    (tmp_path / "set").mkdir()
    monkeypatch.chdir(as_parquet(tmp_path / "set"))
    assert len(OwnData(".")) == 4
    assert (tmp_path / "set.lines").is_file()


def test_a_killed_conversion_of_tables_goes_on(tmp_path, monkeypatch):
    folder = as_parquet(tmp_path)
    whole = [asked(example) for example in read_own_data(folder)]
    for made in tmp_path.glob("*.lines*"):
        made.unlink()
    for made in tmp_path.parent.glob(f"{tmp_path.name}.lines*"):
        made.unlink()
    monkeypatch.setattr(table_lines, "SAVED_EVERY", 1)
    read, taken = tables.Tables.rows, []

    def killed(self, skip=0):
        for row in read(self, skip):
            if len(taken) == 3:
                taken.append(None)
                raise KeyboardInterrupt
            taken.append(row)
            yield row

    monkeypatch.setattr(tables.Tables, "rows", killed)
    with pytest.raises(KeyboardInterrupt):
        read_own_data(folder)
    assert [asked(example) for example in read_own_data(folder)] == whole
    assert len(taken) == 5


def test_lines_of_a_touched_table_are_taken_where_no_note_can_be_written(tmp_path, monkeypatch):
    table = as_file(tmp_path)
    made = table_lines.lines_of(tables_at(table))
    os.utime(table, ns=(5, 5))

    def refused(*_):
        raise PermissionError("read-only")

    monkeypatch.setattr(table_lines, "_write_note", refused)
    assert table_lines.lines_of(tables_at(table)) == made


def test_tables_that_change_are_read_again(tmp_path):
    path = tmp_path / "my.parquet"
    for answer in ("a", "b"):
        line = {"video": "a.mp4", "question": "q", "answer": answer, "options": None}
        parquet.write_table(pa.Table.from_pylist([line]), path)
        (example,) = read_own_data(path)
        assert asked(example) == [[("q", answer)]] and example.video == tmp_path / "a.mp4"


def test_a_wrong_row_is_named(tmp_path):
    path = tmp_path / "my.parquet"
    lines = [{"video": "a.mp4", "question": "q", "answer": answer} for answer in ("a", " ")]
    parquet.write_table(pa.Table.from_pylist(lines), path)
    with pytest.raises(OwnDataError, match=r"my\.parquet:2: field 'answer' is ' '"):
        read_own_data(path)


def test_a_row_that_is_too_long_is_named_with_the_limit_of_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(line_file, "LONGEST_ROW", 90)
    path = tmp_path / "my.parquet"
    rows = [{"video": "a.mp4", "question": "q", "answer": "a" * count} for count in (1, 200)]
    parquet.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(OwnDataError, match=r"my\.parquet:2: the line has over 90 bytes"):
        read_own_data(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.parquet", "a.parquet' cannot be read as parquet"),
        ("a.arrow", "a.arrow' cannot be read as arrow"),
        ("state.json", "state.json' does not name the folder's files"),
    ],
)
def test_a_damaged_table_is_one_sentence(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(OwnDataError, match=message):
        read_own_data(tmp_path if name == "state.json" else tmp_path / name)


@pytest.mark.parametrize("kind", [pa.timestamp("ms"), pa.duration("s")])
def test_a_time_that_python_cannot_hold_is_one_sentence(tmp_path, kind):
    times = pa.array([2**62], kind)
    parquet.write_table(pa.table({"video": ["a.mp4"], "time": times}), tmp_path / "a.parquet")
    with pytest.raises(OwnDataError, match=r"a\.parquet' holds a time that is too far from now"):
        read_own_data(tmp_path / "a.parquet")


def test_a_folder_of_several_splits_asks_for_one(tmp_path):
    for split in ("train", "test"):
        parquet.write_table(
            pa.Table.from_pylist([{"a": 1}]), tmp_path / f"{split}-00000-of-00001.parquet"
        )
    with pytest.raises(OwnDataError, match="holds the splits test, train; name one"):
        tables_at(tmp_path)
    assert [file.name for file in tables_at(tmp_path / "test").files] == [
        "test-00000-of-00001.parquet"
    ]


def test_a_saved_dataset_names_only_files_of_its_own_folder(tmp_path):
    state = {"_data_files": [{"filename": "../secret.arrow"}]}
    (tmp_path / "state.json").write_text(json.dumps(state))
    with pytest.raises(OwnDataError, match="which is not a file of its folder"):
        tables_at(tmp_path)


# ------------------------------------------------------------------------------- embedded media


def test_a_picture_may_be_a_data_uri(tmp_path):
    part = {"type": "image_url", "image_url": {"url": uri(picture())}}
    messages = [
        {"role": "user", "content": [part, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": "red"},
    ]
    (example,) = read_own_data(written(tmp_path / "my.jsonl", {"messages": messages}))
    assert load_image(example.images[0])[0, 0].tolist() == list(RED)
    assert str(example.images[0]) == "picture 1 of my.jsonl:1"


def test_a_damaged_picture_inside_is_named():
    embedded = EmbeddedPicture("picture 1 of my.jsonl:1", picture()[:40])
    with pytest.raises(ImageError, match=r"'picture 1 of my\.jsonl:1' is not a"):
        load_image(embedded)


def test_a_picture_of_a_cut_jpeg_inside_is_refused():
    content = picture(kind="JPEG")
    with pytest.raises(ImageError):
        load_image(EmbeddedPicture("x", content[: len(content) // 2]))


def test_what_is_no_base64_is_named(tmp_path):
    line = {"images": ["data:image/png;base64,?"], "question": "q", "answer": "a"}
    with pytest.raises(OwnDataError, match=r"my\.jsonl:1: a data URI is not valid base64"):
        read_own_data(written(tmp_path / "my.jsonl", line))


def test_random_numbers_of_examples_are_found(tmp_path):
    lines = [{"video": f"{n % 5}.mp4", "question": f"{n}", "answer": "a"} for n in range(40)]
    data = OwnData(written(tmp_path / "my.jsonl", *lines), 3)
    order = np.random.RandomState(0).permutation(len(data))
    assert {n: asked(data.get(int(n), None)) for n in order} == {
        n: asked(data.records[n]) for n in range(len(data))
    }
