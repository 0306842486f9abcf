"""Annotations to messages: settings, trees, prompts, answers and multiple choice."""

import copy
import pickle
import random
import re

import numpy as np
import pytest
from data_formatting_cases import (
    SEEDS,
    SFT,
    SHORT,
    UNTAGGED,
    formatted,
    images_example,
    track_example,
)

from stts_jax.data.text.formatting import Formatter, FormatterError, FormatterSettings
from stts_jax.data.text.formatting.multiple_choice import varied_form
from stts_jax.data.text.formatting.templates import TEMPLATES, draw_prompt

BARE = FormatterSettings(prompt_templates="none", message_format="none", system_prompt="none")

CHOICE = {
    "style": "video_multiple_choice",
    "question": "What is it?",
    "options": ["red", "green", "blue"],
    "answer_idx": 1,
}
TREE = {"message_list": [CHOICE, {"style": "video_long_caption", "text": "A dog."}, SHORT]}


def draws_nothing(example, settings, mode):
    rng = np.random.RandomState(0)
    Formatter(settings).format(example, mode=mode, rng=rng)
    return rng.random() == np.random.RandomState(0).random()


# Settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prompt_templates", "uber"),
        ("message_format", "llama"),
        ("system_prompt", "demo"),
        ("select_answer", "last"),
        ("format_message_list", "numbered"),
        ("pointing_format", "html-v3"),
        ("timestamp_mode", "rng-v1"),
        ("output_timestamp_mode", "frames"),
        ("p_one_message", 1.5),
        ("p_choice_content_in_mc", -0.1),
        ("p_multi_point_all_image", 2),
        ("seconds_decimal_places", -1),
    ],
)
def test_a_setting_that_is_not_known_is_named_with_its_value(name, value):
    with pytest.raises(FormatterError, match=rf"{name} is '?{value}"):
        FormatterSettings(**{name: value})


def test_the_first_demo_rule_is_refused_with_the_second_prompt_rules():
    with pytest.raises(FormatterError, match="use 'demo_or_style_v2'"):
        FormatterSettings(system_prompt="demo_or_style")


def test_settings_can_be_sent_to_a_worker():
    settings = FormatterSettings(eval_system_prompt_mapping={"a": "b"})
    assert pickle.loads(pickle.dumps(settings)) == settings


# Messages and trees


def test_a_short_answer_has_its_tag_in_the_chat_form():
    prompt, answer = formatted(SHORT).messages
    assert prompt.startswith("<|im_start|>user\nvideo_short_answer: ")
    assert prompt.endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert answer == "Ann"


def test_inference_leaves_the_answer_out():
    assert len(formatted(SHORT, mode="inference").messages) == 1


def test_an_unknown_mode_is_an_error():
    with pytest.raises(FormatterError, match="'test'"):
        formatted(SHORT, mode="test")


def test_a_message_list_is_a_tree_without_metadata():
    result = formatted(TREE)
    assert result.is_tree
    assert [len(branch) for branch in result.messages] == [2, 2, 2]
    assert result.metadata == {}


def test_one_annotation_in_a_list_is_still_a_tree():
    assert formatted({"message_list": [SHORT]}).is_tree
    assert not formatted(SHORT).is_tree


@pytest.mark.parametrize("entry", [["u", "a"], {"messages": ["u", "a"]}], ids=["list", "dict"])
def test_ready_made_messages_stay_as_they_are(entry):
    assert formatted({"message_list": [entry]}, UNTAGGED).messages == [["u", " a"]]
    if isinstance(entry, dict):
        assert formatted(entry, UNTAGGED).messages == ["u", " a"]


def test_turns_follow_each_other_and_the_first_has_the_tag():
    example = {"multi_turn_messages": [{**SHORT, "style": "talk"}, {**SHORT, "style": "other"}]}
    settings = FormatterSettings(message_format="none")
    assert formatted(example, settings).messages == ["talk: Who?", " Ann", " Who?", " Ann"]


def test_several_turns_in_a_branch_of_a_tree():
    turns = {"multi_turn_messages": [{**SHORT, "style": "talk"}] * 2}
    assert [len(branch) for branch in formatted({"message_list": [turns]}).messages] == [4]


def test_several_turns_are_not_for_inference():
    with pytest.raises(FormatterError, match="several turns"):
        formatted({"multi_turn_messages": [SHORT, SHORT]}, mode="inference")


def test_formatting_leaves_the_example_as_it_is():
    point = {"style": "video_point", "label": "dog", "points": [], "timestamps": [], "count": 0}
    tree = {"message_list": [*TREE["message_list"], {**point, "metadata": {"id": 1}}]}
    settings = FormatterSettings(p_one_message=0.5)
    before = copy.deepcopy(tree)
    formatted(tree, settings, seed=3)
    assert tree == before


def test_nothing_is_drawn_from_global_generators():
    before = random.getstate(), np.random.get_state()[1].tolist()
    formatted(TREE)
    formatted(images_example(3, "multi_image_pointing"))
    formatted(track_example("video_single_point_track_per_frame"))
    formatted(CHOICE, FormatterSettings(prompt_templates="none", p_choice_content_in_mc=0.5))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


def test_one_message_of_a_list_may_be_kept():
    assert len(formatted(TREE, FormatterSettings(p_one_message=1.0)).messages) == 1


def test_questions_and_answers_of_a_list_may_be_numbered():
    settings = FormatterSettings(
        prompt_templates="none",
        message_format="none",
        system_prompt="none",
        format_message_list="numbered_qa",
    )
    messages = formatted({"message_list": [SHORT, SHORT]}, settings).messages
    assert messages == [[" Q1: Who?", " A1: Ann"], [" Q2: Who?", " A2: Ann"]]


def test_media_may_come_after_the_first_text():
    settings = FormatterSettings(
        message_format="none", system_prompt="none", prompt_templates="none", image_last=True
    )
    assert formatted({**SHORT, "video": "a.mp4"}, settings).messages[0] == "Who?<|image|>"
    assert formatted(SHORT, settings).messages[0] == "Who?"


def test_messages_without_a_style_need_settings_without_tags():
    assert formatted({"messages": ["u", "a"]}, BARE).messages == ["u", " a"]
    with pytest.raises(FormatterError, match="message_list"):
        formatted({"messages": ["u", "a"]})


@pytest.mark.parametrize(
    "example",
    [
        {"message_list": []},
        {"messages": []},
        {"multi_turn_messages": []},
        {"messages": ["u", 3]},
        {**SHORT, "answers": []},
        {**SHORT, "answer": 3},
        {**SHORT, "question": None},
        {**CHOICE, "options": []},
        {**CHOICE, "answer_idx": -1},
        {**CHOICE, "answer_idx": "1"},
    ],
)
def test_what_cannot_be_said_is_an_error(example):
    with pytest.raises(FormatterError):
        formatted(example, UNTAGGED)


# Prompts and answers


def test_a_style_that_no_rule_knows_has_only_its_tag():
    example = {"style": "video_clip_short_caption_start_end", "text": "A dog."}
    settings = FormatterSettings(message_format="none")
    assert formatted(example, settings).messages[0] == "video_clip_short_caption_start_end:"


def test_a_style_without_wordings_is_named():
    with pytest.raises(FormatterError, match="'video_short_answer_count_without_pointing'"):
        formatted({**SHORT, "style": "video_short_answer_count_without_pointing"})


def test_a_missing_field_is_named():
    with pytest.raises(FormatterError, match="'object'"):
        formatted({"style": "video_object_caption", "text": "A dog."})


def test_every_wording_of_a_style_is_drawn():
    drawn = {
        formatted(
            {"style": "video_long_caption", "text": "A"}, UNTAGGED, mode="eval", seed=seed
        ).messages[0]
        for seed in SEEDS
    }
    assert drawn == set(TEMPLATES["video_long_caption"])


def test_debug_takes_the_first_wording_and_draws_nothing():
    settings = FormatterSettings(debug=True)
    example = {"style": "video_long_caption", "text": "A"}
    assert draws_nothing(example, settings, "train")
    assert TEMPLATES["video_long_caption"][0] in formatted(example, settings).messages[0]


def test_wordings_about_videos_speak_of_no_pictures():
    for style in ("video_short_caption", "video_long_caption", "video_point", "video_point_count"):
        assert not any(
            word in wording
            for wording in TEMPLATES[style]
            for word in ("image", "picture", "photo")
        )


@pytest.mark.parametrize("style", sorted(TEMPLATES))
def test_every_wording_can_be_filled(style):
    fields = set(re.findall("{([^{}]+)}", "".join(TEMPLATES[style])))
    values = dict.fromkeys(fields, "X")
    prompts = {draw_prompt(style, values, np.random.RandomState(seed)) for seed in range(500)}
    assert not any("{" in prompt for prompt in prompts)


def test_the_most_frequent_answer_is_given():
    example = {"style": "vqa2", "question": "c?", "answers": ["a", "b", "c", "b", "c"]}
    answers = {formatted(example, seed=seed).messages[1] for seed in SEEDS}
    assert answers == {"b", "c"}


def test_an_explanation_stands_before_the_answer():
    example = {**SHORT, "explanation": "She waves."}
    assert formatted(example).messages[1] == "She waves. Answer: Ann"


# Multiple choice


def test_evaluation_draws_nothing_for_a_choice():
    assert draws_nothing(CHOICE, SFT, "eval")
    assert formatted(CHOICE, UNTAGGED, mode="eval").messages == [
        "What is it?\nOnly return the correct answer option.\nA. red\nB. green\nC. blue",
        " B. green",
    ]


def test_training_asks_in_many_forms_and_in_the_standard_one():
    prompts = [formatted(CHOICE, UNTAGGED, seed=seed).messages[0] for seed in SEEDS]
    standard = formatted(CHOICE, UNTAGGED, mode="eval").messages[0]
    assert len(set(prompts)) > len(SEEDS) / 2
    assert 0.03 < prompts.count(standard) / len(SEEDS) < 0.2


@pytest.mark.parametrize("count", [2, 5, 10])
def test_what_is_answered_stands_in_the_prompt(count):
    options = [f"thing {index}" for index in range(count)]
    for seed in SEEDS:
        choice = varied_form("Which?", options, np.random.RandomState(seed))
        assert len(choice.names) == len(choice.outputs) == count
        assert all(output in choice.prompt for output in choice.outputs)
        assert all(option in choice.prompt for option in options)


def test_a_blank_answer_always_has_a_label():
    example = {**CHOICE, "options": ["x", " "]}
    assert all(formatted(example, UNTAGGED, seed=seed).messages[1].strip() for seed in SEEDS)


def test_an_answer_beyond_the_labels_is_an_error():
    example = {**CHOICE, "options": [f"o{i}" for i in range(30)], "answer_idx": 29}
    with pytest.raises(FormatterError, match="0 to 25"):
        formatted(example, mode="eval")


def test_older_rules_may_answer_with_the_letter_only():
    answers = {
        p: formatted(CHOICE, FormatterSettings(prompt_templates="none", p_choice_content_in_mc=p))
        for p in (0.0, 1.0)
    }
    assert answers[0.0].messages[1] == "B"
    assert answers[1.0].messages[1] == "B. green"


def test_older_rules_draw_from_the_generator_they_are_given():
    settings = FormatterSettings(prompt_templates="none", p_choice_content_in_mc=0.5)
    answers = {formatted(CHOICE, settings, seed=seed).messages[1] for seed in SEEDS}
    assert answers == {"B", "B. green"}
    assert draws_nothing(CHOICE, FormatterSettings(prompt_templates="none"), "train")
