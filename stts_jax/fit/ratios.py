"""A run over ratios: a program of each, all of them loaded, of which one runs at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from stts_jax.config import replace
from stts_jax.fit.compiler import Compiler, compile_wholly
from stts_jax.fit.hardware import GIB
from stts_jax.fit.memory import Memory
from stts_jax.fit.report import Report, analyse
from stts_jax.fit.roofline import Roofline
from stts_jax.fit.setting import Setting
from stts_jax.train_ratios import RatioDraw, at_ratio, step_budget
from stts_jax.training.flops import PartFlops, StepFlops, training_flops

# Of a program that was only planned; the largest that was compiled takes 0.21 GiB for itself.
PLANNED_PROGRAM = GIB // 4


def analyse_run(setting: Setting, compiler: Compiler = compile_wholly) -> Report:
    """Compiles all programs of a setting, of a run over ratios one for each.

    Returns:
      the report; of a run over ratios that of the program that takes the most memory, with the code
      of all programs, and with FLOPs and time as means over the draw of the ratio.

    Raises:
      jax.errors.JaxRuntimeError: for a refusal that is not about memory.
    """
    draw = RatioDraw.of(setting.config)
    if setting.program != "train" or len(draw.ratios) == 1:
        return analyse(setting, compiler)
    found = {ratio: analyse(at_one_ratio(setting, ratio), compiler) for ratio in draw.ratios}
    reports = list(found.values())
    largest = max(reports, key=lambda own: (not own.memory.measured, own.memory.total))
    return dataclasses.replace(
        largest,
        setting=setting,
        memory=_with_all_programs(largest.memory, reports),
        flops=_mean_flops(draw, found),
        time=_mean_time(draw, found),
        estimate=max((own.estimate for own in reports), key=lambda estimate: estimate.total),
        compile_seconds=sum(own.compile_seconds for own in reports),
        planned=any(own.planned for own in reports),
        by_ratio=found,
    )


def at_one_ratio(setting: Setting, ratio: float) -> Setting:
    """Returns the setting of a run's steps at a ratio: they are those of a run over it alone."""
    config = at_ratio(setting.config, ratio)
    alone = {"model.prune.train_ratios": (ratio,), "model.prune.train_ratio_weights": ()}
    config = replace(config, alone)
    return dataclasses.replace(setting, config=config, budget=step_budget(config, ratio))


def fixed_flops(setting: Setting) -> StepFlops:
    """Returns the FLOPs of a step if all steps were at `model.prune.topk`."""
    fixed = at_one_ratio(setting, setting.config.model.prune.topk)
    return training_flops(fixed.config, fixed.budget, fixed.rows)


def _with_all_programs(memory: Memory, reports: Sequence[Report]) -> Memory:
    """Returns the memory of one program, with the code of all of them."""
    code = sum(
        PLANNED_PROGRAM if own.planned else own.memory.by_kind.get("program", 0) for own in reports
    )
    return dataclasses.replace(memory, by_kind={**memory.by_kind, "program": code})


def _mean_flops(draw: RatioDraw, found: Mapping[float, Report]) -> StepFlops:
    parts = {ratio: {part.name: part for part in own.flops.parts} for ratio, own in found.items()}
    names = dict.fromkeys(name for of_ratio in parts.values() for name in of_ratio)

    def mean(name: str, kind: str) -> float:
        nothing = PartFlops(name, 0.0)
        return draw.mean({r: getattr(own.get(name, nothing), kind) for r, own in parts.items()})

    kinds = ("forward", "backward", "recompute")
    means = (PartFlops(name, *(mean(name, kind) for kind in kinds)) for name in names)
    return StepFlops(tuple(means))


def _mean_time(draw: RatioDraw, found: Mapping[float, Report]) -> Roofline | None:
    times = {ratio: own.time for ratio, own in found.items() if own.time is not None}
    if len(times) < len(found):
        return None

    def mean(kind: str) -> float:
        return draw.mean({ratio: getattr(time, kind) for ratio, time in times.items()})

    return Roofline(mean("compute"), mean("memory"), mean("links"))
