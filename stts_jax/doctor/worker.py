"""The process that computes: reports each check as a line of JSON when it begins and ends.

`supervisor` starts it. A kernel that ends this process, or hangs, costs its own check alone:
another process goes on behind it.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import sys
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from stts_jax.doctor.results import Check, Result, Status, one_line, plain

Say = Callable[[dict[str, Any]], None]


def run_checks(
    checks: Sequence[Check], say: Say, seconds: float, finished: Collection[str] = ()
) -> None:
    """Runs checks in turn; says what begins and what became of it.

    Args:
      checks: all, in order.
      say: takes one event: `begin` with a name, or `result` with a result.
      seconds: after which no more check begins.
      finished: names of checks that have a result already.
    """
    end = time.monotonic() + seconds
    for check in checks:
        if check.name in finished:
            continue
        if time.monotonic() >= end:
            result = Result(check.name, check.kind, "not run", "the time was up")
        else:
            say({"event": "begin", "name": check.name, "kind": check.kind})
            result = run_check(check)
        say({"event": "result", "result": result.as_dict()})


def run_check(check: Check) -> Result:
    """Runs a check; whatever it raises becomes a result."""
    start = time.monotonic()
    try:
        outcome = check.run()
    except Exception as error:
        taken = time.monotonic() - start
        return Result(check.name, check.kind, "failed", one_line(error), taken)
    status: Status = "wrong" if outcome.difference else "ok"
    taken = time.monotonic() - start
    return Result(check.name, check.kind, status, outcome.difference, taken, outcome.values)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs all checks that aren't finished; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, required=True, help="file descriptor to write to")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--finished", default="[]", help="names, as JSON")
    options = parser.parse_args(arguments)
    faulthandler.enable()
    # What we say comes alone; JAX may print to the standard output.
    with os.fdopen(options.events, "w") as events:

        def say(event: dict[str, Any]) -> None:
            events.write(json.dumps(event, allow_nan=False) + "\n")
            events.flush()

        run_checks_here(
            say, options.seconds, quick=options.quick, finished=json.loads(options.finished)
        )
    return 0


def run_checks_here(
    say: Say, seconds: float, *, quick: bool, finished: Collection[str] = ()
) -> None:
    """Says what this machine is, which checks there are, and runs them; see `run_checks`."""
    start = time.monotonic()
    import jax

    from stts_jax.doctor.checks import all_checks
    from stts_jax.doctor.machine import devices
    from stts_jax.doctor.sizes import full_sizes, quick_sizes
    from stts_jax.parallel.memory import device_memory

    device = jax.devices()[0]
    sizes = quick_sizes() if quick else full_sizes(device.platform, device_memory(device))
    say({"event": "devices", "devices": plain(devices()), "sizes": plain(sizes.as_dict())})
    checks = all_checks(sizes)
    planned = [{"name": check.name, "kind": check.kind} for check in checks]
    say({"event": "plan", "checks": planned})
    run_checks(checks, say, seconds - (time.monotonic() - start), finished)


if __name__ == "__main__":
    sys.exit(main())
