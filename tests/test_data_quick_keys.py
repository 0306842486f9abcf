"""Keys of usual lines, found without the whole check; any other line is left to that."""

from pathlib import Path

import numpy as np
import pytest

from stts_jax.data.sources import quick_keys
from stts_jax.data.sources.media_key import line_key
from stts_jax.data.sources.own_line import parse_value
from stts_jax.data.sources.quick_keys import quick_key


def line(number, **fields):
    return {"video": f"{number % 7}.mp4", "question": f"{number}?", "answer": "a"} | fields


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


def test_paths_that_need_a_closer_look_are_few():
    assert quick_keys._is_plain_path("clips/day 1/a.b.mp4")
