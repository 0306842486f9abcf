"""One setting compiled and counted: the answer as data and as text."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from stts_jax.fit.by_hand import estimate_by_hand
from stts_jax.fit.collectives import Collective, by_kind, collectives
from stts_jax.fit.compiler import Compiler, compile_wholly
from stts_jax.fit.cycles import Estimate, estimates
from stts_jax.fit.hardware import GIB
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


def as_text(report: Report) -> str:
    """Formats the report as text."""
    found = as_dict(report)
    weights = "" if found["weights"] == "compute" else f" with {found['weights']} weights"
    lines = [
        f"{found['config']} | {found['program']}{weights} | {found['topology']} "
        f"({found['devices']} devices) | mesh {found['mesh']}",
        f"{found['rows']} rows of {found['videos_per_row']} x {found['frames']} frames, "
        f"{found['rows_per_device']} per part of the batch; {found['tokens_per_row']} tokens and "
        f"{found['patches_per_row']} patches in a row after the prune",
        "",
        *_memory_lines(report),
        "",
        *_flops_lines(report.flops),
        "",
        *_exchange_lines(report.exchanges),
        "",
        *_time_lines(report),
        *_cycle_lines(report.cycles),
    ]
    if report.largest:
        lines += ["", "largest arrays within the step (one device)"]
        lines += [
            f"  {_size(int(str(entry['bytes']))):>12}  {entry['array']}  {entry['source']}"
            for entry in report.largest
        ]
    return "\n".join(lines)


def _memory_lines(report: Report) -> list[str]:
    memory = report.memory
    lines = ["bytes per device"]
    lines += [f"  {name:12} {_size(size):>12}" for name, size in memory.by_kind.items()]
    lines += [f"  {'total':12} {_size(memory.total):>12}  of {_size(memory.limit)}"]
    lines.append(f"by hand, as ask and train.py check: {_size(report.estimate.total)}")
    if report.planned:
        lines.append("planned, not written: the program itself comes on top, some 0.1 to 0.2 GiB")
    if memory.fits:
        return [*lines, f"FITS, {_size(memory.left)} left"]
    said = "" if memory.measured else ", by what the compiler said when it refused"
    return [*lines, f"DOES NOT FIT: {_size(-memory.left)} too much{said}"]


def _flops_lines(flops: StepFlops) -> list[str]:
    lines = ["TFLOPs per step, all devices    forward    backward   recompute"]
    for part in flops.parts:
        numbers = (part.forward, part.backward, part.recompute)
        lines.append(f"  {part.name:27}" + "".join(f"{n / 1e12:12,.2f}" for n in numbers))
    lines.append(f"  model {flops.model / 1e12:,.1f}, recompute {flops.recompute / 1e12:,.1f}")
    return lines


def _exchange_lines(exchanges: list[Collective] | None) -> list[str]:
    if exchanges is None:
        return ["collectives: unknown, as the compiler refused"]
    lines = ["collectives per step            runs   sent by each device"]
    for kind, total in by_kind(exchanges).items():
        lines.append(f"  {kind:24} {total['runs']:8,} {_size(total['bytes']):>16}")
    for exchange in exchanges[:3]:
        lines.append(
            f"    largest: {exchange.kind} of {exchange.devices}, {exchange.runs} x "
            f"{_size(exchange.bytes_sent)}, {exchange.source}"
        )
    return lines


def _time_lines(report: Report) -> list[str]:
    time, chip = report.time, report.setting.topology.chip
    if time is None:
        return [
            f"the peak rates of '{chip.name}' aren't known, and so no bound of the time",
            f"compiled in {report.compile_seconds:.0f} s",
        ]
    devices = len(report.setting.topology.devices)
    links = "" if report.exchanges is not None else " (links unknown)"
    peak = report.flops.model / devices / chip.flops / time.seconds
    return [
        f"step at the peak rates: {time.seconds:.3f} s, by {time.bound}{links} (compute "
        f"{time.compute:.3f}, memory {time.memory:.3f}, links {time.links:.3f}); "
        f"{peak:.0%} MFU at most",
        f"{'planned' if report.planned else 'compiled'} in {report.compile_seconds:.0f} s",
    ]


def _cycle_lines(cycles: list[Estimate]) -> list[str]:
    if not cycles:
        return []
    total = sum(estimate.cycles for estimate in cycles)
    lines = [
        "",
        f"the compiler's own estimate, kernels apart: {total / 1e6:,.1f} million cycles",
    ]
    for estimate in cycles[:NAMED]:
        shape = estimate.result.split("{")[0].strip()
        lines.append(
            f"  {estimate.cycles / 1e6:12,.1f}  {estimate.runs} x {shape}  {estimate.source}"
        )
    return lines


def _size(size: float) -> str:
    return f"{size / GIB:,.3f} GiB" if abs(size) >= GIB / 100 else f"{size / 2**20:,.3f} MiB"
