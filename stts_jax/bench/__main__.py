"""Unpruned against pruned, measured in one run: `python -m stts_jax.bench`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax

from stts_jax.arguments import Parser
from stts_jax.bench import serving
from stts_jax.bench.decode import decode_lines, race_of_batches
from stts_jax.bench.ideal import part_flops
from stts_jax.bench.model import bench_budget, bench_config, small_config
from stts_jax.bench.peer import DROPPED, peer_table, race_with_peer
from stts_jax.bench.programs import PARTS, SELECTION, Programs
from stts_jax.bench.race import Times, race
from stts_jax.bench.report import (
    as_table,
    draw_stages,
    measured_on,
    result_rows,
    selection_line,
    selection_shares,
)
from stts_jax.command_line import run
from stts_jax.config import Config, ConfigError, override
from stts_jax.model.video_language_model import VideoLanguageModel

RATIOS = (0.3, 0.5, 0.7)
PACKINGS = ("stream", "first_fit")
EPILOG = """\
Ideal is the ratio of FLOPs, counted from the sizes, with attention over each frame's own kept
patches; share is measured over ideal. Programs take turns, and medians are over rounds, with the
smallest and the largest ratio of a round in brackets; where other work shares the machine, core
time is the steadier of the two. docs/performance.md has more. `serve` as the first word puts load
on the engine instead (serve --help).
"""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = Parser(
        prog="python -m stts_jax.bench",
        description="Time pruned against unpruned, and both against their arithmetic.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--frames", type=int, default=16, help="of the video (default 16)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each program (default 3)")
    parser.add_argument(
        "--ratios",
        type=float,
        nargs="+",
        default=list(RATIOS),
        metavar="R",
        help="shares dropped, beside none (default 0.3 0.5 0.7)",
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        default=list(PARTS),
        choices=PARTS,
        help="what to time (default all; `step` brings selection's share with it)",
    )
    parser.add_argument("--packing", choices=PACKINGS, default=PACKINGS[0], help="of kept patches")
    parser.add_argument("--small", action="store_true", help="smallest sizes: see that it runs")
    parser.add_argument(
        "--peer",
        action="store_true",
        help="race transformers' Molmo2 instead, unpruned and at 50 %%",
    )
    parser.add_argument(
        "--decode",
        action="store_true",
        help="time decoding instead (or after --peer), of 1 prompt and of 8 of unequal length",
    )
    parser.add_argument(
        "--tokens", type=int, default=128, help="to decode with --peer or --decode (default 128)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/bench"),
        help="folder of tables as JSON, bench.json, peer.json and decode.json, and "
        "of stages.png (default runs/bench)",
    )
    options = parser.parse_args(arguments)
    if options.frames < 2 or options.rounds < 1 or options.tokens < 2:
        raise ConfigError(
            f"--frames is {options.frames}, --rounds {options.rounds} and --tokens "
            f"{options.tokens}; use 2, 1 and 2 or more"
        )
    for ratio in options.ratios:
        if not 0.0 < ratio < 1.0:
            raise ConfigError(
                f"--ratios has {ratio}; it is the fraction removed, between 0 and 1 "
                "(the unpruned model is always measured)"
            )
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints tables, writes them as JSON and `stages.png`; `serve` is another program."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["serve"]:
        serving.main(words[1:])
        return
    options = parse(arguments)
    make = small_config if options.small else bench_config
    options.output.mkdir(parents=True, exist_ok=True)
    if options.peer or options.decode:
        if options.peer:
            load = _load()
            rows = race_with_peer(make, options.frames, options.rounds, options.tokens)
            _save({"tokens": options.tokens, "rows": rows}, "peer", options, load)
            print(peer_table(rows))
        if options.decode:
            load = _load()
            rates = _decode(make(DROPPED), options)
            _save(rates, "decode", options, load)
            print(decode_lines(rates))
        return
    _race_ratios(options, make)


def _decode(config: Config, options: argparse.Namespace) -> dict[str, Any]:
    budget = bench_budget(config, options.frames)
    model = jax.jit(lambda key: VideoLanguageModel(config.model, key=key))(jax.random.key(0))
    return race_of_batches(model, config, budget, tokens=options.tokens, rounds=options.rounds)


def _load() -> float:
    """Returns the load average of the last minute."""
    return os.getloadavg()[0]


def _save(results: dict[str, Any], name: str, options: argparse.Namespace, load: float) -> None:
    """Writes results with the machine they were measured on; `load` was before."""
    report = measured_on(options.frames, options.rounds, [load, _load()]) | results
    (options.output / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n")


def _race_ratios(options: argparse.Namespace, make: Callable[[float], Config]) -> None:
    parts = [part for part in PARTS if part in options.parts]
    if "step" in parts:
        parts.append(SELECTION)
    load = _load()
    runs, flops = {}, {}
    for ratio in (0.0, *sorted(set(options.ratios))):
        config = override(make(ratio), [f"model.prune.layout={options.packing}"])
        budget = bench_budget(config, options.frames)
        runs[ratio] = Programs(config, budget, parts)
        for part, count in part_flops(config, budget, runs[ratio].kept).items():
            flops[part, ratio] = count
        print(f"compiled for {ratio:.0%} dropped", flush=True)
    times: dict[tuple[str, float], Times] = {}
    for part in parts:
        programs = {ratio: partial(own.run, part) for ratio, own in runs.items()}
        measured = race(programs, options.rounds)
        times |= {(part, ratio): own for ratio, own in measured.items()}
        print(f"measured {part}", flush=True)
    rows = result_rows({pair: own for pair, own in times.items() if pair[0] in PARTS}, flops)
    shares = selection_shares(times) if "step" in parts else {}
    results = {"packing": options.packing, "rows": rows, "selection_share_of_step": shares}
    _save(results, "bench", options, load)
    print(as_table(rows))
    if shares:
        print(selection_line(shares))
    if draw_stages(rows, options.output / "stages.png"):
        print(f"stages: {options.output / 'stages.png'}")


if __name__ == "__main__":
    sys.exit(run("bench", main))
