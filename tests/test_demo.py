"""What the demo claims follows from its summary, and its counts from what it is given."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from goldens_folder import REPOSITORY

from stts_jax.data.questions import Question
from stts_jax.demo import kept
from stts_jax.demo.claims import Claim, claims
from stts_jax.demo.figures import accuracy_against_ratio
from stts_jax.demo.finished import FinishedParts
from stts_jax.demo.guessing import guessing_accuracy
from stts_jax.demo.kept import changed_cells, lit_cells
from stts_jax.demo.plan import FULL, RANDOM, STTS, TEXT_ONLY, UNPRUNED
from stts_jax.demo.report import comparison_table
from stts_jax.demo.runs import FINE_TUNE


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
