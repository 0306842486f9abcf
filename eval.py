"""Evaluate a checkpoint: `python eval.py --checkpoint runs/tiny --split test --k 0 30 50`.

With `--mode` the published benchmarks are answered and set beside the paper's figures.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import jax

from convert.opening import open_any, with_adapter
from stts_jax.arguments import Parser, at_least_one, path_or_address, percentage
from stts_jax.buckets.address import path_of
from stts_jax.command_line import (
    add_auto_option,
    add_checkpoint_options,
    end_program,
    leave,
    run_on_hosts,
)
from stts_jax.config import Config, ConfigError, override, replace
from stts_jax.data.datasets.base import SourceExample
from stts_jax.data.evaluation_batches import least_budget
from stts_jax.data.synthetic import DEFAULT_FOLDER, SPLITS
from stts_jax.evaluation.agreement import agreement_on
from stts_jax.evaluation.comparison import (
    column_counts,
    column_scores,
    comparison_table,
    results_table,
)
from stts_jax.evaluation.folders import free_folder, setup_name
from stts_jax.evaluation.model_fits import require_model_fits
from stts_jax.evaluation.report import print_table
from stts_jax.evaluation.runner import (
    Evaluation,
    evaluate_questions,
    read_questions,
    rows_of_batch,
)
from stts_jax.evaluation.same_budget import same_budget_ratios
from stts_jax.evaluation.scoring.judge import HttpJudge, Judge
from stts_jax.evaluation.suites import GROUPS, tasks_of
from stts_jax.evaluation.tasks import TaskRun, evaluate_tasks
from stts_jax.model.video_language_model import VideoLanguageModel, reconfigure
from stts_jax.output_lock import hold_output
from stts_jax.parallel.processes import Share, first_then_others, is_first, notice
from stts_jax.terminal import doing, to_stderr
from stts_jax.training.checkpointing.checkpoint_errors import writing
from stts_jax.training.checkpointing.load import load_to_answer
from stts_jax.training.checkpointing.opened import OpenedCheckpoint, open_checkpoint
from stts_jax.training.checkpointing.run_folder import (
    config_of,
    require_writable,
)
from stts_jax.training.checkpointing.thresholds import calibrated_folder, with_threshold
from stts_jax.training.distributed import join_processes
from stts_jax.training.library_output import keep_native_log, native_log_of
from stts_jax.training.run_mesh import answering_mesh

EXAMPLES = """\
examples:
  python eval.py --checkpoint runs/tiny
  python eval.py --checkpoint runs/tiny --k 0 30 50 --output runs/tiny/eval
  python eval.py --checkpoint runs/tiny --frames 2x --same-budget
  python eval.py --checkpoint runs/tiny --weights int8 --compare-weights
  python eval.py --checkpoint runs/tiny --split my.jsonl --set model.prune.layout=first_fit
  python eval.py --checkpoint runs/molmo2_4b --mode paper --root /data/video_datasets
  python eval.py --checkpoint runs/molmo2_4b --mode mvbench,tomato --root /data/video_datasets

On several hosts, start this command once on each (docs/running.md): each has the model on its own
devices and answers its share of the questions.
"""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        description="Answer the questions of a split and score the answers.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_checkpoint_options(parser)
    parser.add_argument(
        "--split", default="test", help=f"{', '.join(SPLITS)}, or a .jsonl file (%(default)s)"
    )
    parser.add_argument(
        "--k",
        type=percentage,
        nargs="+",
        metavar="PERCENT",
        help="percentages of the tokens to drop (default: as trained)",
    )
    add_auto_option(parser)
    parser.add_argument(
        "--same-budget",
        action="store_true",
        help="with --frames: drop more, so that as many visual tokens are left as at 1x (of the "
        "split's own videos; with --mode of videos that have all frames)",
    )
    parser.add_argument(
        "--mode",
        help=f"benchmarks instead of a split: {', '.join(GROUPS)}, or names of tasks, with commas",
    )
    parser.add_argument(
        "--root", type=path_or_address, help="folder of published datasets (default: data.root)"
    )
    parser.add_argument(
        "--judge", metavar="MODEL", help="chat model that judges free answers (OPENAI_API_KEY)"
    )
    parser.add_argument(
        "--limit", type=at_least_one, help="answer only the first questions, of each benchmark"
    )
    parser.add_argument(
        "--compare-weights",
        action="store_true",
        help="with --weights int8: also load whole weights, and say how often both answer alike",
    )
    parser.add_argument(
        "--data-dir", type=Path, default=DEFAULT_FOLDER, help="of the procedural set (%(default)s)"
    )
    parser.add_argument(
        "--output",
        type=path_or_address,
        help="folder for metrics and predictions (default: CHECKPOINT/eval); below it are k50, or "
        "k50-2x and k50-first_fit for other frames and packing",
    )
    return parser.parse_args(arguments)


def tell(text: str) -> None:
    """Print a line on the standard error, once for all processes."""
    if is_first():
        to_stderr(text)


def require_split(split: str) -> None:
    """Refuse what is neither one of the splits nor a file of questions."""
    if split.endswith(".jsonl"):
        if path_of(split).is_dir():
            raise ConfigError(f"--split is '{split}', which is a folder; give a .jsonl file")
        if not path_of(split).is_file():
            raise ConfigError(f"--split is '{split}', which does not exist; check the path")
    elif split not in SPLITS:
        raise ConfigError(f"--split is '{split}'; use {', '.join(SPLITS)}, or a .jsonl file")


def require_comparable(options: argparse.Namespace) -> None:
    """Refuse to compare weights with themselves, or on benchmarks."""
    if not options.compare_weights:
        return
    if options.weights == "compute":
        raise ConfigError(
            "--compare-weights compares int8 weights with whole ones; add --weights int8"
        )
    if options.mode:
        raise ConfigError(
            f"--compare-weights compares on the questions of a split, and --mode is "
            f"'{options.mode}'; leave out one of them"
        )


def require_no_mode(options: argparse.Namespace) -> None:
    """Refuse benchmarks of a checkpoint in place: their answers are kept with a copy."""
    if options.mode:
        raise ConfigError(
            "--no-cache answers splits only; leave it out with --mode, so that answers are kept "
            "with a converted copy"
        )


def trained_config(options: argparse.Namespace, unconverted: OpenedCheckpoint | None) -> Config:
    """The configuration of the checkpoint, with `--set` and the file of `--split`."""
    trained = unconverted.config if unconverted else config_of(options.checkpoint)
    config = override(trained, options.overrides)
    if options.split.endswith(".jsonl"):
        config, options.split = replace(config, {"data.test": options.split}), "test"
    return config


def setups(
    options: argparse.Namespace, config: Config, questions: Sequence[SourceExample] | None
) -> dict[str, Config]:
    """The configurations to evaluate, by name.

    Args:
      options: the command line.
      config: of the checkpoint.
      questions: of the split, None with `--mode`.
    """
    ratios = [config.model.prune.topk] if options.k is None else [k / 100 for k in options.k]
    require_method(config, ratios)
    if options.same_budget:
        ratios = same_budget_ratios(config, questions, options.frames, ratios)
        require_method(config, ratios)
    changes = ({"model.prune.topk": ratio, "data.topk": None} for ratio in ratios)
    found = {f"{100 * r:g} %": replace(config, c) for r, c in zip(ratios, changes, strict=True)}
    if not options.auto:
        return found
    return {name: with_threshold(setup, options.checkpoint) for name, setup in found.items()}


def require_method(config: Config, ratios: Sequence[float]) -> None:
    """Refuse to drop tokens of a model that drops none."""
    if any(ratios) and config.model.prune.method == "none":
        raise ConfigError(
            "model.prune.method of this checkpoint is 'none', which drops nothing, so --k must be "
            "0 and --same-budget can take no more frames; add a method without "
            "parameters, such as --set model.prune.method=random (or heuristic, tome, evs)"
        )


def asked_of(options: argparse.Namespace, config: Config) -> list[SourceExample]:
    """The questions of the split."""
    return read_questions(config, options.split, options.data_dir, options.limit)


def require_media(questions: Sequence[SourceExample]) -> None:
    """Refuse a split of which every question is about a file that isn't there."""
    missing = []
    for question in questions:
        files = (file for file in (question.video, *question.images) if file)
        missing.append(next((file for file in files if not file.exists()), None))
        if missing[-1] is None:
            return  # the rest is said one by one
    if missing:
        raise ConfigError(
            f"no question of this split can be asked: '{missing[0]}' does not exist, and so it "
            "is with the others; check the paths, which are relative to the file of the split"
        )


def require_root(options: argparse.Namespace, config: Config) -> Path:
    """The folder of published datasets, which must exist."""
    root = options.root or (path_of(config.data.root) if config.data.root else None)
    if root is None or not root.is_dir():
        raise ConfigError(
            f"--root is {str(root) if root else 'not given'}; give the folder that the "
            "published datasets lie below"
        )
    return root


def answer_split(
    options: argparse.Namespace,
    model: VideoLanguageModel,
    reference: VideoLanguageModel | None,
    wanted: dict[str, Config],
    output: Path,
    questions: Sequence[SourceExample],
) -> None:
    """Answer a split at each ratio; save and print, with the agreement with a reference if any."""
    results: dict[str, Evaluation] = {}
    for name, setup in wanted.items():
        tell(f"answering {len(questions)} questions, {name} dropped; the first batch compiles")
        own = reconfigure(model, setup.model)
        results[name] = evaluate_questions(
            own,
            setup,
            questions,
            frames_scale=options.frames,
            progress=is_first(),
            share=Share.of_this_process(),
        )
        if reference is not None:
            agreement = agreement_on(
                reconfigure(reference, setup.model),
                own,
                setup,
                questions,
                frames_scale=options.frames,
                progress=is_first(),
                share=Share.of_this_process(),
            )
            results[name] = dataclasses.replace(results[name], agreement=agreement)
            tell(f"{options.weights} against whole weights, {name} dropped: {agreement}")
        settings = {"split": options.split, "frames_scale": options.frames, "k": name}
        if options.weights != "compute":
            settings["weights"] = options.weights
        if is_first():
            named = output / setup_name(name, options.frames, setup, options.weights)
            folder = free_folder(named, settings, setup)
            with writing(folder):
                results[name].save(folder, settings)
                setup.save(folder)
    if is_first():
        print_table(results)


def answer_tasks(
    options: argparse.Namespace,
    model: VideoLanguageModel,
    wanted: dict[str, Config],
    output: Path,
    judge: Judge | None,
) -> None:
    """Answer benchmarks at each ratio; save and print, also beside the paper's rows."""
    tasks = tasks_of(options.mode)
    scores: dict[str, dict[str, float]] = {}
    counts: dict[str, dict[str, int]] = {}
    for name, setup in wanted.items():
        root = require_root(options, setup)
        run = TaskRun(
            root,
            options.checkpoint,
            options.limit,
            options.frames,
            progress=is_first(),
            judge=judge,
            notice=notice,
            share=Share.of_this_process(),
            weights=options.weights,
        )
        folder = output / setup_name(name, options.frames, setup, options.weights)
        results = evaluate_tasks(reconfigure(model, setup.model), setup, tasks, folder, run)
        if is_first():
            setup.save(folder)
            print("\n".join([f"{name} dropped:", *results_table(results)]))
            scores[name] = column_scores({r.task.name: r.summary.value for r in results})
            counts[name] = column_counts({r.task.name: r.summary.questions for r in results})
    if is_first():
        print("\n".join(["", *comparison_table(scores, questions=counts)]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table, write metrics and predictions; the exit code."""
    options = parse(arguments)

    def command() -> None:
        require_split(options.split)
        require_comparable(options)
        judge = None
        if options.mode:
            tasks_of(options.mode)  # says at once what is wrong with it
            judge = HttpJudge(options.judge) if options.judge else None
        if join_processes() > 1:
            log = options.output or options.checkpoint
            keep_native_log("eval.py", native_log_of(log, jax.process_index()))
        unconverted, base = None, None
        if options.no_cache:
            require_no_mode(options)
            unconverted = first_then_others(
                lambda: open_any(options.checkpoint, options.adapter, copy=False, notice=tell)
            )
            if options.auto:
                calibrated_folder(unconverted)
        else:
            options.checkpoint, base = first_then_others(
                lambda: with_adapter(options.checkpoint, options.adapter)
            )
        config = trained_config(options, unconverted)
        questions = None
        if not options.mode:
            with doing("reading the questions", tell):
                questions = first_then_others(lambda: asked_of(options, config))
            require_media(questions)
        else:
            require_root(options, config)
        wanted = setups(options, config, questions)
        output = options.output or options.checkpoint / "eval"
        if is_first():
            for name, setup in wanted.items():
                folder = output / setup_name(name, options.frames, setup, options.weights)
                require_writable(folder)
                stack.enter_context(hold_output(folder, "evaluating", notice))
        # A run may save a newer step meanwhile; results are kept with the one that is loaded.
        opened = unconverted or open_checkpoint(options.checkpoint, base)
        options.checkpoint = opened.folder
        mesh = answering_mesh(config)
        loaded = [options.weights, *(["compute"] if options.compare_weights else [])]
        for setup in wanted.values():
            count = setup.eval.batch_rows if questions is None else len(questions)
            rows = rows_of_batch(setup, count, mesh)
            budget = least_budget(setup, options.frames)
            require_model_fits(opened, setup, budget, rows, mesh, weights=loaded, say=tell)
        with doing(f"loading the model of '{opened.folder}'", tell):
            model, *others = (
                load_to_answer(opened, config, mesh, weights)[0] for weights in loaded
            )
        if questions is None:
            answer_tasks(options, model, wanted, output, judge)
        else:
            reference = others[0] if others else None
            answer_split(options, model, reference, wanted, output, questions)
        notice(f"metrics and predictions are in '{output}'")

    with ExitStack() as stack:  # lets go of the results' folders
        code = run_on_hosts("eval.py", command)
    return leave(code)


if __name__ == "__main__":
    end_program(main())
