"""TempCompass: questions of each kind."""

import data_benchmarks_cases
import pytest

# Fixtures.
root, examples, question = (
    data_benchmarks_cases.root,
    data_benchmarks_cases.examples,
    data_benchmarks_cases.question,
)


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
