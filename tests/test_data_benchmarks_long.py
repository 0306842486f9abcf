"""Benchmarks of long videos."""

import data_benchmarks_cases
import pytest

from stts_jax.data.datasets.benchmarks.long_video_bench import within_video
from stts_jax.data.datasets.benchmarks.lvbench import split_question

# Fixtures.
root, examples, question = (
    data_benchmarks_cases.root,
    data_benchmarks_cases.examples,
    data_benchmarks_cases.question,
)


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
