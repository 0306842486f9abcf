"""Data of other formats: tables, folders and lines in the true form of public sets."""

import base64
import io
import json

import numpy as np
import PIL.Image
import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from stts_jax.data.__main__ import main
from stts_jax.data.embedded import EmbeddedPicture
from stts_jax.data.images.file import ImageError, load_image
from stts_jax.data.sources import table_lines, tables
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


@pytest.mark.parametrize(("record", "turns"), PUBLIC.values(), ids=PUBLIC)
def test_a_record_of_a_public_set_is_converted_to_ours(tmp_path, record, turns):
    source = written(tmp_path / "theirs.jsonl", record)
    assert main(["convert", str(source), str(tmp_path / "ours.jsonl")]) == 0
    (ours,), (theirs,) = read_own_data(tmp_path / "ours.jsonl"), read_own_data(source)
    assert (ours.annotations, ours.video, ours.images) == (
        theirs.annotations,
        theirs.video,
        theirs.images,
    )
    line = json.loads((tmp_path / "ours.jsonl").read_text())
    assert not {"conversations", "messages", "captions"} & set(line)


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


THEIRS = {"prompt": "Who runs?", "response": "A dog."}


@pytest.mark.parametrize(
    ("record", "options", "ours", "skipped"),
    [
        (
            {**THEIRS, "answer": "b", "video": "a.mp4", "clip": [0.0, 1.0], "score": 3},
            ["--question", "prompt", "--answer", "response"],
            {"video": "a.mp4", "clip": [0.0, 1.0], "question": "Who runs?", "answer": "A dog."},
            "score",
        ),
        (
            {"prompt": "Who?", "video": "a.mp4", "answer": "b", "options": ["a", "b"]},
            ["--question", "prompt"],
            {"video": "a.mp4", "question": "Who?", "answer": "b", "options": ["a", "b"]},
            None,
        ),
        (
            {"video": "a.mp4", "question": "Who?", "answer": "b", "text": "A dog."},
            ["--caption", "text", "--id", "text"],
            {"id": "A dog.", "video": "a.mp4", "caption": "A dog."},
            "answer, question",
        ),
        (
            {"video": "a.mp4", "question": "Who?", "response": "b", "score": 3},
            ["--answer", "response"],
            {"video": "a.mp4", "question": "Who?", "answer": "b"},
            "score",
        ),
        (
            {"name": "a", "image": "no.jpg", "question": "Who?", "answer": "b"},
            ["--image", "{name}.jpg"],
            {"images": ["a.jpg"], "question": "Who?", "answer": "b"},
            "image",
        ),
    ],
    ids=["question", "options", "caption", "answer", "image"],
)
def test_what_is_not_named_stays_if_it_is_ours_and_is_told_of_if_not(
    tmp_path, capsys, record, options, ours, skipped
):
    source, target = written(tmp_path / "my.jsonl", record), tmp_path / "ours.jsonl"
    assert main(["convert", str(source), str(target), *options]) == 0
    assert json.loads(target.read_text()) == ours
    said = capsys.readouterr().out
    assert (f"fields that are not read: {skipped}\n" in said) if skipped else "not read" not in said


MOLMO2_CAP = {"video_id": "abc", "merged_caption": "A dog runs.", "annotation_score": 3}
MOLMO2_ASK = {"video_id": "abc", "question": "Who runs?", "answer": "A dog."}


@pytest.mark.parametrize(
    ("record", "options", "turns"),
    [
        (MOLMO2_CAP, ["--caption", "merged_caption"], [("", "A dog runs.")]),
        (MOLMO2_ASK, ["--question", "question", "--answer", "answer"], [("Who runs?", "A dog.")]),
    ],
)
def test_a_table_of_other_columns_is_converted(tmp_path, record, options, turns):
    source = tmp_path / "set" / "data" / "train-00000-of-00001.parquet"
    source.parent.mkdir(parents=True)
    parquet.write_table(pa.Table.from_pylist([record]), source)
    target = tmp_path / "my.jsonl"
    command = ["convert", str(tmp_path / "set"), str(target), "--video", "videos/{video_id}.mp4"]
    assert main([*command, *options]) == 0
    (example,) = read_own_data(target)
    assert asked(example) == [turns]
    assert example.video.resolve() == tmp_path / "set" / "videos" / "abc.mp4"


def test_a_column_that_lacks_is_named(tmp_path, capsys):
    source = written(tmp_path / "theirs.jsonl", MOLMO2_ASK)
    assert main(["convert", str(source), str(tmp_path / "a.jsonl"), "--question", "query"]) == 2
    assert "theirs.jsonl:1: there is no field 'query'; it has" in capsys.readouterr().err


def test_wrong_records_are_left_out_if_asked_for(tmp_path, capsys):
    source = written(tmp_path / "theirs.jsonl", {"a": 1}, AXOLOTL)
    target = tmp_path / "ours.jsonl"
    assert main(["convert", str(source), str(target)]) == 2 and not target.exists()
    assert main(["convert", str(source), str(target), "--skip-wrong"]) == 1
    assert "left out:" in capsys.readouterr().out
    assert len(read_own_data(target)) == 1


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


def test_embedded_media_are_written_to_files(tmp_path, capsys):
    video = b"\0\0\0\x18ftypmp42" + bytes(20)
    rows = [
        {"images": [uri(picture())], "question": "q", "answer": "a"},
        {"images": [uri(picture())], "question": "r", "answer": "a"},
        {"video": uri(video, "video/mp4"), "question": "q", "answer": "a"},
    ]
    source = written(tmp_path / "theirs" / "my.jsonl", *rows)
    target = tmp_path / "ours.jsonl"
    assert main(["convert", str(source), str(target)]) == 0
    assert "3 lines, and 2 files of embedded media" in capsys.readouterr().out
    first, second = read_own_data(target)
    assert len(first.annotations) == 2 and first.images[0].parent == tmp_path / "ours_media"
    assert (load_image(first.images[0]) == load_image(EmbeddedPicture("", picture()))).all()
    assert second.video.read_bytes() == video and second.video.suffix == ".mp4"


def test_the_drafts_of_another_run_are_left_alone(tmp_path):
    line = {"images": [uri(picture())], "question": "q", "answer": "a"}
    source = written(tmp_path / "theirs.jsonl", line)
    command = ["convert", str(source), str(tmp_path / "ours.jsonl")]
    assert main(command) == 0
    (made,) = (tmp_path / "ours_media").iterdir()
    made.unlink()
    drafts = [path.with_name(f"{path.name}.partial") for path in (made, tmp_path / "ours.jsonl")]
    for draft in drafts:
        draft.write_text("of another run")
    assert main(command) == 0
    assert [draft.read_text() for draft in drafts] == ["of another run"] * 2


def test_a_source_is_not_written_over(tmp_path, capsys):
    source = written(tmp_path / "my.jsonl", LLAVA_VIDEO)
    table = as_file(tmp_path)
    for path in (source, table):
        before, link = path.read_bytes(), tmp_path / "link.jsonl"
        link.symlink_to(path)
        assert main(["convert", str(path), str(link)]) == 2
        assert f"'{link}' is what is read; name another file" in capsys.readouterr().err
        assert link.is_symlink() and path.read_bytes() == before
        link.unlink()


def test_paths_are_relative_to_the_new_file(tmp_path):
    line = {"video": "a/b.mp4", "subtitle": "a/b.srt", "question": "q", "answer": "a"}
    source = written(tmp_path / "theirs" / "my.jsonl", line)
    (tmp_path / "ours").mkdir()
    target = tmp_path / "ours" / "my.jsonl"
    assert main(["convert", str(source), str(target)]) == 0
    written_line = json.loads(target.read_text())
    assert written_line["video"] == "../theirs/a/b.mp4"
    assert written_line["subtitle"] == "../theirs/a/b.srt"


def test_every_field_of_our_lines_is_written_as_it_is(tmp_path):
    lines = [
        {"video": "a.mp4", "question": "q", "answer": "a", "options": ["a", "b"], "type": "t"},
        {"id": "x", "video": "a.mp4", "clip": [0.5, 2.0], "caption": "ü"},
        {"images": ["1.jpg"], "turns": [{"question": "q", "answer": "a", "weight": 0},
                                        {"question": "r", "answer": "b"}]},
        {"video": "a.mp4", "subtitle": [{"start": 0.0, "end": 1.0, "text": "s"}],
         "question": "q", "answer": "a"},
    ]  # fmt: skip
    source = written(tmp_path / "my.jsonl", *lines)
    assert main(["convert", str(source), str(tmp_path / "again.jsonl")]) == 0
    again = (tmp_path / "again.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in again] == lines


def test_random_numbers_of_examples_are_found(tmp_path):
    lines = [{"video": f"{n % 5}.mp4", "question": f"{n}", "answer": "a"} for n in range(40)]
    data = OwnData(written(tmp_path / "my.jsonl", *lines), 3)
    order = np.random.RandomState(0).permutation(len(data))
    assert {n: asked(data.get(int(n), None)) for n in order} == {
        n: asked(data.records[n]) for n in range(len(data))
    }
