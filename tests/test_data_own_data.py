"""Users' own data: what a line may say, what it becomes, and what is said of a wrong one."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from stts_jax.data.datasets.base import DatasetError
from stts_jax.data.sources import own_records
from stts_jax.data.sources.own_data import OwnData, OwnDataError, read_own_data
from stts_jax.data.sources.own_line import parse
from stts_jax.data.sources.own_records import own_lines
from stts_jax.data.sources.subtitle_files import read_subtitle_file
from stts_jax.data.text.formatting.formatter import Formatter

QUESTION = {"video": "a.mp4", "question": "What is opened?", "answer": "a door"}
CHOICE = {
    "video": "a.mp4",
    "question": "Where?",
    "options": ["left", "right"],
    "answer": "right",
    "type": "place",
    "id": 7,
}
CAPTION = {"video": "a.mp4", "caption": "A man opens a door."}
TURNS = {
    "video": "a.mp4",
    "turns": [
        {"question": "Who is it?", "answer": "a man"},
        {"question": "What does he do?", "answer": "He opens a door."},
    ],
}
PICTURES = {"images": ["1.jpg", "b/2.jpg"], "question": "What changed?", "answer": "the hat"}


@pytest.fixture
def file(tmp_path):
    """`file(line, ...)`: a file with those lines, each a dict or the text itself."""

    def write(*lines):
        path = tmp_path / "my.jsonl"
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_text("\n".join(texts) + "\n", encoding="utf-8")
        return path

    return write


@pytest.fixture
def example(file):
    """`example(line, ...)`: the only example of those lines."""

    def read(*lines):
        (only,) = read_own_data(file(*lines))
        return only

    return read


# ------------------------------------------------------------------------------- right lines


def test_a_question_is_asked_in_the_users_words(example):
    read = example(QUESTION)
    assert read.annotations == (
        {"style": "user_qa", "question": "What is opened?", "answer": "a door"},
    )


def test_paths_are_relative_to_the_file(example, tmp_path):
    assert example(QUESTION).video == tmp_path / "a.mp4"
    assert example(PICTURES).images == (tmp_path / "1.jpg", tmp_path / "b" / "2.jpg")


def test_options_are_multiple_choice(example):
    read = example(CHOICE)
    assert read.annotations == (
        {
            "style": "video_multiple_choice",
            "question": "Where?",
            "options": ["left", "right"],
            "answer_idx": 1,
        },
    )


def test_a_single_line_gives_its_metric_all_it_needs(example):
    assert example(CHOICE).metadata == {
        "example_id": "7",
        "ids": ("7",),
        "type": "place",
        "question": "Where?",
        "answer": "right",
        "options": ["left", "right"],
        "answer_idx": 1,
    }


def test_a_line_without_an_id_is_known_by_its_number(example):
    assert example("", QUESTION).metadata["example_id"] == "my.jsonl:2"


def test_a_caption_of_a_video(example):
    assert example(CAPTION).annotations == (
        {"style": "video_long_caption", "text": "A man opens a door."},
    )


def test_a_caption_of_a_picture(example):
    (annotation,) = example({"images": ["1.jpg"], "caption": "A door."}).annotations
    assert annotation["style"] == "long_caption"


def test_turns_are_one_conversation(example):
    (annotation,) = example(TURNS).annotations
    assert annotation == {
        "style": "user_qa",
        "multi_turn_messages": [{"style": "user_qa", **turn} for turn in TURNS["turns"]],
    }


def test_a_single_turn_is_a_question(example):
    assert example(TURNS | {"turns": TURNS["turns"][:1]}).annotations[0]["question"] == "Who is it?"


def test_a_clip_is_shown(example):
    assert example(QUESTION | {"clip": [2, 9.5]}).clip == (2.0, 9.5)


def test_a_subtitle_may_be_a_text(example):
    assert example(QUESTION | {"subtitle": "Come in."}).subtitle == "Come in."


def test_timed_subtitles_are_counted_from_the_start_of_the_clip(example):
    lines = [(0, 1.5, "before"), (1.5, 2.5, "across"), (3, 4, "inside"), (9, 10, "after")]
    subtitle = [{"start": start, "end": end, "text": text} for start, end, text in lines]
    read = example(QUESTION | {"clip": [2, 8], "subtitle": subtitle})
    assert read.subtitle == {(0.0, 0.5): "across", (1.0, 2.0): "inside"}


def test_subtitles_at_equal_times_are_joined(example):
    lines = [{"start": 1, "end": 2, "text": text} for text in ("Come", "in.")]
    assert example(QUESTION | {"subtitle": lines}).subtitle == {(1.0, 2.0): "Come in."}


def test_multiple_choice_with_a_subtitle_has_its_own_style(example):
    (annotation,) = example(CHOICE | {"subtitle": "Come in."}).annotations
    assert annotation["style"] == "video_multiple_choice_w_subtitle"


@pytest.mark.parametrize(
    ("line", "prompt"),
    [
        (QUESTION, "What is opened?"),
        (CHOICE, "Where?\nOnly return the correct answer option.\nA. left\nB. right"),
        (TURNS, "Who is it?"),
        (PICTURES, "What changed?"),
        (CHOICE | {"video": None, "images": ["1.jpg"]}, "Where?\nOnly return the correct"),
    ],
)
def test_prompts_have_no_tag(example, line, prompt):
    (annotation,) = example(line).annotations
    formatted = Formatter().format(annotation, mode="eval", rng=np.random.RandomState(0))
    assert formatted.messages[0].startswith(f"<|im_start|>user\n{prompt}")


# ---------------------------------------------------------------------------------- grouping


def test_lines_about_the_same_media_are_branches_of_one_example(file):
    first, second = read_own_data(file(QUESTION, PICTURES, CAPTION, CHOICE))
    assert [annotation["style"] for annotation in first.annotations] == [
        "user_qa",
        "video_long_caption",
        "video_multiple_choice",
    ]
    assert first.metadata["ids"] == ("my.jsonl:1", "my.jsonl:3", "7")
    assert len(second.annotations) == 1


@pytest.mark.parametrize("other", [{"clip": [0, 1]}, {"subtitle": "Come in."}, {"video": "b.mp4"}])
def test_other_media_are_another_example(file, other):
    assert len(read_own_data(file(QUESTION, QUESTION | other))) == 2


def test_many_lines_about_the_same_media_may_become_several_examples(file):
    read = read_own_data(file(*[QUESTION] * 5), per_example=2)
    assert [len(example.annotations) for example in read] == [2, 2, 1]


def test_a_file_is_a_dataset(file):
    dataset = OwnData(file(QUESTION, PICTURES))
    assert len(dataset) == 2
    assert dataset.get(1, np.random.RandomState(0)).images


# ------------------------------------------------------------------------------- the old form


@pytest.mark.parametrize(
    "line",
    [
        QUESTION,
        CHOICE,
        QUESTION | {"type": None, "options": None},
        QUESTION | {"type": 3, "id": [1]},
        CHOICE | {"video": "/elsewhere/ä b.mp4"},
        QUESTION | {"video": "data:12:30.mp4"},
    ],
)
def test_unusual_lines_are_taken(file, line):
    (example,) = read_own_data(file(line, line))
    assert example.video.name == Path(line["video"]).name
    assert len(example.annotations) == 2


# -------------------------------------------------------------------------------- wrong lines


WRONG = {
    "no_json": ("{", "not valid JSON"),
    "no_object": ("[1]", r"\[1\] is not a JSON object; write"),
    "unknown_field": (QUESTION | {"vidoe": "b.mp4"}, "field 'vidoe' is unknown; write 'video'"),
    "no_media": ({"question": "a", "answer": "b"}, "field 'video' is missing, and so is 'images'"),
    "no_question": ({"video": "a.mp4"}, "'question' is missing, and so are 'caption' and 'turns'"),
    "no_answer": ({"video": "a.mp4", "question": "a"}, "field 'answer' is missing; add it"),
    "empty_question": (QUESTION | {"question": " "}, "field 'question' is ' '; it must be text"),
    "null_question": (QUESTION | {"question": None}, "field 'question' is None; it must be text"),
    "number_answer": (QUESTION | {"answer": 3}, "field 'answer' is 3; it must be text"),
    "video_and_images": (QUESTION | {"images": ["1.jpg"]}, "there is 'video' too, and an example"),
    "address": (QUESTION | {"video": "s3://b/a.mp4"}, "'s3://b/a.mp4', an address, and addresses"),
    "address_of_picture": (PICTURES | {"images": ["http://x/1.jpg"]}, "an address, and addresses"),
    "content_as_path": (
        QUESTION | {"video": "data:video/mp4;base64,iV"},
        "it holds a file's content",
    ),
    "long_path": (QUESTION | {"video": "a" * 5000}, "no path is longer than 4096 letters"),
    "other_name": (QUESTION | {"image": "1.jpg"}, "field 'image' is unknown; write 'images'"),
    "query": ({"video": "a.mp4", "query": "a", "answer": "b"}, "'query' is unknown; write 'quest"),
    "subtitle_format": (QUESTION | {"subtitle": "a.ass"}, "files are read that end in .srt, .vtt"),
    "deep": ("[" * 100_000 + "]" * 100_000, "not valid JSON .too deeply nested"),
    "deep_value": ('{"id": ' + "[" * 900 + "]" * 900 + "}", "too deeply nested|is missing"),
    "huge_number": ('{"id": ' + "1" * 10_000 + "}", "not valid JSON"),
    "not_a_number": ('{"video": "a", "caption": "b", "clip": [NaN, 1]}', r"'clip' is \[nan, 1\]"),
    "half_character_in_id": (QUESTION | {"id": "\ud83d"}, "'id' is .*holds half a character"),
    "half_character_in_name": (QUESTION | {"\ud83d": 1}, r"field '\\ud83d' is unknown"),
    "half_character": (QUESTION | {"answer": "\ud83d"}, "holds half a character"),
    "zero_in_path": (QUESTION | {"video": "a\0.mp4"}, "field 'video' is .* no path holds a zero"),
    "options_no_list": (CHOICE | {"options": "left"}, "'options' is 'left'; it must be a list"),
    "one_option": (CHOICE | {"options": ["right"]}, "must be a list of two texts or more"),
    "option_twice": (CHOICE | {"options": ["right", "right"]}, "an option is there twice"),
    "letter": (CHOICE | {"answer": "B"}, r"'answer' is 'B'; it is not one of the options \['left'"),
    "options_alone": (CAPTION | {"options": ["a", "b"]}, "'options' is .*; they go with one quest"),
    "two_forms": (QUESTION | CAPTION, "'caption' is 'A man .*; there is 'question' too; write two"),
    "answered_turns": (TURNS | {"answer": "a"}, "'answer' is 'a'; it goes with 'question', not w"),
    "no_turns": (
        TURNS | {"turns": []},
        r"'turns' is \[\]; it must be a list of objects with quest",
    ),
    "turn_text": (TURNS | {"turns": ["a"]}, r"'turns\[0\]' is 'a'; write an object with question"),
    "half_turn": (TURNS | {"turns": [{"question": "a"}]}, r"field 'turns\[0\].answer' is missing"),
    "clip_order": (QUESTION | {"clip": [3, 2]}, r"'clip' is \[3, 2\]; write \[start, end\] in sec"),
    "clip_length": (QUESTION | {"clip": [3]}, r"'clip' is \[3\]; write \[start, end\]"),
    "clip_infinite": ('{"video": "a", "caption": "b", "clip": [0, 1e999]}', r"'clip' is \[0, inf"),
    "clip_huge": (QUESTION | {"clip": [0, 10**400]}, r"'clip' is \[0, 1000"),
    "clip_truth": (QUESTION | {"clip": [False, True]}, r"'clip' is \[False, True\]"),
    "clip_of_pictures": (PICTURES | {"clip": [0, 1]}, "it goes with a video; add 'video'"),
    "subtitle_of_pictures": (PICTURES | {"subtitle": "a"}, "'subtitle' is 'a'; it goes with a vid"),
    "subtitle_order": (
        QUESTION | {"subtitle": [{"start": 2, "end": 1, "text": "a"}]},
        r"'subtitle\[0\].end' is 1; it must not be before the start, 2",
    ),
    "subtitle_time": (
        QUESTION | {"subtitle": [{"start": "0:01", "end": 1, "text": "a"}]},
        r"'subtitle\[0\].start' is '0:01'; it must be a number of seconds",
    ),
    "images_text": (
        PICTURES | {"images": "1.jpg"},
        "'images' is '1.jpg'; it must be a list of one",
    ),
    "no_images": (PICTURES | {"images": []}, r"'images' is \[\]; it must be a list of one text"),
}


@pytest.mark.parametrize(("line", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_line_is_named(file, line, message):
    path = file(QUESTION, line)
    with pytest.raises(OwnDataError, match=message) as raised:
        read_own_data(path)
    assert str(raised.value).startswith(f"{path}:2: ")
    assert "\n" not in str(raised.value) and len(str(raised.value).removeprefix(str(path))) < 400


def test_all_wrong_lines_are_found(file):
    path = file(QUESTION, "{", CAPTION, {})
    wrong = [str(line) for line in own_lines(path) if isinstance(line, OwnDataError)]
    assert [message.removeprefix(f"{path}:").split(":")[0] for message in wrong] == ["2", "4"]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(OwnDataError, match=r"my\.jsonl' does not exist"):
        read_own_data(tmp_path / "my.jsonl")


def test_an_empty_file_is_named(file):
    with pytest.raises(OwnDataError, match="holds no examples"):
        read_own_data(file("", ""))


def test_a_file_that_is_no_utf8_is_named_with_the_line(file):
    path = file(QUESTION)
    path.write_bytes(path.read_bytes() + '{"video": "ä"}'.encode("latin-1"))
    with pytest.raises(OwnDataError, match=r"my\.jsonl:2: byte 0xe4 is not UTF-8"):
        read_own_data(path)


def test_a_byte_order_mark_and_separators_inside_of_texts_do_no_harm(file):
    path = file(QUESTION | {"answer": "a\u2028b"})
    text = json.dumps(QUESTION | {"answer": "a\u2028b"}, ensure_ascii=False)
    path.write_bytes(f"{text}\r\n{text}\r\n".encode("utf-8-sig"))
    (example,) = read_own_data(path)
    assert [annotation["answer"] for annotation in example.annotations] == ["a\u2028b"] * 2


def test_a_line_that_is_too_long_is_named_and_the_rest_is_read(file, monkeypatch):
    monkeypatch.setattr(own_records, "LONGEST_LINE", 200)
    path = file(QUESTION, QUESTION | {"answer": "a" * 1000}, CAPTION, QUESTION)
    good, wrong, *rest = own_lines(path)
    assert f"{path}:2: the line has over 200 bytes" in str(wrong)
    assert [line.id for line in (good, *rest)] == ["my.jsonl:1", "my.jsonl:3", "my.jsonl:4"]


# ------------------------------------------------------------------------------ other files


def test_a_file_that_is_one_list_is_read_by_its_entries(file):
    path = file("[", json.dumps(QUESTION) + ",", json.dumps(PICTURES, indent=1), "]")
    first, second = read_own_data(path)
    assert first.metadata["example_id"] == "my.jsonl:2"
    assert second.metadata["example_id"] == "my.jsonl:3" and len(second.images) == 2


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["[", "{]"], r"my.jsonl:2: an entry begins here that is not valid JSON"),
        (['[{"video": "a"}', "{}]"], r"my.jsonl:1: the list goes on without a comma"),
        ([json.dumps([QUESTION]), "{}"], "goes on after its list has ended"),
        (["[" * 100_000], "not valid JSON .too deeply nested"),
        (["{", '"video": "a.mp4"', "}"], "has an object that goes over several lines"),
        (['{"data": [', "{}", "]}"], "has an object that goes over several lines"),
        (["{\0}\0"], "is not UTF-8 text"),
        (['{"video": "a.mp4"},', '{"video": "b.mp4"}'], r"my.jsonl:1: a comma follows the object"),
    ],
)
def test_a_file_of_another_form_is_one_sentence(file, lines, message):
    with pytest.raises(OwnDataError, match=message) as raised:
        list(own_lines(file(*lines)))
    assert "\n" not in str(raised.value)


def test_a_named_pipe_a_folder_and_an_address_are_named_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, message in (
        (tmp_path / "pipe", "is a named pipe"),
        (tmp_path, "is a folder"),
        (Path("/dev/zero"), "is a device"),
        (Path("s3://bucket/my.jsonl"), "is an address"),
    ):
        with pytest.raises(OwnDataError, match=message):
            read_own_data(path)


# ------------------------------------------------------------------------- files of subtitles

SRT = """1
00:00:01,000 --> 00:00:02,500
<i>Come</i>
in.

2
00:01:00,000 --> 00:01:01,000
A &amp; <b>B
"""
VTT = """WEBVTT

NOTE a comment

first
00:01.000 --> 00:02.500 align:start
<v Ann>Come in.

second
01:00:00.000 --> 01:00:01.000
A &amp; B
"""


def write(folder, name, content, encoding="utf-8"):
    path = folder / name
    path.write_bytes(content.encode(encoding))
    return path


def with_subtitles(file, name, **fields):
    path = file(QUESTION | {"subtitle": name} | fields)
    return OwnData(path).get(0, np.random.RandomState(0)).subtitle


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_of_subtitles_is_read(file, tmp_path, encoding):
    write(tmp_path, "a.srt", SRT.replace("in.", "ïn."), encoding)
    lines = {(1.0, 2.5): "Come ïn.", (60.0, 61.0): "A &amp; B"}
    assert with_subtitles(file, "a.srt") == lines


def test_a_vtt_file_is_read_without_comments_and_names(file, tmp_path):
    write(tmp_path, "b.VTT", VTT.replace("\n", "\r\n"))
    assert with_subtitles(file, "b.VTT") == {(1.0, 2.5): "Come in.", (3600.0, 3601.0): "A & B"}


def test_subtitles_are_read_by_their_content_whatever_the_ending(file, tmp_path):
    write(tmp_path, "a.vtt", SRT)
    write(tmp_path, "b.srt", VTT)
    assert with_subtitles(file, "a.vtt") == {(1.0, 2.5): "Come in.", (60.0, 61.0): "A &amp; B"}
    assert with_subtitles(file, "b.srt") == {(1.0, 2.5): "Come in.", (3600.0, 3601.0): "A & B"}


def test_a_field_that_is_there_twice_is_refused():
    with pytest.raises(OwnDataError, match="the name 'answer' is there twice"):
        parse('{"video": "a.mp4", "question": "q", "answer": "x", "answer": "y"}', "f:1", "f:1")


def test_a_file_of_subtitles_is_counted_from_the_start_of_the_clip(file, tmp_path):
    write(tmp_path, "a.srt", SRT)
    assert with_subtitles(file, "a.srt", clip=[59, 70]) == {(1.0, 2.0): "A &amp; B"}


def test_several_lines_of_text_are_no_path(file):
    assert with_subtitles(file, "See\na.srt") == "See\na.srt"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"a.srt' does not exist"),
        (b"hello", "holds no subtitles in the form of .srt"),
        (SRT.encode().replace(b"Come", b"\xe9"), "neither UTF-8 nor UTF-16"),
        (SRT.encode().replace(b"02,500", b"00,500"), "ends at 0.5 s, before its start at 1 s"),
    ],
)
def test_a_wrong_file_of_subtitles_is_named(file, tmp_path, content, message):
    if content is not None:
        (tmp_path / "a.srt").write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        with_subtitles(file, "a.srt")


@pytest.mark.parametrize("letters", ["<a", "\n", "{\\", "< ", "\n1 "])
def test_reading_subtitles_takes_time_in_proportion_to_their_length(tmp_path, letters):
    path = write(tmp_path, "a.srt", "00:00:01,000 --> 00:00:02,500\nx" + letters * 200_000 + "x")
    begun = time.monotonic()
    assert len(read_subtitle_file(path)) == 1
    assert time.monotonic() - begun < 5
