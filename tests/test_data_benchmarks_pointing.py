"""Benchmarks of pointing and counting."""

import json
import sys

import data_benchmarks_cases
import numpy as np
import pytest
from benchmark_fixtures import LEFT_MASK, RIGHT_MASK, build_root, write_video
from data_benchmarks_cases import right_answer
from dataset_fixtures import write_table

from stts_jax.config import load_config
from stts_jax.data.checking.check import CheckOptions, check, registered
from stts_jax.data.datasets.base import DatasetError, dataset_class
from stts_jax.data.datasets.run_length import TimedMasks, decode_mask
from stts_jax.data.evaluation_batches import batches_of_prompts
from stts_jax.evaluation.results import TaskPrediction, score_task
from stts_jax.evaluation.scoring.registry import metric_named
from stts_jax.evaluation.suites import tasks_of

# Fixtures.
root, examples, question = (
    data_benchmarks_cases.root,
    data_benchmarks_cases.examples,
    data_benchmarks_cases.question,
)


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
