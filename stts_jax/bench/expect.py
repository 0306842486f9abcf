"""Ideal times of the 4B on real chips, by FLOPs and bytes: `python -m stts_jax.bench.expect`.

Nothing is measured here; `docs/performance.md` has the tables that this prints.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from stts_jax.arguments import Parser
from stts_jax.bench.operations import Operation, operations
from stts_jax.budget import video_budget
from stts_jax.command_line import run
from stts_jax.config import Config, ConfigError, load_config, replace
from stts_jax.fit.hardware import CHIPS
from stts_jax.training.flops import training_flops

RATIOS = (0.0, 0.3, 0.5, 0.7)
VIT = ("vit_before", "scorer", "vit_after")
# Chips of the last table, the batch of the paper's run, and a fair share of the peak.
PODS = ((8, "h100"), (64, "v5p"), (256, "v5e"))
BATCH, SHARE = 128, 0.35


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = Parser(
        prog="python -m stts_jax.bench.expect",
        description="Count FLOPs and bytes of a setup, unpruned and pruned, and what they take "
        "at the peak rates of real chips. Nothing is run.",
    )
    parser.add_argument("--config", default="molmo2_4b", help="setup (default molmo2_4b)")
    parser.add_argument("--frames", type=int, nargs="+", default=[64, 384], metavar="T")
    parser.add_argument("--text", type=int, default=500, help="tokens of text (default 500)")
    options = parser.parse_args(arguments)
    if min(options.frames) < 2 or options.text < 1:
        raise ConfigError(
            f"--frames is {options.frames} and --text {options.text}; use 2 and 1 or more"
        )
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    options = parse(arguments)
    config = load_config(options.config)
    works = {
        (frames, ratio): _Work(with_ratio(config, ratio), frames, options.text)
        for frames in options.frames
        for ratio in RATIOS
    }
    print("\n\n".join((count_table(works), chip_table(works), pod_table(works))))


def with_ratio(config: Config, ratio: float) -> Config:
    """Returns the setup with that ratio dropped by the scorer; without a scorer at 0."""
    method = "scorer" if ratio else "none"
    return replace(config, {"model.prune.method": method, "model.prune.topk": ratio})


class _Work:
    """Operations of the forward pass and FLOPs of the step of one video."""

    def __init__(self, config: Config, frames: int, text: int) -> None:
        budget = video_budget(config.model, frames=frames, videos=1, text_tokens=text)
        self.operations = operations(config.model, budget)
        self.step = training_flops(config, budget, 1).model

    def of(self, *parts: str) -> list[Operation]:
        """Returns the operations of some parts, or of all."""
        return [own for own in self.operations if not parts or own.part in parts]


Works = dict[tuple[int, float], _Work]


def count_table(works: Works) -> str:
    """Returns the table of FLOPs and bytes of the forward pass, and ratios of the FLOPs."""
    lines = [
        "| frames | dropped | TFLOP: ViT | LLM | all | GB: ViT | LLM | all "
        "| FLOP a byte: ViT | LLM | ideal: ViT | LLM | all | step |",
        "|" + "---|" * 14,
    ]
    for (frames, ratio), work in works.items():
        parts = [work.of(*VIT), work.of("llm"), work.of()]
        flops = [sum(own.flops for own in part) for part in parts]
        moved = [sum(own.bytes for own in part) for part in parts]
        whole = works[frames, 0.0]
        ideals = [" "] * 4
        if ratio:
            unpruned = [whole.of(*VIT), whole.of("llm"), whole.of()]
            ideals = [
                f" {sum(own.flops for own in before) / after:.2f}x "
                for before, after in zip(unpruned, flops, strict=True)
            ]
            ideals.append(f" {whole.step / work.step:.2f}x ")
        cells = [f" {frames} ", f" {ratio:.0%} "]
        cells += [f" {count / 1e12:.1f} " for count in flops]
        cells += [f" {count / 1e9:.1f} " for count in moved]
        cells += [f" {flops[part] / moved[part]:.0f} " for part in (0, 1)]
        lines.append(f"|{'|'.join([*cells, *ideals])}|")
    return "\n".join(lines)


def chip_table(works: Works) -> str:
    """Returns the table of seconds of the forward pass at the peak rates of one chip."""
    chips = list(CHIPS.values())
    lines = [
        "| frames | dropped | "
        + " | ".join(f"{chip.name}: ViT | all | faster" for chip in chips)
        + " |",
        "|" + "---|" * (2 + 3 * len(chips)),
    ]
    for (frames, ratio), work in works.items():
        cells = [f"{frames}", f"{ratio:.0%}"]
        for chip in chips:
            vit = sum(own.seconds(chip) for own in work.of(*VIT))
            whole = sum(own.seconds(chip) for own in work.of())
            unpruned = sum(own.seconds(chip) for own in works[frames, 0.0].of())
            cells += [f"{vit:.3f}", f"{whole:.3f}", f"{unpruned / whole:.2f}x" if ratio else ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def pod_table(works: Works) -> str:
    """Returns the table of seconds of a step of `BATCH` videos at `SHARE` of the peak."""
    frames = min(frames for frames, _ in works)
    peaks = {chip.name: chip.flops for chip in CHIPS.values()}
    steps = {ratio: BATCH * works[frames, ratio].step for ratio in (0.0, 0.5)}
    lines = [
        f"{BATCH} videos of {frames} frames at {SHARE:.0%} of the peak: "
        f"{steps[0.0] / BATCH / 1e12:.1f} TFLOP a video unpruned, "
        f"{steps[0.5] / BATCH / 1e12:.1f} with 50 % dropped",
        "",
        "| chips | peak, PFLOP/s | unpruned | 50 % dropped |",
        "|---|---|---|---|",
    ]
    for count, name in PODS:
        peak = count * peaks[name]
        seconds = [f"{flops / peak / SHARE:.1f} s" for flops in steps.values()]
        lines.append(f"| {count} {name} | {peak / 1e15:.1f} | {' | '.join(seconds)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run("expect", main))
