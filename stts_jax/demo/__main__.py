"""`make demo`: train, prune, compare, draw; everything goes to `runs/demo`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stts_jax.arguments import Parser, seed
from stts_jax.command_line import end_program, run
from stts_jax.data.evaluation_batches import examples_of
from stts_jax.data.questions import question_of
from stts_jax.demo.claims import Claim, claims
from stts_jax.demo.figures import accuracy_against_ratio, loss_curves, save_summary
from stts_jax.demo.guessing import guessing_accuracy
from stts_jax.demo.kept import draw, kept_shares
from stts_jax.demo.plan import FULL, LONG, OVER_RATIOS, SHORT, STTS, UNPRUNED, Plan
from stts_jax.demo.report import comparison_table, write_report
from stts_jax.demo.runs import FINE_TUNE, Demo, at_ratio
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
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/demo"))
    return parser.parse_args(arguments)


def perform(demo: Demo) -> tuple[dict[str, Any], list[Claim]]:
    """Runs everything but the report; returns the summary and the claims."""
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
        runs += demo.evaluate_auto(trained[OVER_RATIOS.name])
    runs += demo.evaluate_first_fit(trained[STTS.name])
    config = demo.config(())
    seen, asked = (
        [question_of(example) for example in examples_of(config, split)]
        for split in ("train", "test")
    )
    summary: dict[str, Any] = {
        "seed": demo.seed,
        "videos": plan.videos,
        "picture_steps": plan.picture_steps,
        "steps": plan.steps,
        "fine_tune_steps": plan.fine_tune_steps,
        "fine_tune_ratio": plan.fine_tune_ratio,
        "fine_tune_settings": list(FINE_TUNE),
        "questions": runs[0]["questions"],
        "guessing": guessing_accuracy(seen, asked),
        "runs": runs,
        **pictures_of_kept_tokens(demo),
        "minutes": (time.monotonic() - started) / 60 + demo.finished.minutes,
    }
    return summary, claims(summary) if plan.claims else []


def pictures_of_kept_tokens(demo: Demo) -> dict[str, Any]:
    """Draws what STTS keeps of held-out clips and of a real one; counts the moving tokens kept."""
    ratio = demo.plan.fine_tune_ratio
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
    save_summary(summary, output / "summary.json")
    accuracy_against_ratio(summary, plan.compared, output / "accuracy.png")
    loss_curves(demo.parts, [UNPRUNED, *(m.name for m in plan.methods)], output / "loss.png")
    pictures = {
        "accuracy.png": "Accuracy against the share of visual tokens dropped",
        "loss.png": "Loss of the unpruned training and of the fine-tunes",
    }
    for sheet in sorted((output / OVERLAYS).glob("*.png")):
        name = sheet.stem.removesuffix("_kept")
        pictures[f"{OVERLAYS}/{sheet.name}"] = (
            f"{name}: kept tokens above, scores below, {plan.fine_tune_ratio} % dropped"
        )
    write_report(summary, held, pictures, output / "report.md")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo; returns the exit code, 1 if a full run fails a claim."""
    options = parse(arguments)
    plan: Plan = SHORT if options.short else LONG if options.long else FULL
    name = "short" if options.short else "full"
    data_dir = Path("runs/data") / f"{name}-{options.seed}"
    parts = options.output / f"{name}-{options.seed}"
    demo = Demo(plan, options.output, parts, data_dir, options.seed)
    failed: list[Claim] = []

    def command() -> None:
        require_writable(demo.output)
        with hold_output(demo.output, "the demo"):
            summary, held = perform(demo)
            publish(demo, summary, held)
        print("\n".join(comparison_table(summary)))
        for claim in held:
            print(f"{'holds' if claim.holds else 'FAILS'}: {claim.text} ({claim.figures})")
        print(f"report: {demo.output / 'report.md'} ({summary['minutes']:.1f} minutes)")
        failed.extend(claim for claim in held if not claim.holds)

    return run("demo", command) or int(bool(failed))


if __name__ == "__main__":
    end_program(main())
