"""Lines in the formats of other programs: what they become, and what is refused."""

import json

import pytest

from stts_jax.data.sources.foreign_lines import ForeignLineError, own_fields
from stts_jax.data.sources.own_data import OwnDataError, read_own_data


def conversations(*values, **fields):
    """A line of LLaVA whose turns are the human's and the model's by turns."""
    turns = [{"from": ("human", "gpt")[k % 2], "value": value} for k, value in enumerate(values)]
    return {"conversations": turns, **fields}


def messages(*contents, **fields):
    """A line of ms-swift or OpenAI, likewise."""
    roles = ("user", "assistant")
    turns = [{"role": roles[k % 2], "content": said} for k, said in enumerate(contents)]
    return {"messages": turns, **fields}


def turns(*texts):
    pairs = zip(texts[::2], texts[1::2], strict=True)
    return [{"question": question, "answer": answer} for question, answer in pairs]


SYSTEM = {"from": "system", "value": "Be brief."}
IMAGE_PART = {"type": "image_url", "image_url": {"url": "1.jpg"}}
ASKED = {"type": "text", "text": "What?"}
READ = {
    "video": (
        conversations("<video>\nWhat?", "a cat", video="a.mp4", id=3),
        {"id": 3, "video": "a.mp4", "turns": turns("What?", "a cat")},
    ),
    "mark_at_the_end": (
        conversations("What?\n<image>", "a cat", image="1.jpg"),
        {"images": ["1.jpg"], "turns": turns("What?", "a cat")},
    ),
    "no_mark": (
        conversations("What?", "a cat", image=["1.jpg"]),
        {"images": ["1.jpg"], "turns": turns("What?", "a cat")},
    ),
    "several_pictures": (
        conversations("<image>\n<image>\nWhat changed?", "it", image=["1.jpg", "2.jpg"]),
        {"images": ["1.jpg", "2.jpg"], "turns": turns("What changed?", "it")},
    ),
    "pictures_within_the_question": (
        conversations("Is <image> like <image>?", "no", images=["1.jpg", "2.jpg"]),
        {"images": ["1.jpg", "2.jpg"], "turns": turns("Is Image 1 like Image 2?", "no")},
    ),
    "several_turns": (
        conversations("<video>Who?", "a man", "And then?", "He leaves.", video="a.mp4"),
        {"video": "a.mp4", "turns": turns("Who?", "a man", "And then?", "He leaves.")},
    ),
    "system": (
        {
            "video": "a.mp4",
            "conversations": [SYSTEM, *conversations("What?", "a")["conversations"]],
        },
        {"video": "a.mp4", "turns": turns("Be brief.\n\nWhat?", "a")},
    ),
    "system_beside": (
        messages("What?", "a", videos=["a.mp4"], system="Be brief."),
        {"video": "a.mp4", "turns": turns("Be brief.\n\nWhat?", "a")},
    ),
    "other_fields": (
        conversations("What?", "a", video="a.mp4", data_source="x", type="place", clip=[0, 1]),
        {"video": "a.mp4", "type": "place", "clip": [0, 1], "turns": turns("What?", "a")},
    ),
    "videos": (
        messages("<video>What?", "a cat", videos=["a.mp4"], images=[]),
        {"video": "a.mp4", "turns": turns("What?", "a cat")},
    ),
    "images": (
        messages("<image>What?", "a cat", images=[{"path": "1.jpg"}]),
        {"images": ["1.jpg"], "turns": turns("What?", "a cat")},
    ),
    "parts": (
        messages([IMAGE_PART, ASKED], "a cat"),
        {"images": ["1.jpg"], "turns": turns("What?", "a cat")},
    ),
    "answer_in_parts": (
        messages([{"type": "video", "video": "a.mp4"}, ASKED], [{"type": "text", "text": "a cat"}]),
        {"video": "a.mp4", "turns": turns("What?", "a cat")},
    ),
    "part_and_list": (
        messages([{"type": "image"}, ASKED], "a cat", images=["1.jpg"]),
        {"images": ["1.jpg"], "turns": turns("What?", "a cat")},
    ),
    "video_marked_as_a_picture": (
        conversations("<image>\nWhat?", "a cat", video="a.mp4"),
        {"video": "a.mp4", "turns": turns("What?", "a cat")},
    ),
    "not_learnt": (
        {
            "video": "a.mp4",
            "messages": [
                {"role": "user", "content": "a", "loss": None},
                {"role": "assistant", "content": "b", "loss": False},
                {"role": "user", "content": "c", "weight": 0},
                {"role": "assistant", "content": "d", "train": True},
            ],
        },
        {
            "video": "a.mp4",
            "turns": [{"question": "a", "answer": "b", "weight": 0}, *turns("c", "d")],
        },
    ),
    "captions": (
        {"video": None, "video_path": "a.mp4", "captions": [{"idx": "-1", "content": "A cat."}]},
        {"video": "a.mp4", "caption": "A cat."},
    ),
    "base64": (
        messages([{"type": "image", "base64": "AAAA"}, ASKED], "a cat"),
        {"images": ["data:image/unknown;base64,AAAA"], "turns": turns("What?", "a cat")},
    ),
    "mark_in_an_answer": (
        conversations("What?", "<video> is a tag", video="a.mp4"),
        {"video": "a.mp4", "turns": turns("What?", "<video> is a tag")},
    ),
}


@pytest.mark.parametrize(("line", "fields"), READ.values(), ids=READ)
def test_a_line_of_another_format_is_read(line, fields):
    assert own_fields(line) == fields


REFUSED = {
    "both_forms": (conversations("a", "b", video="a.mp4", question="c"), "'question' beside"),
    "tools": (messages("a", "b", videos=["a.mp4"], tools=["x"]), "field 'tools' beside 'messages'"),
    "no_list": ({"conversations": "a"}, "'conversations' is 'a'; it must be a list of objects"),
    "no_turn": ({"messages": ["a"]}, r"'messages\[0\]' is 'a'; write an object with role and cont"),
    "role": (
        {"messages": [{"role": "tool", "content": "a"}]},
        r"'messages\[0\].role' is 'tool', a turn that is not read",
    ),
    "two_questions": (
        {"conversations": [{"from": "human", "value": "a"}] * 2},
        "turn 2 of 'conversations' is the user's, and should be the assistant's",
    ),
    "no_answer": (conversations("a", "b", "c", video="a.mp4"), "does not end with an answer"),
    "number": (conversations("a", 3, video="a.mp4"), r"'conversations\[1\].value' is 3; a content"),
    "mark_too_many": (
        conversations("<image><image>a", "b", image="1.jpg"),
        "there are 2 '<image>' for 1 images; write one for each, or none",
    ),
    "mark_without_a_file": (messages("<video>a", "b"), "there are 1 '<video>' for 0 videos"),
    "later_picture": (
        conversations("a", "b", "<image>c", "d", image="1.jpg"),
        "a later turn shows a video or picture",
    ),
    "mark_within": (conversations("In <video> who?", "b", video="a.mp4"), "stands within a quest"),
    "two_videos": (messages("a", "b", videos=["a.mp4", "b.mp4"]), "there are 2 videos"),
    "named_twice": (messages([IMAGE_PART, ASKED], "b", images=["2.jpg"]), "name all in one way"),
    "audio": (
        messages([{"type": "input_audio"}, ASKED], "b"),
        r"'messages\[0\].content' is \{'type': 'input_audio'\}; a content is a text",
    ),
    "half_weight": (
        {"messages": [{"role": "user", "content": "a"},
                      {"role": "assistant", "content": "b", "weight": 0.5}]},
        r"'messages\[1\].weight' is 0.5; write 0 or false for an answer that is not learnt",
    ),
    "parts_learnt": (
        {"conversations": [{"from": "human", "value": "a"},
                           {"from": "gpt", "value": "b", "train_detail": [{"train": True}]}]},
        r"'conversations\[1\].train_detail' is not read",
    ),
    "tool_calls": (
        {"messages": [{"role": "user", "content": "a"},
                      {"role": "assistant", "content": "b", "tool_calls": [{}]}]},
        r"'messages\[1\].tool_calls' is not read",
    ),
    "captions": ({"captions": [{"idx": "1", "content": "a"}]}, "one has the idx -1"),
}  # fmt: skip


@pytest.mark.parametrize(("line", "message"), REFUSED.values(), ids=REFUSED)
def test_what_our_lines_cannot_say_is_refused(line, message):
    with pytest.raises(ForeignLineError, match=message):
        own_fields(line)


def test_a_file_may_mix_formats(tmp_path):
    path = tmp_path / "my.jsonl"
    own = {"video": "a.mp4", "question": "Who?", "answer": "a man"}
    lines = [own, conversations("<video>\nWhat?", "a cat", video="a.mp4")]
    path.write_text("\n".join(map(json.dumps, lines)))
    (example,) = read_own_data(path)
    assert [one["question"] for one in example.annotations] == ["Who?", "What?"]


def test_a_refused_line_is_named(tmp_path):
    path = tmp_path / "my.jsonl"
    path.write_text(json.dumps(messages([IMAGE_PART, ASKED], "b", videos=["s3://b/a.mp4"])))
    with pytest.raises(OwnDataError, match=r"my.jsonl:1: .* example shows one of them"):
        read_own_data(path)
