"""Starting, killing and waiting for the processes of `training_process.py`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stts_jax.training.log import read_metrics

TIMEOUT = 240.0


class Launcher:
    """Starts processes of training runs; close it after use."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("training_process.py")
        self._server = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **order: Any) -> int:
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def start(self, output: Path, *overrides: str, **options: Any) -> Started:
        options.setdefault("step", "toy")
        pid = self.ask(output=str(output), overrides=overrides, **options)
        return Started(self, pid, output, options.get("environment", {}).get("JAX_PROCESS_ID", "0"))

    def start_several(
        self, count: int, output: Path | list[Path], *overrides: str, **options: Any
    ) -> list[Started]:
        outputs = output if isinstance(output, list) else [output] * count
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        common = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": str(count)}
        return [
            self.start(
                outputs[index],
                *overrides,
                environment=common | {"JAX_PROCESS_ID": str(index)},
                **options,
            )
            for index in range(count)
        ]

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait(timeout=TIMEOUT)


@dataclass
class Started:
    launcher: Launcher
    pid: int
    output: Path
    index: str

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """The exit code; negative for a signal that ended it."""
        return self.launcher.ask(wait=self.pid)

    def workers(self) -> list[int]:
        """Processes that it has started."""
        tasks = Path(f"/proc/{self.pid}/task").glob("*/children")
        return [int(pid) for task in tasks for pid in task.read_text().split()]

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert self.wait() == -signal.SIGKILL

    def finish(self) -> dict[str, Any]:
        """Returns what it prints at the end; its workers may print more."""
        assert self.wait() == 0, self.log()
        said = [line for line in self.log().splitlines() if line.startswith("{")]
        return json.loads(said[-1])

    def log(self) -> str:
        path = self.output / f"log-{self.index}.txt"
        return path.read_text() if path.is_file() else ""


def until(condition: Callable[[], bool], what: str, pause: float = 0.005) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(pause)


def losses(output: Path) -> dict[int, float]:
    return {r["step"]: r["loss"] for r in read_metrics(output / "metrics.jsonl") if "loss" in r}


def is_running(pid: int) -> bool:
    """Returns whether a process runs; it is not our child, and may be a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def is_saving(output: Path) -> bool:
    folder = output / "checkpoints"
    return folder.is_dir() and any("tmp" in path.name for path in folder.iterdir())
