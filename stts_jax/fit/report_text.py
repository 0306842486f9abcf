"""A report as text."""

from __future__ import annotations

from stts_jax.fit.collectives import Collective, by_kind
from stts_jax.fit.cycles import Estimate
from stts_jax.fit.hardware import GIB
from stts_jax.fit.ratios import PLANNED_PROGRAM, fixed_flops
from stts_jax.fit.report import NAMED, Report, as_dict
from stts_jax.train_ratios import RatioDraw
from stts_jax.training.flops import StepFlops


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
        *_ratio_lines(report),
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
        lines.append(
            f"planned, not written: each program is taken for {_size(PLANNED_PROGRAM)}"
            if report.by_ratio
            else "planned, not written: the program itself comes on top, some 0.1 to 0.2 GiB"
        )
    if memory.fits:
        return [*lines, f"FITS, {_size(memory.left)} left"]
    said = "" if memory.measured else ", by what the compiler said when it refused"
    return [*lines, f"DOES NOT FIT: {_size(-memory.left)} too much{said}"]


def _ratio_lines(report: Report) -> list[str]:
    if not report.by_ratio:
        return []
    lines = ["at each ratio      share   tokens   temporaries     total, GiB       TFLOPs"]
    draw = RatioDraw.of(report.setting.config)
    for (ratio, own), weight in zip(report.by_ratio.items(), draw.weights, strict=True):
        memory, tokens = own.memory, own.setting.budget.tokens
        lines.append(
            f"  {ratio:12.0%} {weight / sum(draw.weights):10.0%} {tokens:8,} "
            f"{memory.by_kind['temporaries'] / GIB:13.3f} {memory.total / GIB:14.3f} "
            f"{own.flops.model / 1e12:12,.1f}"
        )
    fixed, topk = fixed_flops(report.setting), report.setting.config.model.prune.topk
    model, executed = report.flops.model, report.flops.executed
    return [
        *lines,
        "a run takes what its largest program does, and the code of all; FLOPs and time below are "
        "means over its steps",
        f"a step has {model / fixed.model:.2f} times the FLOPs of one at {topk:.0%}, with "
        f"recomputation {executed / fixed.executed:.2f} times",
        "",
    ]


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
