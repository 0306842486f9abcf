"""Benchmarks from their published layout: wording, media, and what their metrics need.

The expected texts are those of the reference's classes (docs/reference.md#benchmarks) on the same
files.
"""

import json
import sys

import numpy as np
import pytest
from benchmark_fixtures import EGO_OPTIONS, LEFT_MASK, RIGHT_MASK, build_root, write_video
from dataset_fixtures import write_table
from PIL import Image
from video_reading import read_video

from stts_jax.config import load_config
from stts_jax.data.check import CheckOptions, check, registered
from stts_jax.data.datasets.base import DatasetError, dataset_class, dataset_names
from stts_jax.data.datasets.benchmarks import BENCHMARKS
from stts_jax.data.datasets.benchmarks.long_video_bench import within_video
from stts_jax.data.datasets.benchmarks.lvbench import split_question
from stts_jax.data.datasets.benchmarks.mvbench_clips import make_video
from stts_jax.data.datasets.run_length import TimedMasks, decode_mask
from stts_jax.data.evaluation_batches import batches_of_prompts
from stts_jax.data.formatting.formatter import Formatter
from stts_jax.evaluation.results import TaskPrediction, score_task
from stts_jax.evaluation.scoring.registry import metric_named
from stts_jax.evaluation.scoring.score import score_answers, summarize
from stts_jax.evaluation.suites import tasks_of

ELSEWHERE = ("perception_test", "nextqa_mc")  # with the training sets
NAMES = tuple(name for name in BENCHMARKS if not name.startswith(ELSEWHERE))
SCORED_BY_RULE = tuple(name for name in NAMES if not name.startswith("mlvu_gen"))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return build_root(tmp_path_factory.mktemp("benchmarks"))


@pytest.fixture
def examples(root):
    """`examples("name:split")`: all examples of a benchmark."""

    def read(name):
        name, _, split = name.partition(":")
        dataset = dataset_class(name)(root, split or None)
        return [dataset.get(index, np.random.RandomState(0)) for index in range(len(dataset))]

    return read


@pytest.fixture
def question(examples):
    """`question(name, index)`: annotation and metadata of an example, for what is asked."""

    def read(name, index=0):
        example = examples(name)[index]
        (annotation,) = example.annotations
        return annotation, example.metadata

    return read


# ------------------------------------------------------------------------------------------ all


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_has_questions_with_videos_and_ids(examples, name):
    for example in examples(name):
        assert example.video.is_file()
        assert example.metadata["example_id"]
        assert len(example.annotations) == 1


@pytest.mark.parametrize("name", NAMES)
def test_ids_of_a_benchmark_differ(examples, name):
    kinds = [
        (example.metadata["example_id"], example.metadata.get("reasoning_type"))
        for example in examples(name)
    ]
    assert len(set(kinds)) == len(kinds)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_shown_the_question_and_no_answer(examples, name):
    for example in examples(name):
        (annotation,) = example.annotations
        rng = np.random.RandomState(0)
        (shown,) = Formatter().format(annotation, mode="inference", rng=rng).messages
        assert annotation["question"] in shown


@pytest.fixture
def scored(examples):
    """`scored(name, answer_of)`: a benchmark with the answers `answer_of(example, right)`."""

    def score(name, answer_of):
        (task,) = tasks_of([name])
        asked = [
            (example.metadata, answer_of(example, right_answer(example)))
            for example in examples(name)
        ]
        metric = metric_named(task.metric)
        answers, metadata = [answer for _, answer in asked], [shown for shown, _ in asked]
        return summarize(metric, score_answers(metric, answers, metadata))

    return score


def right_answer(example):
    """What the model is trained to say."""
    (annotation,) = example.annotations
    return Formatter().format(annotation, mode="eval", rng=np.random.RandomState(0)).messages[1]


@pytest.mark.parametrize("name", SCORED_BY_RULE)
def test_right_answers_score_one_by_the_metric(scored, name):
    summary = scored(name, lambda example, right: right)
    assert (summary.value, summary.fixed_value) == (1.0, 1.0)


@pytest.mark.parametrize("name", SCORED_BY_RULE)
def test_wrong_answers_score_nought_by_the_metric(scored, name):
    wrong = {"yes": "no", "no": "yes"}
    summary = scored(
        name,
        lambda example, right: wrong.get(right) or ("B." if right.startswith("A") else "A."),
    )
    assert summary.value == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_the_published_split_is_the_usual_one(name):
    name, _, split = name.partition(":")
    assert dataset_class(name).splits[0] == split


@pytest.mark.parametrize("name", NAMES)
def test_missing_annotations_are_an_error_that_names_the_file(tmp_path, name):
    name, _, split = name.partition(":")
    with pytest.raises(DatasetError, match=str(tmp_path)):
        dataset_class(name)(tmp_path, split)


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_says_where_to_get_it(name):
    assert dataset_class(name.partition(":")[0]).home.startswith("https://")


def test_mlvu_is_mlvu():
    assert dataset_class("mlvu") is dataset_class("mlvu_mc")


def test_names_that_the_reference_asks_for_but_does_not_know_are_known():
    wanted = {"video_mme", "long_video_bench_no_subtitle", "temp_compass_internal"}
    assert wanted <= set(dataset_names())


# -------------------------------------------------------------------------------- short videos


def test_mvbench_asks_for_the_letter(question):
    annotation, metadata = question("mvbench")
    assert annotation == {
        "style": "video_eval_multiple_choice",
        "question": "What happened after the person took the food?\n"
        "A. Ate the medicine.\nB. Tidied up the blanket.\nC. Put down the cup.\n"
        "Please respond with only the letter of the correct answer.",
        "answer": "B.",
    }
    assert metadata == {
        "example_id": "Action Sequence_0",
        "task_type": "Action Sequence",
        "answer": "B.",
    }


def test_mvbench_shows_the_clip_where_there_is_one(examples):
    clips = {
        example.metadata["example_id"]: example.clip for example in examples("mvbench:validation")
    }
    assert clips["Action Sequence_0"] == (0.5, 1.5)
    assert clips["Action Sequence_1"] is None  # start and end are null
    assert clips["Object Shuffle_0"] is None  # there are none


def test_mvbench_has_all_twenty_tasks(examples):
    assert len({example.metadata["task_type"] for example in examples("mvbench")}) == 20


def test_mvbench_reads_the_video_made_of_the_pictures_of_an_episode(examples):
    (example,) = (e for e in examples("mvbench") if e.metadata["task_type"] == "Episodic Reasoning")
    assert example.video.parts[-2:] == ("castle_s01e02_seg02_clip_00", "video.mp4")


def test_the_video_of_an_episode_is_made_of_its_pictures_by_number(tmp_path):
    for number, grey in ((2, 60), (10, 120), (1, 0)):
        Image.new("RGB", (40, 20), (grey,) * 3).save(tmp_path / f"{number}.jpg")
    assert make_video(tmp_path) == "made"
    video = read_video(tmp_path / "video.mp4", 3, None)
    assert video.frames.shape == (3, 32, 48, 3)
    assert video.timestamps[-1] == pytest.approx(1.0)
    # Measured: 1 level off, from the conversion to YUV and back.
    np.testing.assert_allclose(video.frames[:, 10, 20, 0], [0, 60, 120], atol=3)
    assert make_video(tmp_path) == "kept"


def test_an_answer_that_is_no_option_is_an_error(root):
    dataset = dataset_class("mvbench")(root)
    task, number, row = dataset.records[0]
    with pytest.raises(DatasetError, match="'Slept' is not one of the options"):
        dataset.example((task, number, row | {"answer": "Slept"}), np.random.RandomState(0))


def test_motionbench_shows_the_question_as_it_is(question):
    annotation, metadata = question("motionbench")
    assert annotation == {
        "style": "video_eval_multiple_choice",
        "question": "What is the motion of the man's left hand?\n"
        "A. It waves.\nB. It opens a tap.\nC. It is still.\nD. It points.",
        "answer": "B",
    }
    assert metadata["example_id"] == "u0_k0" and metadata["task_type"] == "Motion Recognition"


def test_motionbench_leaves_out_questions_without_an_answer(examples):
    assert [e.metadata["qa_uid"] for e in examples("motionbench")] == ["u0", "u2"]
    assert [e.metadata["qa_uid"] for e in examples("motionbench:test")] == ["u0", "u1", "u2"]


def test_motionbench_videos_are_in_two_folders(examples):
    folders = [example.video.parent.name for example in examples("motionbench")]
    assert folders == ["self-collected", "public-dataset"]


def test_tomato_gives_options_and_their_letters(question):
    annotation, metadata = question("tomato")
    choice = {"options": ["0", "1", "2", "3", "4", "5"], "answer_idx": 2}
    assert annotation == {
        "style": "video_multiple_choice",
        "question": "How many triangles does the person draw?",
        **choice,
    }
    assert metadata == {
        "example_id": "0",
        "key": "0246-06",
        "reasoning_type": "count",
        "demonstration_type": "human",
        "motion_type": "translation",
        "option_names": "ABCDEF",
        **choice,
    }


def test_tomato_is_asked_like_any_multiple_choice(examples):
    (annotation,) = examples("tomato")[1].annotations
    rng = np.random.RandomState(0)
    shown = Formatter().format(annotation, mode="eval", rng=rng)
    assert shown.messages == [
        "<|im_start|>user\nIn which direction does the ball roll?\n"
        "Only return the correct answer option.\nA. Left\nB. Right\nC. Not moving at all"
        "<|im_end|>\n<|im_start|>assistant\n",
        "A. Left",
    ]
    assert shown.metadata["option_names"] == examples("tomato")[1].metadata["option_names"]


def test_ego_schema_asks_for_the_letter(question):
    annotation, metadata = question("ego_schema")
    assert annotation == {
        "style": "video_eval_multiple_choice",
        "question": "What is the main thing that C does?\n"
        "A. C cuts wood.\nB. C paints.\nC. C reads.\nD. C cooks.\nE. C sleeps.\n"
        "Answer with the option's letter from the given choices directly.",
        "answer": "D",
    }
    assert metadata["options"] == EGO_OPTIONS and metadata["answer_idx"] == 3


def test_ego_schema_test_has_no_answers(question):
    annotation, metadata = question("ego_schema:test")
    assert "answer" not in annotation and "answer" not in metadata
    assert metadata["answer_idx"] is None


# -------------------------------------------------------------------------------- temp compass


@pytest.fixture
def temp_compass(examples):
    """`temp_compass(task)`: annotation and metadata of each question of a task."""

    def read(task, name="temp_compass_internal"):
        found = (example for example in examples(name) if example.metadata["task"] == task)
        return [(example.annotations[0], example.metadata) for example in found]

    return read


def test_temp_compass_internal_has_the_tasks_scored_by_rules(examples):
    tasks = {example.metadata["task"] for example in examples("temp_compass_internal")}
    assert tasks == {"multi-choice", "yes_no", "caption_matching"}


def test_temp_compass_multiple_choice(temp_compass):
    annotation, metadata = temp_compass("multi-choice")[0]
    published = (
        "What is the man doing in the video?\nA. painting a wall\nB. washing a car\n"
        "C. mowing a lawn"
    )
    assert annotation == {
        "style": "video_eval_multiple_choice",
        "question": f"{published}\nPlease directly give the best option:",
        "answer": "B. washing a car",
    }
    assert metadata == {
        "example_id": "1034419625_multi-choice_0",
        "video_id": "1034419625",
        "task": "multi-choice",
        "temporal_aspect": "action",
        "question": published,
        "answer": "B. washing a car",
    }


def test_temp_compass_yes_or_no(temp_compass):
    annotation, metadata = temp_compass("yes_no")[1]
    assert annotation == {
        "style": "video_eval_short_answer",
        "question": "Is the man mowing a lawn?\nPlease answer yes or no:",
        "answer": "no",
    }
    assert metadata["answer"] == "no"


def test_temp_compass_caption_matching_is_multiple_choice(temp_compass):
    annotation, metadata = temp_compass("caption_matching")[0]
    choice = {
        "options": ["The man is mowing a lawn.", "The man is washing a car."],
        "answer_idx": 1,
    }
    assert annotation == {
        "style": "video_eval_multiple_choice",
        "question": "Which description is a more suitable match for the video?",
        **choice,
    }
    assert metadata["answer"] == "B. The man is washing a car."


def test_temp_compass_captions_keep_their_own_colons(temp_compass):
    annotation, _ = temp_compass("caption_matching")[1]
    assert annotation["options"][0] == "At 10:30 the man is washing a car."


def test_temp_compass_leaves_out_captions_that_none_is_right_of(temp_compass):
    numbers = [
        metadata["example_id"].rpartition("_")[2]
        for _, metadata in temp_compass("caption_matching")
    ]
    assert numbers == ["0", "2"]


def test_temp_compass_captions_are_judged_by_a_question_on_the_same(temp_compass):
    ((annotation, metadata),) = temp_compass("captioning", "temp_compass")
    assert annotation["style"] == "demo"
    assert annotation["question"].endswith("\nGenerated Caption:")
    assert metadata["mc_question"].startswith("What is the man doing in the video?\nA. ")
    assert metadata["mc_answer"] == "B. washing a car"


# --------------------------------------------------------------------------------- long videos


def test_video_mme_has_its_own_instruction(question):
    annotation, metadata = question("video_mme")
    assert annotation == {
        "style": "video_eval_multiple_choice",
        "question": "Select the best answer to the following multiple-choice question based on the "
        "video. Respond with only the letter (A, B, C, or D) of the correct option.\n"
        "What is folded in the video?\nA. Paper.\nB. Wood.\nC. Glass.\nD. Steel.\n"
        "The best answer is:",
        "answer": "A",
    }
    assert metadata == {
        "example_id": "001-1_001_0",
        "video_id": "001",
        "question_id": "001-1",
        "duration": "short",
        "domain": "Knowledge",
        "sub_category": "Handicraft",
        "task_type": "Object Recognition",
        "answer": "A",
    }


def test_video_mme_shows_subtitles_where_there_are_some(examples):
    first, second = examples("video_mme_w_subtitle")
    assert first.subtitle == {(0.0, 0.8): "Welcome back.", (0.8, 2.0): "Today we fold paper."}
    assert first.annotations[0]["style"] == "video_eval_multiple_choice_w_subtitle"
    assert second.subtitle is None
    assert second.annotations[0]["style"] == "video_eval_multiple_choice"


def test_video_mme_without_subtitles_has_none(examples):
    assert {example.subtitle for example in examples("video_mme")} == {None}


def test_long_video_bench_asks_for_the_letter(question):
    annotation, metadata = question("long_video_bench")
    assert annotation == {
        "style": "video_eval_multiple_choice",
        "question": "What is on the table when the host sits down?\n"
        "A. a cup\nB. a map\nC. a lamp\nD. a hat\nE. a fan\n"
        "Answer with the option's letter from the given choices directly.",
        "answer": "B",
    }
    assert metadata == {
        "example_id": "86CxyhFV9MI_86CxyhFV9MI_0_0",
        "question_id": "86CxyhFV9MI_0",
        "video_id": "86CxyhFV9MI",
        "level": "IntraMoment",
        "options": ["a cup", "a map", "a lamp", "a hat", "a fan"],
        "question_category": "S2E",
        "duration_group": 15,
        "answer": "B",
    }


@pytest.mark.parametrize("name", ["long_video_bench", "long_video_bench_no_subtitle"])
def test_long_video_bench_keeps_questions_on_subtitles(examples, name):
    assert len(examples(name)) == 2
    assert {example.subtitle for example in examples(name)} == {None}


def test_long_video_bench_can_leave_out_questions_on_subtitles(examples):
    (example,) = examples("long_video_bench_without_subtitle_questions")
    assert example.metadata["question_category"] == "S2E"


def test_long_video_bench_subtitles_in_seconds(examples):
    example = examples("long_video_bench_w_subtitle")[0]
    # The second line's end is a whole number and the third's is none: both become the duration.
    assert example.subtitle == {
        (0.5, 2.5): "Good evening.",
        (3.0, 10.0): "Whole end.",
        (5.25, 10.0): "No end.",
    }
    assert example.annotations[0]["style"] == "video_eval_multiple_choice_w_subtitle"


def test_long_video_bench_subtitles_by_the_clock_are_shifted_to_the_video(examples):
    assert examples("long_video_bench_w_subtitle")[1].subtitle == {
        (0.0, 2.0): "Across the start.",
        (5.25, 10.75): "let us go",
        (18.0, 30.0): "Across the end.",
    }


def test_of_subtitles_at_equal_times_the_last_stays():
    lines = [{"timestamp": [0.5, 1.5], "text": text} for text in ("first", "last")]
    assert within_video(lines, 0.0, 10.0) == {(0.5, 1.5): "last"}


def test_long_video_bench_test_has_no_answers(question):
    annotation, metadata = question("long_video_bench:test")
    assert "answer" not in annotation and "answer" not in metadata


def test_mlvu_asks_for_the_letter(question):
    annotation, metadata = question("mlvu_mc", 1)
    assert annotation == {
        "style": "video_eval_multiple_choice",
        "question": "What colour is the car?\nA. red\nB. green\nC. blue\nD. grey\n"
        "Answer with the option's letter from the given choices directly.",
        "answer": "A",
    }
    assert metadata == {
        "example_id": "1",
        "question_id": "1",
        "video_id": "movie101_67.mp4",
        "task_type": "plotQA",
        "duration": 200.5,
        "answer": "A",
    }


@pytest.mark.parametrize("name", ["mlvu_mc", "mlvu_mc:test", "mlvu_gen"])
def test_mlvu_begins_with_the_shortest_videos(examples, name):
    durations = [example.metadata["duration"] for example in examples(name)]
    assert durations == sorted(durations)


def test_mlvu_questions_of_equal_duration_stay_in_the_order_of_the_tasks(examples):
    tasks = [
        example.metadata["task_type"]
        for example in examples("mlvu_mc")
        if example.metadata["duration"] == 480.0
    ]
    assert tasks == ["plotQA", "ego"]


def test_mlvu_test_keeps_the_published_ids(question):
    annotation, metadata = question("mlvu_mc:test", 1)
    assert metadata["question_id"] == "AR_0" and annotation["answer"] == "B"


def test_mlvu_free_answers_have_what_the_judge_needs(question):
    annotation, metadata = question("mlvu_gen", 1)
    assert annotation == {
        "style": "demo",
        "question": "Please describe how the man leaves the house.",
        "answer": "He climbs out of the window.",
    }
    assert metadata["scoring_points"] == ["climbs", "out of the window"]
    assert (metadata["question"], metadata["answer"]) == (
        annotation["question"],
        annotation["answer"],
    )
    assert metadata["task_type"] == "sub_scene"


def test_lvbench_shows_options_in_one_form(question):
    annotation, metadata = question("lvbench")
    assert annotation == {
        "style": "video_eval_multiple_choice",
        "question": "What year appears in the opening caption of the video?\n"
        "A. 1636\nB. 1366\nC. 1363\nD. 1633\n"
        "Please respond with only the letter of the correct answer.",
        "answer": "D.",
    }
    assert metadata == {
        "example_id": "0",
        "type": "cartoon",
        "uid": "0",
        "qtype": ["key information retrieval"],
        "time_reference": "00:15-00:19",
        "answer": "D.",
    }


@pytest.mark.parametrize(
    ("line", "option"),
    [
        ("(A) fox", ("A", "fox")),
        ("A) fox", ("A", "fox")),
        ("A).fox", ("A", "fox")),
        ("A. fox", ("A", "fox")),
        ("A.fox", ("A", "fox")),
        ("  (B)fox\r", ("B", "fox")),
        ("A)fox", ("1", "A)fox")),
        ("fox", ("1", "fox")),
        ("A.", ("1", "A.")),
    ],
)
def test_lvbench_options_are_recognised(line, option):
    assert split_question(f"What?\n\n{line}") == ("What?", [option])


def test_video_eval_pro_asks_for_the_letter(question):
    annotation, metadata = question("video_eval_pro_mc")
    assert annotation == {
        "style": "video_eval_multiple_choice",
        "question": "Which drawer is opened?\nA. The upper\nB. The middle\nC. The lower\n"
        "Please respond with only the letter of the correct answer.",
        "answer": "C",
    }
    assert metadata == {
        "example_id": "0_b1VMVOBP5Hs.mp4",
        "answer": "C",
        "answer_text": "The lower",
        "source": "lvbench",
        "qa_subtype": "Object Recognition",
        "qa_type": "Local Perception",
        "options": ["A. The upper", "B. The middle", "C. The lower"],
    }


# ------------------------------------------------------------------------- pointing and counting


def test_video_point_asks_for_points_and_their_number(question):
    annotation, metadata = question("molmo2_video_point_eval")
    assert annotation == {
        "style": "video_point_count",
        "label": "ball",
        "question": 'How many "ball" are there in the video?',
        "timestamps": [0.5, 1.0],
        "points": [[{"x": 25.0, "y": 25.0}], [{"x": 75.0, "y": 62.5}]],
    }
    masks = metadata.pop("gt_abs_masks")
    assert metadata == {
        "example_id": "aB3_dEf-9gH_ball",
        "gt_abs_triplets": [(0.5, 12.0, 8.0), (1.0, 36.0, 20.0)],
        "video_duration": 2.0,
        "video_height": 32,
        "video_width": 48,
    }
    assert [[time in mask for time in (0.0, 0.5, 1.0)] for mask in masks] == [
        [True, True, False],  # two masks a second: those of frame 0 and 1
        [False, False, True],
    ]


def test_video_point_is_answered_with_times_and_points(examples):
    assert right_answer(examples("molmo2_video_point_eval")[0]) == (
        'Counting the <points coords="0.5 1 250 250;1.0 2 750 625">ball</points> shows a total of '
        "2."
    )


@pytest.mark.parametrize(
    ("answer", "precision", "recall"),
    [
        ('<points coords="0.0 1 250 250;1.0 2 750 625">ball</points>', 1, 1),  # another mask's time
        ('<points coords="0.5 1 250 250">ball</points>', 1, 0.5),
        ('<points coords="0.5 1 250 250;1.0 2 250 250">ball</points>', 0.5, 0.5),
        ('<points coords="1.5 1 250 250;1.0 2 750 625">ball</points>', 0.5, 0.5),
    ],
)
def test_video_point_counts_points_on_masks_of_their_time(question, answer, precision, recall):
    _, metadata = question("molmo2_video_point_eval")
    scores = metric_named("video_pointing")(answer, metadata, None)
    assert (scores["precision"].value, scores["recall"].value) == (precision, recall)


def test_video_point_as_saved_to_disk_and_without_sources_looks_in_all_folders(root, tmp_path):
    rows = dataset_class("molmo2_video_point_eval")(root).records
    without = [{name: row[name] for name in row if name != "video_source"} for row in rows]
    write_table(tmp_path / "Molmo2-VideoPointEval" / "data-00000-of-00001.arrow", without)
    kite = write_video(tmp_path / "generated_videos/sora2-2fps/a_red_kite_2fps.mp4")
    dataset = dataset_class("molmo2_video_point_eval")(tmp_path)
    assert dataset.get(1, np.random.RandomState(0)).video == kite


def test_video_point_with_a_point_too_few_is_an_error(root):
    dataset = dataset_class("molmo2_video_point_eval")(root)
    row = dataset.records[0]
    with pytest.raises(DatasetError, match="2 times, 1 points and 2 lists of masks"):
        dataset.example(row | {"points": row["points"][:1]}, np.random.RandomState(0))


def test_video_count_asks_for_a_number(question):
    annotation, metadata = question("molmo2_video_count_eval")
    assert annotation == {
        "style": "video_count",
        "label": "dogs",
        "question": "How many dogs are there in the video?",
        "answer": "3",
        "count": 3,
    }
    assert metadata == {
        "example_id": "aB3_dEf-9gH_dogs",
        "video_id": "aB3_dEf-9gH",
        "subset": "animal",
        "count": 3,
        "video_duration": 2.0,
        "clip_start_time": 0.5,
        "clip_end_time": 1.5,
    }


def test_video_count_is_answered_with_a_number(examples):
    assert right_answer(examples("molmo2_video_count_eval")[0]) == "3"


def test_video_count_shows_the_part_that_is_counted_in(examples):
    assert [e.clip for e in examples("molmo2_video_count_eval")] == [(0.5, 1.5), None]


def test_the_names_of_the_reference_are_known():
    assert dataset_class("vixmo_points_point_eval") is dataset_class("molmo2_video_point_eval")
    assert dataset_class("vixmo_points_count_clip_63s") is dataset_class("molmo2_video_count_eval")
    (task,) = tasks_of("vixmo_points_count_clip_63s:val")
    assert (task.label, task.max_new_tokens) == ("molmo2_video_count_eval:val", 2048)


@pytest.fixture
def one_missing(tmp_path):
    """A root of which one video of both pointing benchmarks is missing, and its path."""
    root = build_root(tmp_path)
    missing = root / "youtube-cc/youtube-cc-kw-2fps/aB3_dEf-9gH_2fps.mp4"
    missing.unlink()
    # What is said to be missing is the first place that it could have been at.
    return root, root / "youtube-cc/youtube-cc-exist-2fps/aB3_dEf-9gH_2fps.mp4"


POINTING = ("molmo2_video_point_eval", "molmo2_video_count_eval")


@pytest.mark.parametrize("name", POINTING)
def test_a_video_that_is_nowhere_is_named_by_the_check(one_missing, name):
    root, first_place = one_missing
    (state,) = check([registered(name, root)], CheckOptions())
    assert (state.missing, state.usable) == ([str(first_place)], [1])


@pytest.mark.parametrize("name", POINTING)
def test_a_video_that_is_nowhere_costs_one_question(one_missing, name):
    dataset = dataset_class(name)(one_missing[0])
    asked = [(i, dataset.get(i, np.random.RandomState(0))) for i in range(len(dataset))]
    config = load_config("tiny", ["data.max_frames=2", "data.max_bad_share=0.5"])
    batches = batches_of_prompts(config, asked)
    answered = [prompt.index for _, prompts, _ in batches for prompt in prompts]
    assert (answered, len(batches.bad.reasons)) == ([1], 1)


def test_masks_are_left_out_of_saved_predictions(examples, tmp_path):
    (task,) = tasks_of("molmo2_video_point_eval")
    said = [
        TaskPrediction(index, "", right_answer(example), example.metadata)
        for index, example in enumerate(examples("molmo2_video_point_eval"))
    ]
    folder = score_task(task, said, {}).save(tmp_path)
    saved = json.loads((folder / "predictions.json").read_text())[0]["metadata"]
    assert saved["gt_abs_triplets"] == [[0.5, 12.0, 8.0], [1.0, 36.0, 20.0]]
    assert "gt_abs_masks" not in saved


@pytest.mark.parametrize(
    ("encoded", "rows", "columns"),
    [(LEFT_MASK, slice(4, 20), slice(6, 30)), (RIGHT_MASK, slice(10, 30), slice(30, 44))],
)
def test_packed_masks_are_decoded(encoded, rows, columns):
    expected = np.zeros((32, 48), bool)
    expected[rows, columns] = True
    np.testing.assert_array_equal(decode_mask(encoded), expected)


def test_masks_are_not_decoded_before_they_are_looked_at(root, monkeypatch):
    dataset = dataset_class("molmo2_video_point_eval")(root)
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    masks = dataset.get(0, np.random.RandomState(0)).metadata["gt_abs_masks"]
    with pytest.raises(DatasetError, match="pycocotools"):
        masks[0][0.5]


def test_listed_runs_go_down_the_columns():
    mask = decode_mask({"size": [2, 3], "counts": [1, 2, 3]})
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, [[False, True, False], [True, False, False]])


def test_listed_runs_that_do_not_fill_a_mask_are_an_error():
    with pytest.raises(DatasetError, match="a mask of 3 x 2 pixels add up to 5"):
        TimedMasks({0.5: {"size": [2, 3], "counts": [1, 4]}})


def test_packed_masks_without_pycocotools_are_an_error_that_says_what_to_install(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(DatasetError, match=r"pip install -e '\.\[pointing\]'"):
        dataset_class("molmo2_video_point_eval")(root)
