"""The long form: changes until the time is over; exit code 1 if any is handled wrongly."""

from __future__ import annotations

import argparse
import faulthandler
import sys
import tempfile
import time
from pathlib import Path

from fuzz.registry import SECONDS, fault
from fuzz.targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="(default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first change")
    parser.add_argument("--only", default="", help="targets whose name holds this text")
    options = parser.parse_args()
    chosen = [target for target in TARGETS if options.only in target.name]
    end, seed, changes, faults = time.monotonic() + options.seconds, options.seed, 0, 0
    with tempfile.TemporaryDirectory(prefix="fuzz_") as folder:
        while time.monotonic() < end:
            for target in chosen:
                # Ends a process that hangs in code that no signal interrupts.
                faulthandler.dump_traceback_later(4 * SECONDS, exit=True)
                found = fault(target, seed, Path(folder) / "trial")
                changes += 1
                if found:
                    faults += 1
                    print(found, flush=True)
            seed += 1
    faulthandler.cancel_dump_traceback_later()
    print(f"{changes} changes, {faults} handled wrongly; seeds {options.seed} to {seed - 1}")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
