"""The plan of a TPU's compiler: memory and collectives, without generating machine code.

Code generation takes most of the time, and begins when the program is optimised, partitioned and
all buffers are assigned. Another process compiles; it is stopped once it has dumped the program and
logged the total size of the buffers.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stts_jax.config import ConfigError
from stts_jax.fit.compiler import Outcome
from stts_jax.fit.hlo import Module, parse_module
from stts_jax.fit.memory import Memory
from stts_jax.fit.programs import LoweredProgram
from stts_jax.fit.setting import Setting, parseable_mesh

LOOK_SECONDS = 0.25
# Twice what the largest program that was compiled takes for itself.
PROGRAM_ROOM = 2**30 // 2
_COMMAND = (sys.executable, "-m", "stts_jax.fit")
# As the compiler (libtpu 0.0.42) says it; of several tries, the last counts.
_PLANNED = re.compile(r"heap_simulator\S+ \S+ algorithm finished with size: (\d+)")
_NOTES, _SAID, _REPORT = "*-TLP-hlo.txt", "said.txt", "report.json"


def plan(setting: Setting, program: LoweredProgram) -> Outcome:
    """Plans a program with a TPU's compiler.

    Temporaries are what its arrays take together; the program itself and the padding of arguments,
    which come on top, aren't known yet. Where they may decide, and where the compiler says nothing
    of its plan, as a later one may, it is let finish, and its report is taken.

    Raises:
      ConfigError: for devices other than TPUs.
      RuntimeError: if the compiler ended with neither.
    """
    if setting.topology.chip.platform != "tpu":
        raise ConfigError(
            f"--plan is for TPUs, and '{setting.topology.name}' is none; leave it out"
        )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with _compiling(setting, folder) as process:
            ended = False
            while not ended:
                ended = process.poll() is not None
                if (planned := _planned(folder)) is not None:
                    memory = _memory(setting, program, planned[0])
                    if not 0 <= memory.left < PROGRAM_ROOM:
                        return Outcome(memory, planned[1], planned=True)
                    process.wait()
                time.sleep(LOOK_SECONDS)
        return _reported(folder)


def _memory(setting: Setting, program: LoweredProgram, temporaries: int) -> Memory:
    by_kind = {**program.argument_bytes, "temporaries": temporaries}
    if program.output_bytes:
        by_kind["outputs"] = program.output_bytes
    return Memory(by_kind, setting.topology.chip.memory, measured=True)


@contextmanager
def _compiling(setting: Setting, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Runs another process that compiles the setting and dumps into a folder; kills it at exit."""
    config = folder / "config.json"
    config.write_text(json.dumps(dataclasses.asdict(setting.config)))
    arguments = ["--config", str(config), "--topology", setting.topology.name]
    arguments += ["--mesh", parseable_mesh(setting.mesh)]
    arguments += ["--rows-per-device", str(setting.rows_per_device)]
    arguments += ["--output", str(folder / _REPORT)]
    arguments += [] if setting.program == "train" else [f"--{setting.program}"]
    with (folder / _SAID).open("wb") as said:
        process = subprocess.Popen(
            [*_COMMAND, *arguments],
            env=os.environ | _dump_environment(folder),
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _dump_environment(folder: Path) -> dict[str, str]:
    """Returns the environment that makes the compiler log its progress and dump the program."""
    flags = (
        os.environ.get("LIBTPU_INIT_ARGS", ""),
        f"--xla_jf_dump_to={folder}",
        "--xla_jf_dump_hlo_text=true",
        "--xla_jf_dump_llo_text=false",
        "--xla_jf_dump_llo_pass_label_regex=none",
    )
    return {
        "LIBTPU_INIT_ARGS": " ".join(flags),
        "TPU_MIN_LOG_LEVEL": "0",
        "TPU_STDERR_LOG_LEVEL": "0",
        "TPU_LOG_DIR": str(folder / "logs"),
    }


def _planned(folder: Path) -> tuple[int, Module] | None:
    """Returns the bytes of the buffers and the program, once both are written completely."""
    notes = next(folder.glob(_NOTES), None)
    text = notes.read_text() if notes else ""
    # Its last computation is the program's own.
    if "\nENTRY " not in text or not text.rstrip().endswith("}"):
        return None
    sizes = _PLANNED.findall((folder / _SAID).read_text(errors="replace"))
    return (int(sizes[-1]), parse_module(text)) if sizes else None


def _reported(folder: Path) -> Outcome:
    """Returns the report of a compiler that ended without a plan, mostly a refusal."""
    report = folder / _REPORT
    if not report.exists():
        said = (folder / _SAID).read_text(errors="replace").strip().splitlines()
        raise RuntimeError(f"the compiler made no plan; it said last: {(said or ['nothing'])[-1]}")
    found = json.loads(report.read_text())
    memory = found["memory"]
    totals = {"total", "left", "limit", "measured"}
    by_kind = {kind: size for kind, size in memory.items() if kind not in totals}
    by_device = Memory(by_kind, memory["limit"], memory["measured"])
    refusal, planned = found["refusal"], _planned(folder)
    module = None if refusal or planned is None else planned[1]
    return Outcome(by_device, module, refusal)
