"""Annotations to messages: prompts, choices, answers, trees, points and tracks."""

import copy
import pickle
import random
import re

import numpy as np
import pytest

from stts_jax.data.formatting import Formatter, FormatterError, FormatterSettings
from stts_jax.data.formatting.multiple_choice import varied_form
from stts_jax.data.formatting.point_parsing import (
    parse_points,
    parse_tracks,
)
from stts_jax.data.formatting.points import image_points, video_points
from stts_jax.data.formatting.templates import TEMPLATES, draw_prompt
from stts_jax.data.formatting.tracks import track_text

SFT = FormatterSettings()
BARE = FormatterSettings(prompt_templates="none", message_format="none", system_prompt="none")
UNTAGGED = FormatterSettings(message_format="none", system_prompt="none")
SEEDS = range(200)

CHOICE = {
    "style": "video_multiple_choice",
    "question": "What is it?",
    "options": ["red", "green", "blue"],
    "answer_idx": 1,
}
SHORT = {"style": "video_short_answer", "question": "Who?", "answer": "Ann"}
TREE = {"message_list": [CHOICE, {"style": "video_long_caption", "text": "A dog."}, SHORT]}


def formatted(example, settings=SFT, mode="train", seed=0):
    return Formatter(settings).format(example, mode=mode, rng=np.random.RandomState(seed))


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


# Points


def test_points_are_sorted_after_rounding_and_numbered():
    points = [(50.04, 10), (50.01, 90), (7, 8)]
    text = image_points(points, (100, 100), "dog", "point", SFT)
    assert text == '<points coords="1 1 070 080 2 500 100 3 500 900">dog</points>'


def test_points_outside_are_moved_to_the_border():
    text = image_points([(-3, 50), (50, 130)], (100, 100), "dog", "point", SFT)
    assert text == '<points coords="1 1 000 500 2 500 1000">dog</points>'


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("count", "2"),
        ("count_point", 'There are 2 <points coords="0.5 1 100 200;1.0 2 300 400">dog</points>.'),
        ("point", '<points coords="0.5 1 100 200;1.0 2 300 400">dog</points>'),
    ],
)
def test_numbers_run_on_over_frames(mode, expected):
    text = video_points([0.5, 1.0], [[(10, 20)], [(30, 40)]], (100, 100), "dog", mode, SFT)
    assert text == expected


def test_the_size_of_an_image_scales_its_points():
    example = {"style": "pointing", "label": "Dog", "points": [(20, 30)]}
    tag = '<points coords="1 1 100 500">dog</points>'
    image = np.zeros((60, 200, 3), np.uint8)
    assert formatted({**example, "image": image}).messages[1] == tag
    assert formatted({**example, "w": 200, "h": 60}).messages[1] == tag
    with pytest.raises(FormatterError, match="point_scale"):
        formatted(example)


def test_the_oldest_point_format_is_not_written():
    settings = FormatterSettings(pointing_format="default")
    with pytest.raises(FormatterError, match="html-v2"):
        image_points([(1, 1)], (2, 2), "dog", "point", settings)


def test_what_is_no_point_is_an_error():
    with pytest.raises(FormatterError, match="not a point"):
        image_points([{"x": 1}], (2, 2), "dog", "point", SFT)


def test_points_fill_their_places_in_an_answer():
    place = {"points": [[10, 20]], "inline_text": "it", "alt_text": "dog"}
    example = {**SHORT, "answer": "See <|POINT|>.", "answer_annotations": [place]}
    written = 'See <points alt="dog" coords="1 1 100 200">it</points>.'
    assert formatted(example).messages[1] == written
    with pytest.raises(FormatterError, match="POINT"):
        formatted({**example, "answer_annotations": [place, place]})


def test_videos_without_the_object_or_without_an_answer():
    example = {"style": "video_point_count", "label": "dogs", "points": [], "timestamps": []}
    assert formatted({**example, "count": 0}).messages[1] == "There are none."
    unanswerable = {**example, "unanswerable": True, "explanation": ""}
    assert formatted(unanswerable).messages[1] == "Sorry, I can't count dogs."
    assert formatted({**unanswerable, "explanation": "Dark."}).metadata["answer"] == "Dark."


def images_example(count, style):
    """Images that hold one dog each, save the second, which holds a cat."""
    kinds = ["dog" if index != 1 else "cat" for index in range(count)]
    return {
        "style": style,
        "point_scale": 100,
        "normalized_labels": kinds,
        "labels": [f"{kind}s" for kind in kinds],
        "points": [[{"x": 10 * index, "y": 50}] for index in range(count)],
    }


def test_several_images_are_asked_about_in_all_ways():
    prompts, answers = set(), set()
    for seed in SEEDS:
        prompt, answer = formatted(
            images_example(3, "multi_image_pointing"), UNTAGGED, seed=seed
        ).messages
        prompts.add("all images" in prompt or "image_" in prompt)
        answers.add(answer.strip())
    assert prompts == {True, False}
    assert '<points coords="1 1 000 500;3 2 200 500">dogs</points>' in answers
    assert '<points coords="2 1 100 500">cats</points>' in answers
    assert "There are none." in answers


def test_only_images_that_are_asked_about_are_answered():
    turns = [
        formatted(images_example(4, "multi_image_point_then_count"), UNTAGGED, seed=seed).messages
        for seed in SEEDS
    ]
    named = [turn for turn in turns if "image_" in turn[0]]
    assert named
    for prompt, answer in named:
        told = parse_points(answer, 100, 100)
        assert all(f"image_{point.group:.0f}" in prompt for point in told)


# Tracks


def track_example(style, **fields):
    """A dog (0) that moves right, and a cat (7) that is hidden at first and further left."""
    frames = [
        {
            "frame": 3 * index,
            "time": 0.5 * index,
            "points": {
                0: {"point": [50 + index, 50]},
                7: {"point": [10 + index, 20], "occluded": index == 0},
            },
        }
        for index in range(5)
    ]
    return {
        "style": style,
        "label": "pets",
        "point_scale": 100,
        "sampling_fps": 1,
        "points": frames,
        "video": {"timestamps": np.arange(0, 2.1, 0.5)},
        **fields,
    }


def test_tracks_hold_the_frames_at_the_rate():
    answer = formatted(track_example("video_point_track_per_frame")).messages[1]
    assert answer == (
        '<tracks coords="0.0 1 500 500;1.0 1 520 500 2 120 200;2.0 1 540 500 2 140 200">'
        "pets</tracks>"
    )


def test_tracks_hold_only_frames_of_the_video():
    example = track_example("video_point_track_per_frame", video={"timestamps": np.array([1.0])})
    answer = formatted(example).messages[1]
    assert answer == '<tracks coords="1.0 1 120 200 2 520 500">pets</tracks>'


def test_a_video_without_annotated_frames_has_no_tracks():
    example = track_example("video_point_track_per_frame", video={"timestamps": np.array([0.3])})
    assert formatted(example).messages[1] == "No tracks available."


def test_first_and_last_appearance():
    answer = formatted(track_example("video_point_ground_start_end")).messages[1]
    times = [frame.time for frame in parse_tracks(answer, 100, 100, 6)]
    assert times == [0.0, 2.0]


def test_a_single_track_starts_after_the_point_that_is_given():
    example = track_example("video_single_point_track_per_frame", sampling_fps=2)
    prompt, answer = formatted(example, mode="eval").messages
    assert '<points coords="0.0 1 500 500">pets</points>' in prompt
    assert [frame.time for frame in parse_tracks(answer, 100, 100, 6)] == [0.5, 1.0, 1.5, 2.0]


def test_a_single_track_follows_the_object_that_is_meant():
    example = track_example("video_single_point_track_per_frame")
    frames = [
        {**frame, "points": dict(reversed(frame["points"].items()))} for frame in example["points"]
    ]
    for seed in SEEDS:
        prompt = formatted({**example, "points": frames}, seed=seed).messages[0]
        assert all(point.y == 50 for point in parse_points(prompt, 100, 100))


def test_training_starts_some_single_tracks_later():
    example = track_example("video_single_point_track_per_frame")
    starts = [
        parse_points(formatted(example, seed=seed).messages[0], 100, 100)[0].group > 0
        for seed in SEEDS
    ]
    assert 0.05 < np.mean(starts) < 0.3
    settings = FormatterSettings(sample_random_initial_point=False)
    assert not any(
        parse_points(formatted(example, settings, seed=seed).messages[0], 100, 100)[0].group
        for seed in SEEDS
    )


def test_initial_points_are_numbered_from_zero():
    start = {"id": 4, "time": 0.0, "frame": 0, "point": [1, 2]}
    example = track_example("video_single_point_track_per_frame", initial_points=[start])
    with pytest.raises(FormatterError, match="number them from 0"):
        formatted(example)


def test_an_object_that_is_never_seen_cannot_be_followed():
    example = track_example("video_single_point_track_per_frame")
    frames = [{**frame, "points": {7: frame["points"][7]}} for frame in example["points"]]
    with pytest.raises(FormatterError, match="never visible"):
        formatted({**example, "points": frames})


def test_two_frames_a_second_go_unsaid_in_half_of_the_prompts():
    example = track_example("video_point_track_per_frame", sampling_fps=2)
    unsaid = [
        formatted(example, UNTAGGED, seed=seed).messages[0].replace("pets", "{label}")
        in TEMPLATES["video_point_track_per_frame_default_fps"]
        for seed in SEEDS
    ]
    assert 0.35 < np.mean(unsaid) < 0.65


# Reading points back


def test_image_points_are_read_back():
    text = image_points([(30, 60), (10, 20)], (100, 200), "dog", "point_count", SFT)
    points = parse_points(text, 100, 200)
    assert [(point.number, point.x, point.y) for point in points] == [(1, 10, 20), (2, 30, 60)]


@pytest.mark.parametrize("pointing_format", ["html-v1", "html-v2"])
def test_points_of_several_images_are_read_back_in_their_sizes(pointing_format):
    settings = FormatterSettings(pointing_format=pointing_format)
    sizes = [(100, 200), (50, 50)]
    text = multi_image_points([1, 2], [[(10, 20)], [(25, 5)]], sizes, "dog", "point", settings)
    points = parse_points(text, 1, 1)
    found = [(p.group, p.x * w, p.y * h) for p, (w, h) in zip(points, sizes, strict=True)]
    assert found == [(1, 10, 20), (2, 25, 5)]


def test_tracks_are_read_back():
    frames = track_example("video_point_track_per_frame")["points"]
    parsed = parse_tracks(track_text(frames, (100, 100), "pets", SFT), 100, 100, fps=6)
    assert [frame.frame for frame in parsed] == [frame["frame"] for frame in frames]
    assert parsed[0].points == {1: (50, 50)}
    assert parsed[1].points == {1: (51, 50), 2: (11, 20)}


@pytest.mark.parametrize(
    "text",
    [
        "There are none.",
        '<points coords="1 1 5 80">dog</points>',
        '<points coords="1 1 1001 080">dog</points>',
        '<points coords="1.2.3 1 100 080">dog</points>',
        "<points>dog</points>",
    ],
)
def test_what_names_no_point_is_read_as_none(text):
    assert parse_points(text, 100, 100) == []


def test_of_two_points_with_one_number_the_first_counts():
    text = '<tracks coords="0.5 1 100 100 1 200 200">dog</tracks>'
    assert parse_tracks(text, 100, 100, 2)[0].points == {1: (10, 10)}
