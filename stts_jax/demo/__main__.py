"""`make demo`: train, prune, compare, draw; everything goes to `runs/demo`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stts_jax.arguments import Parser, at_least_one, seed
from stts_jax.command_line import end_program, run
from stts_jax.data.evaluation_batches import examples_of
from stts_jax.data.questions import question_of
from stts_jax.demo.ablations import ABLATED
from stts_jax.demo.claims import Claim, claims
from stts_jax.demo.figures import accuracy_against_ratio, loss_curves, save_summary
from stts_jax.demo.guessing import guessing_accuracy
from stts_jax.demo.kept import draw, kept_shares
from stts_jax.demo.plan import FULL, LONG, SEEDS, SHORT, STTS, UNPRUNED, Plan, specialist
from stts_jax.demo.report import comparison_table, write_report
from stts_jax.demo.runs import FINE_TUNE, Demo, at_ratio
from stts_jax.demo.seeds import SUMMARY, claims_of_seeds, publish_seeds, table_of_seeds
from stts_jax.evaluation.single import kept_tokens
from stts_jax.output_lock import hold_output
from stts_jax.training.checkpointing.load import load_model
from stts_jax.training.checkpointing.run_folder import require_writable

REAL_CLIP = Path(__file__).parent / "bigbuckbunny.mp4"
CLIPS_COUNTED = 20
OVERLAYS = "overlays"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = Parser(prog="python -m stts_jax.demo", description=__doc__)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--short", action="store_true", help="all parts in under 3 minutes")
    length.add_argument("--long", action="store_true", help="with the other baselines")
    length.add_argument(
        "--seeds",
        type=seed_range,
        metavar="N",
        help="seeds 0 to N - 1, or A-B, with models that are trained at each ratio alone too",
    )
    parser.add_argument(
        "--ablations",
        action="store_true",
        help="with --seeds: the parts of the recipe instead of models at each ratio alone",
    )
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/demo"))
    options = parser.parse_args(arguments)
    if options.ablations and not options.seeds:
        parser.error("--ablations is a table over seeds; add --seeds 10-14, for example")
    return options


def perform(demo: Demo) -> dict[str, Any]:
    """Runs everything but the report; returns the summary."""
    started = time.monotonic()
    plan = demo.plan
    demo.make_videos()
    unpruned = demo.train_unpruned()
    runs = demo.evaluate_unpruned(unpruned)
    for method in plan.inference_only:
        runs += demo.evaluate_inference_only(method, unpruned)
    trained = {method.name: demo.fine_tune(method, unpruned) for method in plan.methods}
    for one in trained.values():
        runs += demo.evaluate(one)
    if plan.auto:
        runs += demo.evaluate_auto(trained[STTS.name], runs)
    runs += demo.evaluate(demo.fine_tune(specialist(plan.fixed_ratio), unpruned))
    for k in plan.specialists:
        runs += demo.evaluate(demo.fine_tune(specialist(k), unpruned, k), [k])
    runs += demo.evaluate_first_fit(trained[STTS.name])
    config = demo.config(())
    seen, asked = (
        [question_of(example) for example in examples_of(config, split)]
        for split in ("train", "test")
    )
    return {
        "seed": demo.seed,
        "videos": plan.videos,
        "picture_steps": plan.picture_steps,
        "steps": plan.steps,
        "fine_tune_steps": plan.fine_tune_steps,
        "fixed_ratio": plan.fixed_ratio,
        "fine_tune_settings": list(FINE_TUNE),
        "questions": runs[0]["questions"],
        "guessing": guessing_accuracy(seen, asked),
        "runs": runs,
        **pictures_of_kept_tokens(demo),
        "minutes": (time.monotonic() - started) / 60 + demo.finished.minutes,
    }


def pictures_of_kept_tokens(demo: Demo) -> dict[str, Any]:
    """Draws what STTS keeps of held-out clips and of a real one; counts the moving tokens kept."""
    ratio = demo.plan.fixed_ratio
    print(f"drawing what is kept of {CLIPS_COUNTED} clips at most ...", flush=True)
    model, config = at_ratio(*load_model(demo.parts / STTS.name), ratio)
    clips = sorted({e.video for e in examples_of(config, "test") if e.video is not None})
    kept = [kept_tokens(model, config, clip) for clip in clips[:CLIPS_COUNTED]]
    moving, still = kept_shares(kept)
    draw(model, config, [*clips[: demo.plan.clips], REAL_CLIP], demo.output / OVERLAYS)
    return {"kept_ratio": ratio, "kept_moving": moving, "kept_still": still}


def publish(demo: Demo, summary: dict[str, Any], held: list[Claim]) -> None:
    """Writes `summary.json`, plots and `report.md`."""
    plan, output = demo.plan, demo.output
    save_summary(summary, output / SUMMARY)
    accuracy_against_ratio([summary], plan.compared, output / "accuracy.png")
    fixed = specialist(plan.fixed_ratio)
    names = [UNPRUNED, *(method.name for method in (*plan.methods, fixed))]
    loss_curves(demo.parts, names, output / "loss.png")
    pictures = {
        "accuracy.png": "Accuracy against the share of visual tokens dropped",
        "loss.png": "Loss of the unpruned training and of the fine-tunes",
    }
    for sheet in sorted((output / OVERLAYS).glob("*.png")):
        name = sheet.stem.removesuffix("_kept")
        pictures[f"{OVERLAYS}/{sheet.name}"] = (
            f"{name}: kept tokens above, scores below, {plan.fixed_ratio} % dropped"
        )
    write_report(summary, held, pictures, output / "report.md")


def run_one(plan: Plan, output: Path, number: int, parts: Path) -> dict[str, Any]:
    """Runs the demo of one seed, and reports on it in a folder; returns its summary."""
    length = "short" if plan is SHORT else "full"
    data_dir = Path("runs/data") / f"{length}-{number}"
    demo = Demo(plan, output, parts / f"{length}-{number}", data_dir, number)
    summary = perform(demo)
    publish(demo, summary, claims(summary) if plan.claims else [])
    return summary


def seed_range(text: str) -> range:
    """Parses `10` as seeds 0 to 9, and `3-9` as seeds 3 to 9."""
    first, dash, last = text.partition("-")
    if not dash:
        return range(at_least_one(text))
    seeds = range(seed(first), seed(last) + 1)
    if not seeds:
        raise argparse.ArgumentTypeError(f"'{text}' holds no seed; write the smaller one first")
    return seeds


def run_seeds(plan: Plan, seeds: range, output: Path, folder: Path) -> list[Claim]:
    """Runs the demo of several seeds, each with a report of its own; returns the claims.

    Args:
      plan: `SEEDS` or `ABLATED`.
      seeds: to run.
      output: folder of the models.
      folder: of the reports; that over the seeds has those of earlier runs too.
    """
    for number in seeds:
        print(f"seed {number} of {seeds.start} to {seeds.stop - 1}", flush=True)
        own = folder / str(number)
        own.mkdir(parents=True, exist_ok=True)
        run_one(plan, own, number, output)
        # After each of them: a run that is stopped has told what it found.
        summaries = publish_seeds(plan, folder)
    print("\n".join(table_of_seeds(plan, summaries)))
    return claims_of_seeds(plan, summaries)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo; returns the exit code, 1 if a full run fails a claim."""
    options = parse(arguments)
    plan: Plan = SHORT if options.short else LONG if options.long else FULL
    failed: list[Claim] = []

    def command() -> None:
        require_writable(options.output)
        with hold_output(options.output, "the demo"):
            if options.seeds:
                own = ABLATED if options.ablations else SEEDS
                folder = options.output / ("ablations" if options.ablations else "seeds")
                held = run_seeds(own, options.seeds, options.output, folder)
                report = folder / "report.md"
            else:
                summary = run_one(plan, options.output, options.seed, options.output)
                held = claims(summary) if plan.claims else []
                report = options.output / "report.md"
                print("\n".join(comparison_table(summary)))
        for claim in held:
            print(f"{'holds' if claim.holds else 'FAILS'}: {claim.text} ({claim.figures})")
        print(f"report: {report}")
        failed.extend(claim for claim in held if not claim.holds)

    return run("demo", command) or int(bool(failed))


if __name__ == "__main__":
    end_program(main())
