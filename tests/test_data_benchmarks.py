"""Benchmarks from their published layout: wording, media, and what their metrics need.

The expected texts are those of the reference's classes (docs/reference.md#benchmarks) on the same
files.
"""

import data_benchmarks_cases
import numpy as np
import pytest
from benchmark_fixtures import EGO_OPTIONS
from data_benchmarks_cases import right_answer
from PIL import Image
from video_reading import read_video

from stts_jax.data.datasets.base import DatasetError, dataset_class, dataset_names
from stts_jax.data.datasets.benchmarks import BENCHMARKS
from stts_jax.data.datasets.benchmarks.mvbench_clips import make_video
from stts_jax.data.text.formatting.formatter import Formatter
from stts_jax.evaluation.scoring.registry import metric_named
from stts_jax.evaluation.scoring.score import score_answers, summarize
from stts_jax.evaluation.suites import tasks_of

# Fixtures.
root, examples, question = (
    data_benchmarks_cases.root,
    data_benchmarks_cases.examples,
    data_benchmarks_cases.question,
)

ELSEWHERE = ("perception_test", "nextqa_mc")  # with the training sets
NAMES = tuple(name for name in BENCHMARKS if not name.startswith(ELSEWHERE))
SCORED_BY_RULE = tuple(name for name in NAMES if not name.startswith("mlvu_gen"))


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
