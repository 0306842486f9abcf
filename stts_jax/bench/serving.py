"""Load on the engine, open-loop: `python -m stts_jax.bench serve`."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax

from stts_jax.arguments import Parser
from stts_jax.bench.model import bench_config, small_config
from stts_jax.bench.report import measured_on
from stts_jax.bench.serving_alone import NO_END, Answer, opened_media, rate_of, whole_prompts
from stts_jax.bench.serving_load import ANSWER_TOKENS, arrivals, media_rows, questions
from stts_jax.bench.serving_run import follow_up, send
from stts_jax.command_line import keep_compiled_code, run
from stts_jax.config import Config, ConfigError, load_config
from stts_jax.inference.engine.engine import Engine
from stts_jax.inference.engine.requests import Request
from stts_jax.inference.engine.settings import EngineSettings
from stts_jax.model.video_language_model import VideoLanguageModel

VIDEOS, QUESTIONS = 4, 12
# Requests of the comparison one at a time, and its two forms.
ALONE = 12
WHOLE, OPENED = "whole prompts", "opened media"
EPILOG = """\
Requests arrive at random times whether or not earlier ones are answered; some questions come much
more often than others. Each answer is compared with that of the question alone.
docs/performance.md has figures.
"""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = Parser(
        prog="python -m stts_jax.bench.serving",
        description="Put load on the engine, and compare it with one request at a time.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model",
        choices=("small", "tiny", "mid"),
        default="tiny",
        help="random parameters in the sizes of the tests, of configs/tiny.toml (default), or of "
        "the other benchmarks",
    )
    parser.add_argument("--frames", type=int, default=8, help="of a video (default 8)")
    parser.add_argument("--slots", type=int, default=8, help="of the engine (default 8)")
    parser.add_argument("--steps", type=int, default=1, help="tokens between looks at the queue")
    parser.add_argument(
        "--requests", type=int, default=100, help="of each run under load (default 100)"
    )
    parser.add_argument(
        "--rates",
        type=float,
        nargs="*",
        default=[0.5, 0.8],
        help="of arrival, as shares of the requests/s at saturation (default 0.5 0.8)",
    )
    parser.add_argument(
        "--stress",
        type=int,
        default=0,
        metavar="N",
        help="then N requests, 10 %% cancelled and 5 %% malformed, all of them followed up",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("runs/bench"), help="folder of serving.json"
    )
    options = parser.parse_args(arguments)
    if min(options.frames - 1, options.slots, options.steps, options.requests) < 1:
        raise ConfigError("--frames must be 2 or more, and --slots, --steps and --requests 1")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, and writes `serving.json`."""
    options = parse(arguments)
    keep_compiled_code()
    config = {"small": small_config, "tiny": _tiny, "mid": bench_config}[options.model](0.5)
    load = [os.getloadavg()[0]]
    model = jax.jit(lambda key: VideoLanguageModel(config.model, key=key))(jax.random.key(0))
    media = media_rows(config, options.frames, VIDEOS)
    asked = questions(config, media, QUESTIONS)
    settings = EngineSettings(
        slots=options.slots,
        prefix_tokens=media[0].budget.tokens,
        question_tokens=64,
        max_new_tokens=ANSWER_TOKENS[-1],
        queue=max(options.requests, options.stress),
        steps=options.steps,
    )
    results: dict[str, Any] = {"model": options.model, "settings": asdict(settings)}
    answers = _alone(model, asked, results)
    with Engine(model, NO_END, settings) as engine:
        engine.warm_up(media[:1], shown=True)
        results["follow_up"] = follow_up(engine, media_rows(config, options.frames, 9)[4:])
        _print_follow_up(results["follow_up"])
        _loads(engine, asked, answers, options, results)
    results |= measured_on(options.frames, 1, [*load, os.getloadavg()[0]])
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "serving.json").write_text(json.dumps(results, indent=2) + "\n")


def _tiny(ratio: float) -> Config:
    return load_config("tiny", [f"model.prune.topk={ratio}"])


def _alone(
    model: VideoLanguageModel, asked: Sequence[Request], results: dict[str, Any]
) -> list[list[int]]:
    """Measures one request at a time; returns the longest answers."""
    sample, longest = arrivals(ALONE, math.inf, QUESTIONS, seed=1), ANSWER_TOKENS[-1]
    whole: Answer = whole_prompts(model, longest)
    answers = [whole(request, longest) for request in asked]
    for name, answer in ((WHOLE, whole), (OPENED, opened_media(model, longest))):
        rate, of_core = rate_of(answer, asked, sample)
        results[name] = {"tokens_per_s": rate, "tokens_per_core_s": of_core}
        print(f"one at a time, {name}: {rate:.1f} tokens/s, {of_core:.1f} of core time", flush=True)
    return answers


def _loads(
    engine: Engine,
    asked: Sequence[Request],
    answers: Sequence[list[int]],
    options: argparse.Namespace,
    results: dict[str, Any],
) -> None:
    count = options.requests
    full = send(engine, asked, answers, arrivals(count, math.inf, QUESTIONS, seed=2))
    times = {
        name: {
            "tokens_per_s": full.tokens_per_s / results[name]["tokens_per_s"],
            "tokens_per_core_s": full.tokens_per_core_s / results[name]["tokens_per_core_s"],
        }
        for name in (WHOLE, OPENED)
    }
    results["saturation"] = asdict(full) | {"times": times}
    print(f"saturation: {full}")
    for name, more in times.items():
        print(
            f"  {more['tokens_per_s']:.2f} times one at a time with {name}, "
            f"{more['tokens_per_core_s']:.2f} of core time",
            flush=True,
        )
    for share in options.rates:
        rate = share * full.requests_per_s
        outcome = send(engine, asked, answers, arrivals(count, rate, QUESTIONS, seed=3))
        results[f"rate {share:g}"] = asdict(outcome)
        print(f"at {rate:.2f} requests/s ({share:.0%} of that): {outcome}", flush=True)
    if options.stress:
        mixed = arrivals(
            options.stress, full.requests_per_s, QUESTIONS, cancelled=0.1, malformed=0.05, seed=4
        )
        stress = send(engine, asked, answers, mixed)
        results["stress"] = asdict(stress)
        print(f"stress: {stress}", flush=True)


def _print_follow_up(seconds: dict[str, float]) -> None:
    print(
        f"first token: {1e3 * seconds['first_s']:.1f} ms of a new video, "
        f"{1e3 * seconds['follow_up_s']:.1f} ms of a follow-up "
        f"({seconds['share']:.3f} of it; wanted at most 0.2)",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(run("bench serving", main))
