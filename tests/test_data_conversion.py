"""Converting data of other formats to our own lines: fields, paths, and what is embedded."""

import json
import sys

import pyarrow as pa
import pytest
from pyarrow import parquet
from test_data_formats import AXOLOTL, LLAVA_VIDEO, PUBLIC, as_file, asked, picture, uri, written

from stts_jax.data.__main__ import main
from stts_jax.data.embedded import EmbeddedPicture
from stts_jax.data.images.file import load_image
from stts_jax.data.sources.own_data import read_own_data


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


def test_records_that_are_deeply_nested_are_left_out(tmp_path, capsys):
    """Some are too deep for the reader of JSON, others for what looks for embedded content."""
    line = {"video": "a.mp4", "question": "q", "answer": "a"}
    source = written(tmp_path / "my.jsonl", line)
    limit = sys.getrecursionlimit()
    with source.open("a") as file:
        for depth in (limit // 2 + 100, limit - 100, limit, 2 * limit):
            file.write(f'{{"a": {"[" * depth}{"]" * depth}}}\n')
    target = tmp_path / "ours.jsonl"
    assert main(["convert", str(source), str(target), "--skip-wrong"]) == 1
    assert capsys.readouterr().out.count("left out: ") == 4
    assert json.loads(target.read_text()) == line


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


def test_paths_lead_out_of_the_folder_that_a_link_is_to(tmp_path):
    line = {"video": "a.mp4", "question": "q", "answer": "a"}
    source = written(tmp_path / "theirs" / "my.jsonl", line)
    (tmp_path / "theirs" / "a.mp4").write_bytes(b"video")
    (tmp_path / "far" / "ours").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "ours")
    target = tmp_path / "link" / "my.jsonl"
    assert main(["convert", str(source), str(target)]) == 0
    (example,) = read_own_data(target)
    assert example.video.read_bytes() == b"video"


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
