"""Groups of tasks, the paper's rows, saved results, and the adapter for lmms-eval."""

import importlib
import inspect
import json
import re
import sys
import types

import numpy as np
import pytest
from benchmark_fixtures import build_root

from stts_jax.config import Config
from stts_jax.data.datasets.base import dataset_class
from stts_jax.evaluation import single
from stts_jax.evaluation.comparison import (
    averages,
    column_counts,
    column_scores,
    comparison_table,
    results_table,
)
from stts_jax.evaluation.paper import (
    COLUMNS,
    LONG_COLUMNS,
    RANDOM_BY_PERCENT,
    TABLE_1,
)
from stts_jax.evaluation.results import (
    METRICS_FILE,
    PREDICTIONS_FILE,
    ResultError,
    TaskPrediction,
    TaskResult,
    differing_settings,
    find_reusable,
    result_folder,
    score_task,
)
from stts_jax.evaluation.scoring.registry import metric_names
from stts_jax.evaluation.suites import ABSENT_GROUPS, GROUPS, TASKS, SuiteError, Task, tasks_of
from stts_jax.training.checkpointing import load

# ----------------------------------------------------------------------------------------- suites


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.label)
def test_a_task_has_a_dataset_with_its_split_and_a_metric(task):
    assert task.split in dataset_class(task.dataset).splits
    assert task.metric in metric_names()


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_is_of_tasks_each_once(group):
    assert [task.name for task in tasks_of(group)] == list(dict.fromkeys(GROUPS[group]))


def test_video_is_short_and_long_video():
    assert tasks_of("video") == tasks_of("short_video,long_video")


def test_the_paper_averages_what_its_columns_are():
    assert {task.name for task in tasks_of("paper")} == set(COLUMNS.values())


def test_a_task_named_twice_is_done_once():
    assert len(tasks_of(["lvbench", "video_subtitle"])) == 3


def test_a_split_may_be_named_and_is_another_task():
    labels = [task.label for task in tasks_of("ego_schema,ego_schema:test")]
    assert labels == ["ego_schema:validation", "ego_schema:test"]


def test_an_unknown_mode_is_an_error_that_lists_modes_and_tasks():
    with pytest.raises(SuiteError, match=r"'vido'; modes are .*short_video.*tasks are .*lvbench"):
        tasks_of("vido")


def test_an_unknown_split_is_an_error_that_lists_splits():
    with pytest.raises(SuiteError, match="no split 'validation'; its splits are test"):
        tasks_of("lvbench:validation")


@pytest.mark.parametrize("group", ABSENT_GROUPS)
def test_a_mode_without_datasets_is_an_error_that_says_so(group):
    with pytest.raises(SuiteError, match=f"datasets of mode '{group}' are not here"):
        tasks_of(group)


# Tasks whose annotation files are not tables that need another package.
READABLE = (
    "mvbench",
    "tomato",
    "motionbench",
    "temp_compass_internal",
    "long_video_bench_no_subtitle",
    "long_video_bench_w_subtitle",
    "mlvu_mc",
    "lvbench",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return build_root(tmp_path_factory.mktemp("benchmarks"))


@pytest.mark.parametrize("name", READABLE)
def test_right_answers_to_a_dataset_score_one_by_both_rules(root, name):
    task = TASKS[name]
    dataset = dataset_class(task.dataset)(root, task.split)
    questions = [dataset.get(i, np.random.RandomState(0)).metadata for i in range(len(dataset))]
    right = [str(m.get("answer") or "ABCDEFGH"[m["answer_idx"]]) for m in questions]
    predictions = [
        TaskPrediction(i, "", a, m) for i, (a, m) in enumerate(zip(right, questions, strict=True))
    ]
    summary = score_task(task, predictions, {}).summary
    assert (summary.value, summary.fixed_value, summary.notes()) == (1.0, 1.0, [])


# -------------------------------------------------------------------------------------- the paper


PRINTED_PRECISION = 0.05  # half a unit of the last printed digit


@pytest.mark.parametrize("row", TABLE_1, ids=lambda row: row.name)
def test_averages_by_our_rule_are_the_printed_ones(row):
    ours = averages(row.scores)
    for name, mean in (("short", ours.short), ("long", ours.long), ("average", ours.overall)):
        # What is in doubt may move a mean by another half digit, or is in doubt itself.
        doubt = 2 if row.uncertain else 1
        if name not in row.uncertain:
            assert mean == pytest.approx(getattr(row, name), abs=doubt * PRINTED_PRECISION + 1e-9)


def test_the_row_at_50_percent_does_not_add_up():
    row = next(row for row in TABLE_1 if row.name == "STTS 50 %")
    assert {"long", "average"} <= row.uncertain
    assert averages(row.scores).long == pytest.approx(57.9, abs=PRINTED_PRECISION)


@pytest.mark.parametrize("row", RANDOM_BY_PERCENT.values(), ids=lambda row: row.name)
def test_the_overall_average_is_that_of_short_and_long(row):
    assert (row.short + row.long) / 2 == pytest.approx(row.average, abs=PRINTED_PRECISION + 1e-9)


# ----------------------------------------------------------------------------------- the comparison


def shares(value):
    return dict.fromkeys(COLUMNS.values(), value)


def test_short_and_long_weigh_the_same():
    scores = dict.fromkeys(COLUMNS, 60.0) | dict.fromkeys(LONG_COLUMNS, 40.0)
    ours = averages(scores)
    assert (ours.short, ours.long, ours.overall, ours.missing) == (60.0, 40.0, 50.0, ())


def test_a_column_without_a_score_is_named_and_left_out():
    scores = column_scores(shares(0.5) | {"lvbench": float("nan"), "ego_schema": 0.9})
    ours = averages(scores)
    assert (ours.overall, ours.missing) == (50.0, ("LVBench",))


def test_without_short_benchmarks_there_is_no_overall_average():
    ours = averages(dict.fromkeys(LONG_COLUMNS, 40.0))
    assert (ours.short, ours.overall) == (None, None)


def cells(lines, label):
    return next(line for line in lines if line.startswith(label)).removeprefix(label).split()


def test_the_table_has_our_scores_before_the_papers():
    lines = comparison_table({"ours": column_scores(shares(0.5))})
    assert cells(lines, "Average")[:3] == ["50.0", "63.0", "62.8"]


def test_the_table_marks_what_is_in_doubt_and_says_why():
    lines = comparison_table({"ours": column_scores(shares(0.5))})
    assert cells(lines, "Average")[-1] == "62.3?"
    assert any(line.startswith("? STTS 50 %:") and "57.9" in line for line in lines)


def test_the_table_says_which_columns_are_the_papers():
    header = comparison_table({"ours": column_scores(shares(0.5))})[0]
    names = re.split(r"\s{2,}", header.strip())
    assert names[0] == "ours" and len(names) > 1
    assert all(name.startswith("paper: ") for name in names[1:])


def test_the_table_marks_scores_of_few_questions():
    counts = column_counts(dict.fromkeys(TASKS, 1000) | {"lvbench": 3})
    lines = comparison_table({"ours": column_scores(shares(0.5))}, questions={"ours": counts})
    rows = {label: cells(lines, label)[0] for label in ("LVBench", "MVBench", "Short", "Average")}
    assert rows == {"LVBench": "50.0*", "MVBench": "50.0", "Short": "50.0", "Average": "50.0*"}
    assert any(
        line.startswith("* 'ours' has few questions") and "LVBench 3" in line for line in lines
    )


def test_the_table_says_what_is_missing():
    lines = comparison_table({"ours": column_scores({"lvbench": 0.4})})
    assert cells(lines, "NextQA")[0] == "-"
    assert any("'ours' lacks NextQA" in line for line in lines)


def test_an_average_like_that_of_a_blind_model_is_pointed_out():
    lines = comparison_table({"ours": column_scores(shares(0.45))})
    assert any("sees only the text" in line for line in lines)


# ----------------------------------------------------------------------------------- saved results


def test_a_table_of_results_has_both_rules_and_what_to_know():
    metadata = {"answer": "B", "duration": "long", "sub_category": "Law", "task_type": "Counting"}
    predictions = [TaskPrediction(i, "", answer, metadata) for i, answer in enumerate("B?")]
    lines = results_table([score_task(TASKS["video_mme"], predictions, {})])
    assert lines[1].split()[:4] == ["video_mme:validation", "100.0", "50.0", "2"]
    assert lines[1].endswith("left out by the published rule: 1")


TASK = Task("lvbench", "lvbench", "test", "lvbench")
SETTINGS = {"checkpoint": "runs/a", "model": {"prune": {"topk": 0.5}}, "frames": (64, 2.0)}


def result(answers=("A", "b"), settings=SETTINGS, task=TASK):
    metadata = {"answer": "A.", "qtype": ["reasoning"], "mask": np.zeros(2)}
    predictions = [TaskPrediction(i, f"Q{i}?", a, metadata) for i, a in enumerate(answers)]
    return score_task(task, predictions, settings)


def test_a_result_comes_back_from_its_files(tmp_path):
    made = result()
    made.save(tmp_path)
    loaded = TaskResult.load(tmp_path, TASK)
    assert loaded.task == TASK
    assert loaded.summary.value == made.summary.value == 0.5
    assert loaded.summary.published.keys() == made.summary.published.keys()
    assert [(p.prompt, p.answer) for p in loaded.predictions] == [("Q0?", "A"), ("Q1?", "b")]


def test_a_saved_result_can_be_scored_again(tmp_path):
    result().save(tmp_path)
    loaded = TaskResult.load(tmp_path, TASK)
    assert score_task(TASK, loaded.predictions, SETTINGS).summary.value == 0.5


def test_metrics_are_strict_json_with_both_rules_and_settings(tmp_path):
    folder = result().save(tmp_path)
    text = (folder / METRICS_FILE).read_text()
    saved = json.loads(text, parse_constant=pytest.fail)
    assert (saved["score"], saved["score_fixed_rule"]) == (0.5, 0.5)
    assert saved["summary"]["published"]["all_summarization"] == [None, 0]
    assert saved["settings"]["task"]["max_new_tokens"] == 12


def test_predictions_keep_what_json_can_hold_of_the_metadata(tmp_path):
    folder = result().save(tmp_path)
    saved = json.loads((folder / PREDICTIONS_FILE).read_text())
    assert saved[0]["metadata"] == {"answer": "A.", "qtype": ["reasoning"]}


def test_two_splits_have_two_folders(tmp_path):
    other = Task("lvbench", "lvbench", "validation", "lvbench")
    assert result_folder(tmp_path, TASK) != result_folder(tmp_path, other)


def test_a_result_is_used_again_for_the_same_settings(tmp_path):
    result().save(tmp_path)
    assert find_reusable(tmp_path, TASK, SETTINGS).result.summary.value == 0.5


def test_a_result_is_not_used_for_other_settings_and_they_are_named(tmp_path):
    result().save(tmp_path)
    wanted = SETTINGS | {"model": {"prune": {"topk": 0.3}}, "limit": 8}
    found = find_reusable(tmp_path, TASK, wanted)
    assert found.result is None
    assert found.differing == ("limit: not set, now 8", "model.prune.topk: 0.5, now 0.3")


def test_the_task_is_one_of_the_settings(tmp_path):
    result().save(tmp_path)
    longer = Task("lvbench", "lvbench", "test", "lvbench", max_new_tokens=64)
    assert find_reusable(tmp_path, longer, SETTINGS).differing == (
        "task.max_new_tokens: 12, now 64",
    )


def test_nothing_saved_is_nothing_to_use_and_no_difference(tmp_path):
    found = find_reusable(tmp_path, TASK, SETTINGS)
    assert (found.result, found.differing) == (None, ())


def test_settings_that_json_lacks_are_compared_by_their_text():
    assert differing_settings({"at": np.int64(3)}, {"at": np.int64(4)}) == ["at: '3', now '4'"]


def test_a_damaged_result_is_an_error_that_names_its_folder(tmp_path):
    folder = result().save(tmp_path)
    (folder / PREDICTIONS_FILE).write_text("[")
    with pytest.raises(ResultError, match=f"result in '{folder}' is damaged"):
        find_reusable(tmp_path, TASK, SETTINGS)


# ---------------------------------------------------------------------------------------- lmms-eval


class StandInLmms:
    """As much of lmms-eval's base class as a model of the simple kind uses."""

    is_simple = True

    def __init__(self):
        self.task_dict = {}
        self.cached = []
        self.cache_hook = types.SimpleNamespace(
            add_partial=lambda *entry: self.cached.append(entry)
        )


@pytest.fixture
def adapter(monkeypatch):
    """The adapter module, without torch: on stand-ins for lmms-eval, checkpoint and model.

    `docs/evaluation.md` has the commands that run it with lmms-eval itself.
    """
    registered = {}

    def register_model(*names):
        def enter(model):
            registered.update(dict.fromkeys(names, model))
            return model

        return enter

    def module(name, **content):
        stand_in = types.ModuleType(name)
        vars(stand_in).update(content)
        monkeypatch.setitem(sys.modules, name, stand_in)

    module("lmms_eval")
    module("lmms_eval.api")
    module("lmms_eval.api.model", lmms=StandInLmms)
    module("lmms_eval.api.registry", register_model=register_model)
    module("lmms_eval.models")
    module(
        "lmms_eval.models.registry_v2",
        ModelManifest=lambda name, simple_class_path: (name, simple_class_path),
    )
    name = "stts_jax.evaluation.lmms_eval_adapter"
    monkeypatch.delitem(sys.modules, name, raising=False)
    loaded = importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(
        loaded, "load_to_answer", lambda folder: ("model", {"eval.max_new_tokens": 12})
    )
    monkeypatch.setattr(loaded, "replace", lambda config, changes: config | changes)
    loaded.registered = registered
    return loaded


@pytest.fixture
def model(adapter, monkeypatch):
    """The registered model with one document; what it was asked is in `model.asked`."""
    made = adapter.registered["stts_jax"](pretrained="runs/a", batch_size=1, device="cuda")
    made.task_dict = {"mvbench": {"test": [{"video": "a.mp4"}]}}
    made.asked = []

    def ask(model, config, path, question, frames_scale):
        made.asked.append((str(path), question, config["eval.max_new_tokens"], frames_scale))
        return "B. sits down\n\nBecause"

    monkeypatch.setattr(adapter, "ask", ask)
    return made


def request(visuals=lambda document: [document["video"]], **settings):
    return types.SimpleNamespace(args=("Which?", settings, visuals, 0, "mvbench", "test"))


def test_lmms_eval_gets_an_answer_for_each_request(model):
    assert model.generate_until([request(), request()]) == ["B. sits down\n\nBecause"] * 2
    assert model.asked[0] == ("a.mp4", "Which?", 12, 1.0)
    assert len(model.cached) == 2


def test_lmms_eval_decides_length_and_end_of_answers(model):
    answers = model.generate_until([request(max_new_tokens=64, until=["\n\n"])])
    assert answers == ["B. sits down"]
    assert model.asked[0][2] == 64


@pytest.mark.parametrize("visuals", [[], ["a.mp4", "b.mp4"], [object()]])
def test_a_request_that_is_not_about_one_video_file_is_an_error(model, visuals):
    with pytest.raises(ValueError, match=r"document 0 of task 'mvbench' shows .* one video file"):
        model.generate_until([request(lambda document: visuals)])


def test_likelihoods_and_conversations_are_refused(model):
    with pytest.raises(ValueError, match="no likelihoods"):
        model.loglikelihood([])
    with pytest.raises(ValueError, match="one turn"):
        model.generate_until_multi_round([])


def test_the_adapter_calls_functions_that_there_are():
    inspect.signature(single.ask).bind("model", "config", "a.mp4", "Which?", frames_scale=1.0)
    inspect.signature(load.load_to_answer).bind("runs/a")
    assert Config().eval.max_new_tokens


def test_batches_are_refused(adapter):
    with pytest.raises(ValueError, match="batch_size is 4"):
        adapter.SttsJax(pretrained="runs/a", batch_size=4)


def test_lmms_eval_finds_the_class_by_its_entry_point(adapter):
    name, path = adapter.manifest()
    assert (name, path) == ("stts_jax", "stts_jax.evaluation.lmms_eval_adapter.SttsJax")
