"""Scores as the reference gives them, for every recorded prediction (`metrics.json`)."""

import json
import math
from string import ascii_uppercase

import numpy as np
import pytest
from goldens_folder import goldens_data_dir

from stts_jax.data.text.formatting.timestamps import parse_timestamp
from stts_jax.evaluation.scoring import letters, vqa
from stts_jax.evaluation.scoring.answer_text import clean_answer
from stts_jax.evaluation.scoring.options import nearest_option
from stts_jax.evaluation.scoring.registry import metric_named
from stts_jax.evaluation.scoring.score import (
    ScoringError,
    guess_generator,
    mean,
    score_answers,
    summarize,
)
from stts_jax.evaluation.scoring.segments import named_segments, segment_scores
from stts_jax.evaluation.scoring.temp_compass import (
    caption_by_rule,
    choice_by_rule,
    matched_caption,
    yes_no_by_rule,
)
from stts_jax.evaluation.scoring.video_benchmarks import VIDEO_MME_DURATIONS, video_mme

RECORDED = json.loads((goldens_data_dir() / "metrics.json").read_text("utf-8"))
AGGREGATES = RECORDED["aggregates"]
RANDOM = "RANDOM"


def recorded(name):
    """The rows of an aggregate, none if these recordings lack it."""
    return AGGREGATES.get(name, [])


def generator():
    return guess_generator(0)


def letter_of(reading):
    return RANDOM if reading.guessed else reading.letter


def index_of(reading):
    return RANDOM if reading.guessed else ascii_uppercase.index(reading.letter)


def same(ours, theirs):
    """Equal where the reference kept float32; "NaN" stands for no number."""
    if theirs == "NaN":
        return math.isnan(ours)
    return np.float32(ours) == np.float32(theirs)


# --------------------------------------------------------------------------------- one prediction


def padded(options):
    """How the recordings fill up to five options."""
    return [*options, "fifth thing", "sixth"]


# The recorded columns, by how their names begin, as functions of prediction and options.
READERS = {
    "select_mc_option(letters)": lambda text, options: nearest_option(
        text, ascii_uppercase[: len(options)]
    ),
    "select_mc_option(options)": nearest_option,
    "perception_test": lambda text, options: letters.perception_test_index(text),
    "videomme_extract": lambda text, options: letters.video_mme_letter(text),
    "longvideobench_parse": lambda text, options: letter_of(
        letters.long_video_bench_letter(text, options, generator())
    ),
    "muir_parse": lambda text, options: letter_of(
        letters.muir_bench_reading(text, options, generator())
    ),
    "muir_parse_no_random": lambda text, options: letters.muir_bench_letter(text, options) or "N/A",
    "nextqa_parse": lambda text, options: letter_of(
        letters.next_qa_letter(text, padded(options), generator())
    ),
    "ego_schema": lambda text, options: index_of(
        letters.ego_schema_letter(text, padded(options), generator())
    ),
    "em_start B": lambda text, options: letters.starts_with_letter(text, "B"),
    "tempcompass_mc": lambda text, options: choice_by_rule(text, f"B. {options[1]}") or 0.0,
    "tempcompass_yes_no": lambda text, options: yes_no_by_rule(text, "yes") or 0.0,
    "vqa_preprocess": lambda text, options: vqa.normalized_answer(text),
}


def reader_of(column):
    name = column if column in READERS else column.replace("(", " ").split()[0]
    return READERS[name if name in READERS else next(n for n in READERS if column.startswith(n))]


ERROR = "an error"


def outcome(read, text, options):
    try:
        return read(text, options)
    except ScoringError:
        return ERROR


def recorded_outcome(value):
    return ERROR if isinstance(value, dict) else value


def columns_of(case):
    return [c for c in RECORDED["mc"][case]["rows"][0] if c not in ("pred", "mlvu_mc_B")]


@pytest.mark.parametrize(
    ("case", "column"),
    [(case, column) for case in RECORDED["mc"] for column in columns_of(case)],
)
def test_data_parity_reading_of_predictions(case, column):
    options, rows = RECORDED["mc"][case]["options"], RECORDED["mc"][case]["rows"]
    read = reader_of(column)
    ours = {row["pred"]: outcome(read, row["pred"], options) for row in rows}
    assert ours == {row["pred"]: recorded_outcome(row[column]) for row in rows}


# What the recordings' metadata was, deduced from what they give: option 1 is right everywhere.
GOLD = 1


def metadata_of(metric, options):
    right = options[GOLD]
    choice = {"answer_idx": GOLD, "option_names": ascii_uppercase[: len(options)]}
    return {
        "em_start": {"answer": ascii_uppercase[GOLD]},
        "em": {"answers": [ascii_uppercase[GOLD], right]},
        "nextqa_mc": {"answer": ascii_uppercase[GOLD], "options": padded(options)},
        "ego_schema_mc": {**choice, "options": padded(options)},
        "muir_bench_mc": {**choice, "options": options},
        "vqa_score": {"answers": [options[0]] * 3 + [right] * 2},
        "a_okvqa_score": {"answers": [options[0]] + [right] * 3},
        "ansl": {"answers": [right]},
        "relaxed_correctness": {"answers": [right]},
    }.get(metric, choice)


VQA_ROWS = RECORDED["vqa_eval"]["rows"]


@pytest.mark.parametrize("metric", sorted({row[1] for row in VQA_ROWS}))
@pytest.mark.parametrize("options", range(len(RECORDED["vqa_eval"]["option_sets"])))
def test_data_parity_score_of_predictions(options, metric):
    metadata = metadata_of(metric, RECORDED["vqa_eval"]["option_sets"][options])
    scorer = metric_named(metric)
    for row_options, row_metric, prediction, expected in VQA_ROWS:
        if (row_options, row_metric) != (options, metric):
            continue
        if recorded_outcome(expected) == ERROR:
            with pytest.raises(ScoringError):
                scorer(prediction, metadata, generator())
            continue
        score = scorer(prediction, metadata, generator())[metric]
        assert score.guessed == (expected == RANDOM), prediction
        assert score.guessed or same(score.value, expected), prediction


@pytest.mark.parametrize(
    ("text", "expected"), RECORDED["vqa_eval_prediction_normalisation"], ids=repr
)
def test_data_parity_cleaning_of_predictions(text, expected):
    assert clean_answer(text) == expected


# ------------------------------------------------------------------------------- whole evaluators


def evaluator_of(name):
    if name.startswith("video_mme"):
        duration = name.removeprefix("video_mme_")
        return video_mme(VIDEO_MME_DURATIONS if duration == "all" else (duration,))
    return metric_named("temp_compass" if name.startswith("temp_compass") else name)


def evaluators():
    """Names of the aggregates that are whole evaluators, by their form."""
    return [
        name
        for name, case in AGGREGATES.items()
        if isinstance(case, dict) and {"metadatas", "predictions", "result"} <= set(case)
    ]


@pytest.mark.parametrize("name", [n for n in evaluators() if n != "temporal_bench"])
def test_data_parity_evaluator(name):
    case = AGGREGATES[name]
    metric = evaluator_of(name)
    scores = score_answers(metric, case["predictions"], case["metadatas"])
    assert not any(score.guessed for one in scores for score in one.values())
    means = summarize(metric, scores).published
    if name.startswith("video_mme"):  # other durations are there too, but not asked for
        means = {group: means[group] for group in means if group in case["result"]}
    assert set(means) == set(case["result"])
    wrong = {
        group: (means[group], expected)
        for group, expected in case["result"].items()
        if not same(means[group].value, expected[0]) or means[group].count != expected[1]
    }
    assert not wrong


@pytest.mark.parametrize("name", [n for n in evaluators() if n == "temporal_bench"])
def test_data_parity_evaluator_of_single_scores(name):
    case = AGGREGATES[name]
    scores = score_answers(metric_named(name), case["predictions"], case["metadatas"])
    assert [bool(one["all"].value) for one in scores] == case["result"]["score"]


@pytest.mark.parametrize("row", recorded("mean_metric"), ids=repr)
def test_data_parity_mean(row):
    values, expected, count = row
    ours = mean(values)
    assert same(ours.value, expected)
    assert ours.count == count


# --------------------------------------------------------------------------------- single formulas


@pytest.mark.parametrize("row", AGGREGATES.get("caption_matching", {}).get("rows", []), ids=repr)
def test_data_parity_caption_matching(row):
    question, answer = (AGGREGATES["caption_matching"][key] for key in ("question", "answer"))
    text, matched, score = row
    assert matched_caption(text, question) == matched
    assert (caption_by_rule(text, question, answer) or 0.0) == score


@pytest.mark.parametrize("row", AGGREGATES.get("qv_highlights", {}).get("rows", []), ids=repr)
def test_data_parity_segments(row):
    text, segments, against_right, against_none = row
    right = [tuple(segment) for segment in AGGREGATES["qv_highlights"]["gt"]]
    found = named_segments(text)
    assert [list(segment) for segment in found] == segments
    assert list(segment_scores(found, right)) == against_right
    assert list(segment_scores(found, [])) == against_none


def is_bug_of_reference(expected):
    """Two empty strings make the reference divide by zero."""
    return isinstance(expected, dict) and "ZeroDivisionError" in expected["error"]


@pytest.mark.parametrize("row", recorded("anls"), ids=repr)
def test_data_parity_anls(row):
    reference, text, expected = row
    assert vqa.anls(reference, text) == (1.0 if is_bug_of_reference(expected) else expected)


@pytest.mark.parametrize("row", recorded("relaxed"), ids=repr)
def test_data_parity_relaxed_correctness(row):
    reference, text, relaxed, scifi = row
    assert vqa.relaxed_correctness(reference, text) == relaxed
    assert vqa.scifi_relaxed_correctness(reference, text) == scifi


@pytest.mark.parametrize("row", recorded("vqa_score"), ids=repr)
def test_data_parity_vqa_score(row):
    references, text, expected = row
    assert vqa.vqa_score(references, text) == expected


@pytest.mark.parametrize("row", recorded("parse_timestamp"), ids=repr)
def test_data_parity_timestamps(row):
    text, expected = row
    if isinstance(expected, dict):
        with pytest.raises(ValueError, match="cannot be read"):
            parse_timestamp(text)
    else:
        assert parse_timestamp(text) == expected
