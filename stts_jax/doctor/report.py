"""The doctor's report: as plain values for the JSON file, and as a table to read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from stts_jax.doctor.supervisor import Found

FORMAT = 1
BAD = ("wrong", "failed")
Values = Mapping[str, Any]


def as_dict(found: Found, machine: Values, seconds: float, quick: bool) -> dict[str, Any]:
    """Returns the report as plain values.

    Args:
      found: by the checks.
      machine: see `machine.machine`.
      seconds: that all took.
      quick: whether the sizes were tiny.
    """
    results = list(found.results.values())
    return {
        "format": FORMAT,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "seconds": round(seconds, 1),
        "machine": dict(machine),
        "devices": found.devices,
        "sizes": found.sizes,
        "summary": dict(Counter(result["status"] for result in results)),
        "checks": results,
    }


def failures(report: Values) -> list[str]:
    """Returns a line for each check that failed or found a difference."""
    return [
        f"{result['status'].upper()} {result['name']}: {result['error']}"
        for result in report["checks"]
        if result["status"] in BAD
    ]


def as_text(report: Values) -> str:
    """Formats the report as tables."""
    parts = [
        _machine_lines(report),
        _backend_lines(_of_kind(report, "backend")),
        _kernel_lines(_of_kind(report, "kernel")),
        _rate_lines(_of_kind(report, "rate")),
        _block_lines(_of_kind(report, "block")),
        _end_lines(report),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _of_kind(report: Values, kind: str) -> list[Values]:
    return [result for result in report["checks"] if result["kind"] == kind]


def _machine_lines(report: Values) -> list[str]:
    machine, packages = report["machine"], report["machine"]["packages"]
    versions = ", ".join(f"{name} {found}" for name, found in packages.items())
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {_gb(machine['memory_bytes'])} "
        f"({_gb(machine['memory_available_bytes'])} free)",
        f"features: {', '.join(machine['cpu_features']) or 'none known'}",
        f"Python {machine['python']}, {versions}",
    ]
    if machine["nvidia_driver"]:
        lines.append(f"NVIDIA driver {machine['nvidia_driver']}")
    for number, device in enumerate(report["devices"]):
        capability = device["compute_capability"]
        lines.append(
            f"device {number}: {device['kind']} ({device['platform']}), "
            f"{_gb(device['memory_bytes'])}, {_gb(device['memory_free_bytes'])} free"
            + (f", compute capability {capability}" if capability else "")
        )
    return lines


def _backend_lines(results: Sequence[Values]) -> list[str]:
    lines = []
    for result in results:
        if "case" in result:
            lines.append(f"{result['case']}: {result['taken'] or 'no backend'}")
            whys = dict.fromkeys(result["refused"].values())
            for why in whys:
                names = [name for name, own in result["refused"].items() if own == why]
                lines.append(f"    not {', '.join(names)}: {why}")
    return ["attention, by backend='auto'", *lines] if lines else []


def _kernel_lines(results: Sequence[Values]) -> list[str]:
    rows = [("kernel, against float32", "forward", "gradients", "ms", "with gradients", "TFLOP/s")]
    for result in results:
        if "errors" not in result:
            rows.append((result["name"], _status(result), "", "", "", ""))
            continue
        errors, seconds = result["errors"], result["run_seconds"]
        forward = _worst(errors, lambda name: name.startswith("o"))
        backward = _worst(errors, lambda name: name.startswith("d"))
        rows.append(
            (
                result["name"],
                _verdict(result, forward, "forward"),
                _verdict(result, backward, "backward"),
                _ms(seconds.get("forward")),
                _ms(seconds.get("with_gradients")),
                _number(result["forward_tflops_per_second"]),
            )
        )
    return _table(rows) if results else []


def _worst(errors: Values, wanted: Any) -> float | str | None:
    """Returns the largest error of some arrays; None without one, `inf` where it isn't finite."""
    found = [error["row"] for name, error in errors.items() if wanted(name)]
    if None in found:
        return "not finite"
    return max(found, default=None)


def _verdict(result: Values, error: float | str | None, direction: str) -> str:
    if error is None:
        return ""
    if isinstance(error, str):
        return error
    limit = result["limits"][direction]
    return f"{error:.1e} {'<' if error <= limit else 'ABOVE'} {limit:.0e}"


def _rate_lines(results: Sequence[Values]) -> list[str]:
    rows = [("rate", "of", "measured", "peak", "share")]
    for result in results:
        if "rate" not in result:
            rows.append((result["name"], _status(result), "", "", ""))
            continue
        unit = "GB/s" if result["unit"].startswith("gb") else "TFLOP/s"
        known = result["peak"] is not None
        rows.append(
            (
                result["name"],
                result["shape"],
                f"{result['rate']:.3g} {unit}",
                f"{result['peak']:.3g}" if known else "unknown",
                f"{result['share']:.0%}" if known else "",
            )
        )
    return _table(rows) if results else []


def _block_lines(results: Sequence[Values]) -> list[str]:
    rows = [("block", "tokens", "ms", "TFLOP/s", "ideal", "measured", "share of ideal")]
    for result in results:
        if "programs" not in result:
            same = "equal" if result["status"] == "ok" else _status(result)
            rows.append((result["name"], same, "", "", "", "", ""))
            continue
        for name, program in result["programs"].items():
            rows.append(
                (
                    result["name"],
                    name,
                    _ms(program["run_seconds"]),
                    f"{program['tflops_per_second']:.3g}",
                    f"{program['ideal']:.2f}x",
                    f"{program['measured']:.2f}x",
                    f"{program['share_of_ideal']:.2f}",
                )
            )
    return _table(rows) if results else []


def _end_lines(report: Values) -> list[str]:
    counts = ", ".join(f"{count} {status}" for status, count in report["summary"].items())
    lines = [f"{len(report['checks'])} checks in {report['seconds']:.0f} s: {counts}"]
    left = [r["name"] for r in report["checks"] if r["status"] == "not run"]
    if left:
        lines.append(f"not run ({report['summary']['not run']}): {'; '.join(left)}")
    return [*lines, *failures(report)]


def _status(result: Values) -> str:
    return str(result["status"]).upper() if result["status"] in BAD else str(result["status"])


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _number(figure: float | None) -> str:
    return "" if figure is None else f"{figure:.3g}"


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e3 * seconds:.3g}"


def _gb(count: float | None) -> str:
    return "unknown memory" if count is None else f"{count / 1e9:.1f} GB"
