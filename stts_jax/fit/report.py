"""One setting compiled and counted: the answer as data."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from stts_jax.fit.by_hand import estimate_by_hand
from stts_jax.fit.collectives import Collective, by_kind, collectives
from stts_jax.fit.compiler import Compiler, compile_wholly
from stts_jax.fit.cycles import Estimate, estimates
from stts_jax.fit.memory import Memory, largest_arrays
from stts_jax.fit.programs import lower
from stts_jax.fit.roofline import Roofline, roofline
from stts_jax.fit.setting import Setting, mesh_text
from stts_jax.inference.memory_estimate import MemoryEstimate
from stts_jax.training.flops import StepFlops, decode_flops, prefill_flops, training_flops
from stts_jax.training.run_memory import TrainingMemory

# Largest exchanges and arrays that a report names.
NAMED = 8


@dataclass(frozen=True)
class Report:
    """The result of an analysis.

    Attributes:
      setting: what was asked.
      memory: of one device.
      flops: of one step on all devices.
      exchanges: between devices, None where the compiler refused.
      time: the bound of a step, None where the rates aren't known; `links` is 0 where the compiler
        refused.
      estimate: by hand, what `ask`, `eval.py` and `train.py` compare with free memory.
      largest: the largest arrays that the program makes, empty where the compiler refused.
      cycles: what a TPU's compiler estimates for each operation, empty where it says nothing.
      compile_seconds: that this took.
      refusal: the compiler's own words, empty if it didn't refuse.
      planned: whether the compiler was stopped before it wrote machine code.
      by_ratio: the reports of the programs of a run over ratios, see `fit.ratios`.
    """

    setting: Setting
    memory: Memory
    flops: StepFlops
    exchanges: list[Collective] | None
    time: Roofline | None
    largest: list[dict[str, object]]
    cycles: list[Estimate]
    estimate: MemoryEstimate | TrainingMemory
    compile_seconds: float
    refusal: str = ""
    planned: bool = False
    by_ratio: Mapping[float, Report] = field(default_factory=dict)


def analyse(setting: Setting, compiler: Compiler = compile_wholly) -> Report:
    """Compiles a setting and counts bytes, FLOPs and collectives.

    Args:
      setting: the setting to compile.
      compiler: `compile_wholly`, or `plan` of `fit.plan`.

    Raises:
      jax.errors.JaxRuntimeError: for a refusal that is not about memory.
    """
    start = time.perf_counter()
    program = lower(setting)
    chip, devices = setting.topology.chip, len(setting.topology.devices)
    flops = step_flops(setting)
    outcome = compiler(setting, program)
    module, memory = outcome.module, outcome.memory
    exchanges = None if module is None else collectives(module, devices)
    largest = [] if module is None else largest_arrays(module, NAMED)
    bound = (
        None
        if not chip.has_rates
        else roofline(
            flops,
            chip,
            devices,
            moved=_moved(setting, memory),
            sent=sum(exchange.total for exchange in exchanges or []),
        )
    )
    return Report(
        setting,
        memory,
        flops,
        exchanges,
        bound,
        largest,
        [] if module is None else estimates(module),
        estimate_by_hand(setting),
        compile_seconds=time.perf_counter() - start,
        refusal=outcome.refusal[:500],
        planned=outcome.planned,
    )


def step_flops(setting: Setting) -> StepFlops:
    """Returns the FLOPs of a step of the setting's program."""
    model, budget, rows = setting.config.model, setting.budget, setting.rows
    if setting.program == "train":
        return training_flops(setting.config, budget, rows)
    if setting.program == "prefill":
        return prefill_flops(model, budget, rows)
    return decode_flops(model, budget.tokens + setting.config.eval.max_new_tokens, rows)


def _moved(setting: Setting, memory: Memory) -> int:
    """Returns bytes moved: arguments read once; in training, their updates written once."""
    kinds = memory.by_kind
    state = kinds["parameters"] + kinds.get("optimizer", 0)
    moved = state + kinds["batch"] + kinds.get("cache", 0)
    return moved + (state if setting.program == "train" else 0)


def as_dict(report: Report) -> dict[str, Any]:
    """Returns the report as plain values: seconds, bytes of one device, FLOPs of all devices."""
    setting, memory = report.setting, report.memory
    data = setting.config.data
    return {
        "config": setting.config.name,
        "program": setting.program,
        "weights": setting.weights,
        "topology": setting.topology.name,
        "devices": len(setting.topology.devices),
        "mesh": mesh_text(setting.mesh),
        "frames": data.max_frames,
        "videos_per_row": setting.budget.examples,
        "topk": setting.config.model.prune.topk,
        "rows_per_device": setting.rows_per_device,
        "accumulate": setting.config.train.accumulate,
        "rows": setting.rows,
        "tokens_per_row": setting.budget.tokens,
        "patches_per_row": setting.budget.patches,
        "fits": memory.fits,
        "estimate": {**asdict(report.estimate), "total": report.estimate.total},
        "memory": {
            **memory.by_kind,
            "total": memory.total,
            "limit": memory.limit,
            "left": memory.left,
            "measured": memory.measured,
        },
        "flops": {
            **{
                part.name: {
                    "forward": part.forward,
                    "backward": part.backward,
                    "recompute": part.recompute,
                }
                for part in report.flops.parts
            },
            "model": report.flops.model,
            "recompute": report.flops.recompute,
        },
        "collectives": None if report.exchanges is None else by_kind(report.exchanges),
        "largest_collectives": [
            {"kind": c.kind, "devices": c.devices, "runs": c.runs, "bytes": c.total, "of": c.source}
            for c in (report.exchanges or [])[:NAMED]
        ],
        "largest_arrays": report.largest,
        "cycles": sum(estimate.cycles for estimate in report.cycles),
        "largest_cycles": [asdict(estimate) for estimate in report.cycles[:NAMED]],
        "seconds": _seconds(report.time),
        "compile_seconds": round(report.compile_seconds, 1),
        "planned": report.planned,
        "refusal": report.refusal,
        "by_ratio": [_of_ratio(ratio, own) for ratio, own in report.by_ratio.items()],
    }


def _of_ratio(ratio: float, report: Report) -> dict[str, Any]:
    """Returns what one program of a run over ratios takes."""
    return {
        "ratio": ratio,
        "tokens_per_row": report.setting.budget.tokens,
        "temporaries": report.memory.by_kind["temporaries"],
        "total": report.memory.total,
        "model_flops": report.flops.model,
        "recompute_flops": report.flops.recompute,
        "seconds": _seconds(report.time),
    }


def _seconds(time: Roofline | None) -> dict[str, Any] | None:
    if time is None:
        return None
    return {
        "bound": time.seconds,
        "by": time.bound,
        "compute": time.compute,
        "memory": time.memory,
        "links": time.links,
    }
