"""What the demo claims follows from its summary, and its counts from what it is given."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from arbitrary_models import arbitrary_model
from goldens_folder import REPOSITORY
from training_cases import small_config

from stts_jax.data.questions import Question
from stts_jax.demo import kept, runs
from stts_jax.demo.claims import Claim, claims
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
    OVER_RATIOS,
    RANDOM,
    SHORT,
    STTS,
    TEXT_ONLY,
    TOME,
    UNPRUNED,
    WITHOUT_LOSS,
    inference_only,
)
from stts_jax.demo.report import comparison_table
from stts_jax.demo.runs import FINE_TUNE, Demo
from stts_jax.evaluation.runner import Evaluation


def run(method: str, k: int, accuracy: float) -> dict:
    return {"method": method, "k": k, "packing": "stream", "accuracy": accuracy}


GOOD = {
    "guessing": 0.25,
    "kept_ratio": 70,
    "kept_moving": 0.9,
    "kept_still": 0.1,
    "runs": [
        run(UNPRUNED, 0, 0.95),
        run(TEXT_ONLY, 100, 0.26),
        run(STTS.name, 50, 0.94),
        run(STTS.name, 70, 0.92),
        run(STTS.name, 80, 0.85),
        run(RANDOM.name, 70, 0.86),
        run(RANDOM.name, 80, 0.70),
    ],
}


PUBLISHED = REPOSITORY / "docs" / "demo" / "summary.json"
OTHER_SEEDS = sorted(PUBLISHED.parent.glob("summary_seed_*.json"))


def test_the_published_run_bears_out_every_claim() -> None:
    assert not failing_claims(PUBLISHED)


@pytest.mark.parametrize("path", OTHER_SEEDS, ids=lambda path: path.stem)
def test_the_readme_has_the_figures_of_each_claim_that_another_seed_fails(path: Path) -> None:
    readme = " ".join((REPOSITORY / "README.md").read_text().split())
    assert all(claim.figures in readme for claim in failing_claims(path))


def failing_claims(path: Path) -> list[Claim]:
    return [claim for claim in claims(json.loads(path.read_text())) if not claim.holds]


@pytest.mark.parametrize("path", [PUBLISHED, *OTHER_SEEDS], ids=lambda path: path.stem)
def test_a_published_run_is_one_of_the_present_recipe(path: Path) -> None:
    summary = json.loads(path.read_text())
    sizes = ("videos", "picture_steps", "steps", "fine_tune_steps", "fine_tune_ratio", "questions")
    assert {name: summary[name] for name in sizes} == {name: getattr(FULL, name) for name in sizes}
    assert summary["fine_tune_settings"] == list(FINE_TUNE)
    asked = [run["k"] for run in summary["runs"] if run["method"] == STTS.name]
    assert asked[: len(FULL.ratios)] == list(FULL.ratios)


def test_three_seeds_are_published() -> None:
    seeds = [json.loads(path.read_text())["seed"] for path in (PUBLISHED, *OTHER_SEEDS)]
    assert seeds == [0, 1, 2]


def test_the_table_in_the_readme_is_that_of_the_published_run() -> None:
    readme = (REPOSITORY / "README.md").read_text().splitlines()
    table = comparison_table(json.loads(PUBLISHED.read_text()))
    start = readme.index(table[0])
    assert readme[start : start + len(table)] == table


def test_a_good_summary_bears_out_every_claim() -> None:
    assert all(claim.holds for claim in claims(GOOD))


@pytest.mark.parametrize(
    ("index", "accuracy", "failing"),
    [(0, 0.89, [0]), (1, 0.5, [1]), (2, 0.92, [2]), (4, 0.77, [3])],
    ids=["unpruned too low", "blind too high", "half loses too much", "no better than random"],
)
def test_one_bad_figure_fails_its_claim(index: int, accuracy: float, failing: list[int]) -> None:
    summary = copy.deepcopy(GOOD)
    summary["runs"][index]["accuracy"] = accuracy
    held = [claim.holds for claim in claims(summary)]
    assert [i for i, holds in enumerate(held) if not holds] == failing


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
    accuracy_against_ratio(summary, [STTS, RANDOM], tmp_path / "accuracy.png")
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
    trained = (STTS, RANDOM, HEURISTIC, TOME, WITHOUT_LOSS, OVER_RATIOS)
    at_inference = (inference_only(HEURISTIC), inference_only(TOME), EVS)
    assert compared == [method.name for method in (*trained, AUTO, *at_inference)]
    assert len(set(compared)) == len(compared)


def test_the_other_demos_compare_what_they_did() -> None:
    assert FULL.compared == SHORT.compared == (STTS, RANDOM)


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


def test_thresholds_are_those_that_drop_each_ratio_of_the_validation_videos(
    demo, monkeypatch
) -> None:
    load(monkeypatch, *OVER_RATIOS.overrides, "model.prune.topk=0.7")
    scores = np.linspace(0.0, 0.99, 100, dtype=np.float32).reshape(10, 10)
    monkeypatch.setattr(runs, "scores_of_videos", lambda *_: [scores])
    found = demo.evaluate_auto(TRAINED | {"name": OVER_RATIOS.name})
    assert {run["method"] for run in found} == {AUTO.name}
    thresholds = [prune["threshold"] for prune in saved_prune_configs(demo)]
    assert thresholds == pytest.approx([0.3, 0.5, 0.7, 0.8])
