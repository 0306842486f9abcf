"""What the demo claims follows from its summary, and its counts from what it is given."""

from __future__ import annotations

import copy
import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from arbitrary_models import arbitrary_model
from goldens_folder import REPOSITORY
from training_cases import small_config

from stts_jax.data.questions import Question
from stts_jax.demo import __main__ as command
from stts_jax.demo import kept, runs, seeds
from stts_jax.demo.__main__ import parse
from stts_jax.demo.ablations import ABLATED
from stts_jax.demo.claims import claims, claims_over_seeds
from stts_jax.demo.figures import accuracy_against_ratio
from stts_jax.demo.finished import FinishedParts
from stts_jax.demo.guessing import guessing_accuracy
from stts_jax.demo.kept import changed_cells, lit_cells
from stts_jax.demo.plan import (
    AUTO,
    EVS,
    FULL,
    HEURISTIC,
    LONG,
    RANDOM,
    SEEDS,
    SHORT,
    STTS,
    TEXT_ONLY,
    TOME,
    TRAIN_RATIOS,
    UNPRUNED,
    WITHOUT_LOSS,
    inference_only,
    specialist,
)
from stts_jax.demo.runs import FINE_TUNE, Demo
from stts_jax.demo.seeds import (
    SUMMARY,
    claims_of_seeds,
    publish_seeds,
    read_summaries,
    table_of_seeds,
)
from stts_jax.demo.summaries import accuracies
from stts_jax.evaluation.runner import Evaluation


def run(method: str, k: int, accuracy: float) -> dict:
    found = {"method": method, "k": k, "packing": "stream", "accuracy": accuracy}
    return found | {"visual_tokens": 72 - 0.72 * k}


GOOD = {
    "guessing": 0.25,
    "kept_ratio": 70,
    "kept_moving": 0.9,
    "kept_still": 0.1,
    "runs": [
        run(UNPRUNED, 0, 0.95),
        run(TEXT_ONLY, 100, 0.26),
        run(STTS.name, 30, 0.95),
        run(STTS.name, 50, 0.94),
        run(STTS.name, 70, 0.94),
        run(STTS.name, 80, 0.85),
        run(RANDOM.name, 80, 0.70),
        run(AUTO.name, 80, 0.9),
    ],
}


PUBLISHED = read_summaries(REPOSITORY / "docs" / "demo" / "seeds")


def test_the_published_seeds_bear_out_every_claim() -> None:
    assert not [claim for claim in claims_of_seeds(SEEDS, PUBLISHED) if not claim.holds]


@pytest.mark.parametrize("summary", PUBLISHED, ids=lambda summary: f"seed {summary['seed']}")
def test_a_published_run_is_one_of_the_present_recipe(summary) -> None:
    sizes = ("videos", "picture_steps", "steps", "fine_tune_steps", "fixed_ratio")
    assert {name: summary[name] for name in sizes} == {name: getattr(SEEDS, name) for name in sizes}
    assert summary["fine_tune_settings"] == list(FINE_TUNE)
    asked = [run["k"] for run in summary["runs"] if run["method"] == STTS.name]
    assert asked[: len(SEEDS.ratios)] == list(SEEDS.ratios)


def test_the_table_in_the_readme_is_that_of_the_published_seeds() -> None:
    readme = (REPOSITORY / "README.md").read_text().splitlines()
    table = table_of_seeds(SEEDS, PUBLISHED)
    start = readme.index(table[0])
    assert readme[start : start + len(table)] == table


def test_a_good_summary_bears_out_every_claim() -> None:
    assert all(claim.holds for claim in claims(GOOD))


@pytest.mark.parametrize(
    ("index", "accuracy", "failing"),
    [(0, 0.89, [0]), (1, 0.5, [1]), (3, 0.92, [2]), (6, 0.77, [3]), (7, 0.86, [4])],
    ids=[
        "unpruned too low",
        "blind too high",
        "half loses too much",
        "little better than random",
        "a threshold gains too little",
    ],
)
def test_one_bad_figure_fails_its_claim(index: int, accuracy: float, failing: list[int]) -> None:
    summary = copy.deepcopy(GOOD)
    summary["runs"][index]["accuracy"] = accuracy
    held = [claim.holds for claim in claims(summary)]
    assert [i for i, holds in enumerate(held) if not holds] == failing


def with_specialists(summary: dict, *shares: tuple[int, float]) -> dict:
    own = [run(specialist(k).name, k, share) for k, share in shares]
    return {**summary, "runs": [*summary["runs"], *own]}


def test_a_threshold_is_compared_with_the_model_trained_at_its_mean_too() -> None:
    assert not claims(with_specialists(GOOD, (80, 0.89)))[4].holds


def test_a_threshold_must_not_win_by_keeping_more() -> None:
    summary = copy.deepcopy(GOOD)
    summary["runs"][7]["visual_tokens"] *= 1.1
    assert not claims(summary)[4].holds


def test_a_claim_over_seeds_holds_if_it_holds_for_each() -> None:
    bad = {**GOOD, "kept_still": 0.8}
    held = claims_over_seeds([GOOD, bad], [])
    assert [claim.holds for claim in held] == [True] * 5 + [False]
    assert held[-1].figures == "1 of 2 seeds"


@pytest.mark.parametrize(("other", "holds"), [(0.95, True), (0.97, False)])
def test_one_checkpoint_is_compared_with_specialists_in_the_mean(other: float, holds: bool) -> None:
    seeds = [with_specialists(GOOD, (50, share)) for share in (0.94, other)]
    assert claims_over_seeds(seeds, [50])[-1].holds == holds


def seeds_of_the_plan() -> list[dict]:
    everywhere = [run(method.name, k, 0.9) for method in SEEDS.compared for k in SEEDS.ratios]
    shares = tuple((k, 0.95) for k in (*SEEDS.specialists, SEEDS.fixed_ratio))
    one = with_specialists({**GOOD, "seed": 0, "questions": 9}, *shares)
    one["runs"] = [*one["runs"], *everywhere]
    return [one, {**copy.deepcopy(one), "seed": 1}]


def test_the_table_of_seeds_has_means_and_spreads() -> None:
    seeds = seeds_of_the_plan()
    for summary, share in zip(seeds, (0.94, 0.96), strict=True):
        summary["runs"][0]["accuracy"] = share
    assert "| unpruned | 95.0 ± 1.0 | - | - | - | - |" in table_of_seeds(SEEDS, seeds)


def test_several_seeds_are_reported_with_a_picture(tmp_path) -> None:
    for summary in reversed(seeds_of_the_plan()):
        own = tmp_path / str(summary["seed"])
        own.mkdir()
        (own / SUMMARY).write_text(json.dumps(summary))
    assert [summary["seed"] for summary in publish_seeds(SEEDS, tmp_path)] == [0, 1]
    assert "Seeds 0, 1" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "accuracy.png").stat().st_size > 1000


def test_seeds_are_a_number_or_a_range():
    assert parse(["--seeds", "3"]).seeds == range(3)
    assert parse(["--seeds", "3-9"]).seeds == range(3, 10)
    with pytest.raises(SystemExit):
        parse(["--seeds", "9-3"])


def test_ablations_are_a_table_over_seeds(capsys):
    assert parse(["--seeds", "10-14", "--ablations"]).ablations
    with pytest.raises(SystemExit):
        parse(["--ablations"])
    assert "add --seeds" in capsys.readouterr().err


def test_every_ablation_is_a_setup_that_can_be_trained(tmp_path):
    demo = Demo(ABLATED, tmp_path, tmp_path / "parts", tmp_path / "data", seed=0)
    for method in ABLATED.methods:
        config = demo.fine_tune_config(method)
        assert config.model.prune.train_ratios == TRAIN_RATIOS
    assert len({method.name for method in ABLATED.compared}) == len(ABLATED.compared)


def test_ablations_of_a_seed_are_trained_evaluated_and_reported(tmp_path, monkeypatch) -> None:
    trained = []

    def train(config, folder, **_):
        trained.append(folder.name)
        return SimpleNamespace(stopped=False, step=1, steps_per_s=1.0)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "train", train)
    monkeypatch.setattr(runs, "ensure_synthetic", lambda *_, **__: None)
    monkeypatch.setattr(runs, "load_model", lambda _: (None, small_config()))
    monkeypatch.setattr(runs, "reconfigure", lambda model, _: model)
    monkeypatch.setattr(runs, "evaluate_split", lambda *_, **__: Evaluation([], 0.0, 1.0, 0))
    monkeypatch.setattr(command, "ABLATED", dataclasses.replace(ABLATED, ratios=(70,)))
    monkeypatch.setattr(command, "examples_of", lambda *_: [])
    monkeypatch.setattr(command, "guessing_accuracy", lambda *_: 0.25)
    monkeypatch.setattr(command, "pictures_of_kept_tokens", lambda _: {})
    monkeypatch.setattr(command, "loss_curves", lambda *_: None)
    for module in (command, seeds):
        monkeypatch.setattr(module, "accuracy_against_ratio", lambda *_: None)
    assert command.main(["--seeds", "1", "--ablations", "--output", "out"]) == 0
    names = [method.name for method in ABLATED.methods]
    assert trained == ["pictures", UNPRUNED, *names, specialist(ABLATED.fixed_ratio).name]
    report = (tmp_path / "out" / "ablations" / "report.md").read_text()
    assert all(f"| {method.label} | " in report for method in ABLATED.compared)
    assert (tmp_path / "out" / "ablations" / "0" / "report.md").is_file()


def test_accuracies_are_those_of_all_summaries_at_each_ratio() -> None:
    other = {**GOOD, "runs": [run(STTS.name, 80, 0.5), {**run(STTS.name, 80, 1.0), "packing": "b"}]}
    assert accuracies([GOOD, other], STTS.name)[80] == [85.0, 50.0]


def test_still_background_must_be_dropped() -> None:
    assert not claims({**GOOD, "kept_still": 0.8})[-1].holds


def test_a_missing_run_is_named() -> None:
    with pytest.raises(KeyError, match="stts"):
        claims({**GOOD, "runs": GOOD["runs"][:2]})


def test_guessing_gives_the_most_frequent_answer_of_each_type() -> None:
    def questions(*answers: str) -> list[Question]:
        return [Question("?", answer, type="t") for answer in answers]

    assert guessing_accuracy(questions("x", "x", "y"), questions("x", "y", "y", "y")) == 0.25


def test_guessing_knows_what_an_answer_repeats_and_what_the_options_are() -> None:
    def example(colour: str, answer: str, *options: str) -> Question:
        return Question(f"Where is the {colour} one?", answer, options or None, type="where")

    train = [example("red", "red left"), example("blue", "blue left"), example("red", "red right")]
    assert guessing_accuracy(train, [example("pink", "pink left")]) == 1.0
    options = ("pink right", "pink centre")
    assert guessing_accuracy(train, [example("pink", "pink right", *options)]) == 1.0


def test_a_finished_part_is_done_again_only_when_it_is_made_of_something_else(tmp_path) -> None:
    path, done = tmp_path / "part" / "result.json", []

    def part(made_of: dict) -> dict:
        return FinishedParts().once(
            "a part", path, made_of, lambda: done.append(made_of) or {"n": len(done)}
        )

    first = part({"steps": 1})
    assert part({"steps": 1}) == first and done == [{"steps": 1}]
    second = part({"steps": 2})
    assert second["n"] == 2 and second["id"] != first["id"]
    path.unlink()
    assert part({"steps": 2})["id"] != second["id"]


def test_what_finished_parts_took_is_remembered(tmp_path) -> None:
    path = tmp_path / "result.json"
    FinishedParts().once("a part", path, {}, dict)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"minutes": 3.0}))
    again = FinishedParts()
    again.once("a part", path, {}, dict)
    assert again.minutes == 3.0


def test_overlays_of_an_earlier_run_are_gone(tmp_path) -> None:
    (tmp_path / "000108_kept.png").touch()
    assert kept.draw(None, None, [], tmp_path) == []  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_each_method_is_drawn_from_its_own_model_on(tmp_path) -> None:
    summary = copy.deepcopy(GOOD)
    summary["runs"].append(run(STTS.name, 0, 0.93))
    accuracy_against_ratio([summary], [STTS, RANDOM], tmp_path / "accuracy.png")
    assert (tmp_path / "accuracy.png").stat().st_size > 1000


def test_cells_are_lit_where_a_shape_is() -> None:
    frames = np.full((2, 12, 12, 3), 50, np.uint8)
    frames[1, 5, 5] = (40, 60, 240)
    assert not lit_cells(frames, tokens=9)[0].any()
    assert np.flatnonzero(lit_cells(frames, tokens=9)[1]).tolist() == [4]


def test_cells_change_where_pixels_do() -> None:
    frames = np.full((3, 12, 12, 3), 100, np.uint8)
    frames[1, 1:3, 9:11] = 250
    frames[2, 1:3, 9:11] = 245
    changed = changed_cells(frames, tokens=9)
    assert changed[1].tolist() == [False, False, True, *[False] * 6]
    assert not changed[0].any() and not changed[2].any()


def test_the_long_demo_compares_every_method_trained_or_at_inference_only() -> None:
    compared = [method.name for method in LONG.compared]
    trained = (STTS, RANDOM, HEURISTIC, TOME, WITHOUT_LOSS, specialist(70))
    at_inference = (inference_only(HEURISTIC), inference_only(TOME), EVS)
    assert compared == [method.name for method in (*trained, AUTO, *at_inference)]
    assert len(set(compared)) == len(compared)


def test_the_other_demos_compare_one_checkpoint_with_random_and_a_fixed_ratio() -> None:
    assert FULL.compared == (STTS, RANDOM, specialist(70), AUTO)
    assert [method.name for method in SHORT.compared] == ["stts", "stts_at_50", "stts_auto"]


@pytest.fixture
def demo(tmp_path, monkeypatch) -> Demo:
    """A demo whose models are untrained and whose evaluations answer nothing."""
    monkeypatch.setattr(runs, "evaluate_split", lambda *_, **__: Evaluation([], 0.0, 1.0, 0))
    return Demo(LONG, tmp_path, tmp_path / "parts", tmp_path / "data", seed=0)


def load(monkeypatch, *overrides: str) -> None:
    config = small_config(*overrides)
    monkeypatch.setattr(runs, "load_model", lambda _: (arbitrary_model(config.model), config))


TRAINED = {"name": UNPRUNED, "id": "1", "train_steps_per_s": 2.0, "videos_per_step": 16}


def saved_prune_configs(demo: Demo) -> list[dict]:
    files = sorted((demo.parts / "evaluations").glob("*/config.json"))
    return [json.loads(file.read_text())["model"]["prune"] for file in files]


def test_an_unpruned_model_is_evaluated_with_a_method_at_each_ratio_above_0(
    demo, monkeypatch
) -> None:
    load(monkeypatch, "model.prune.method=none", "model.prune.topk=0")
    found = demo.evaluate_inference_only(EVS, TRAINED)
    assert [(run["method"], run["k"]) for run in found] == [
        ("evs (inference only)", k) for k in (30, 50, 70, 80)
    ]
    assert all(run["train_steps_per_s"] is None for run in found)
    settings = [(prune["method"], prune["topk"]) for prune in saved_prune_configs(demo)]
    assert settings == [("evs", k) for k in (0.3, 0.5, 0.7, 0.8)]


def test_thresholds_keep_as_many_tokens_in_the_mean_as_ratios_do(demo, monkeypatch) -> None:
    load(monkeypatch, *STTS.overrides, "model.prune.topk=0.7")
    scores = np.linspace(0.0, 0.99, 100, dtype=np.float32).reshape(10, 10)
    monkeypatch.setattr(runs, "scores_of_videos", lambda *_: [scores])
    evaluated = [
        {"method": STTS.name, "k": k, "visual_tokens": tokens}
        for k, tokens in ((0, 50), (30, 36), (50, 25), (70, 16), (80, 11))
    ]
    found = demo.evaluate_auto(TRAINED | {"name": STTS.name}, evaluated)
    assert {run["method"] for run in found} == {AUTO.name}
    thresholds = [prune["threshold"] for prune in saved_prune_configs(demo)]
    assert thresholds == pytest.approx([0.28, 0.5, 0.68, 0.78])
