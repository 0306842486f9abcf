"""Finished parts of the demo, reused while their inputs stay the same."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class FinishedParts:
    """Reuses finished parts of a run.

    Attributes:
      minutes: that those parts took when they were done.
    """

    minutes: float = 0.0

    def once(
        self, what: str, path: Path, made_of: dict[str, Any], run: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """Returns the result in `path` if its inputs are the same, else that of `run`, saved there.

        Args:
          what: is done, for the line that tells of it.
          path: of a JSON file.
          made_of: all that the result depends on, JSON-compatible; of another part its `id`.
          run: does the part.

        Returns:
          The result of `run`, and an `id` that is unique, also among repeated runs of the part.
        """
        made_of = json.loads(json.dumps(made_of))
        if path.is_file():
            found = json.loads(path.read_text())
            if found.get("made_of") == made_of:
                self.minutes += found["minutes"]
                print(f"{what}: done before, taken from '{path}'", flush=True)
                return found["result"]
        print(f"{what} ...", flush=True)
        started = time.monotonic()
        result = run() | {"id": uuid.uuid4().hex}
        minutes = (time.monotonic() - started) / 60
        print(f"{what}: {60 * minutes:.0f} s", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = {"made_of": made_of, "minutes": minutes, "result": result}
        path.write_text(json.dumps(kept, indent=2) + "\n")
        return result
