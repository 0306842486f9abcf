"""Points and tracks: in prompts and answers, and read back."""

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

from stts_jax.data.text.formatting import FormatterError, FormatterSettings
from stts_jax.data.text.formatting.point_parsing import (
    parse_points,
    parse_tracks,
)
from stts_jax.data.text.formatting.points import image_points, multi_image_points, video_points
from stts_jax.data.text.formatting.templates import TEMPLATES
from stts_jax.data.text.formatting.tracks import track_text


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
