"""Two processes never write to one output; a dead one keeps nobody from it."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import eval as evaluate
from stts_jax import output_lock
from stts_jax.config import load_config
from stts_jax.output_lock import Holder, LockedError, OutputLock, hold_output, read_holder

HOLD = """
import sys, time
from pathlib import Path
from stts_jax.output_lock import hold_output
with hold_output(Path(sys.argv[1]), "training"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of `tmp_path`."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def leave_lock(folder: Path, **changes) -> None:
    """The lock of a process that ended without removing it."""
    holder = dataclasses.replace(Holder.this_process("training"), **changes)
    (folder / "lock").write_text(json.dumps(dataclasses.asdict(holder)))


def quick(monkeypatch) -> None:
    monkeypatch.setattr(output_lock, "STALE_SECONDS", 0.3)
    monkeypatch.setattr(output_lock, "_WATCH_SECONDS", 0.05)


def test_the_second_is_refused_with_host_and_process_of_the_first(tmp_path, holder):
    with pytest.raises(LockedError) as error, hold_output(tmp_path, "evaluating"):
        pass
    host = os.uname().nodename
    assert f"in use by process {holder.pid} on host '{host}' (training)" in str(error.value)
    assert read_holder(tmp_path / "lock").pid == holder.pid


def test_a_killed_process_holds_nothing(tmp_path, holder):
    holder.kill()
    holder.wait()
    said = []
    with hold_output(tmp_path, "training", said.append) as lock:
        assert lock.is_held()
    assert said == [
        f"'{tmp_path}' was left locked by process {holder.pid} on '{os.uname().nodename}', which "
        "is gone; its lock is removed"
    ]


def test_a_process_that_has_the_number_of_a_dead_one_holds_nothing(tmp_path):
    leave_lock(tmp_path, started=1)
    with hold_output(tmp_path, "training"):
        assert read_holder(tmp_path / "lock").pid == os.getpid()


def test_leaving_removes_the_lock_and_all_that_it_took(tmp_path):
    with hold_output(tmp_path, "training"), pytest.raises(LockedError):
        OutputLock(tmp_path, "training").acquire()
    assert not list(tmp_path.iterdir())


def test_another_host_that_touches_its_lock_is_alive(tmp_path, monkeypatch):
    quick(monkeypatch)
    leave_lock(tmp_path, host="far", machine="other boot", pid=7)
    lock = tmp_path / "lock"
    monkeypatch.setattr(output_lock.time, "sleep", lambda _: os.utime(lock, (1, 1)))
    said = []
    with pytest.raises(LockedError, match="process 7 on host 'far'"):
        OutputLock(tmp_path, "training").acquire(said.append)
    assert said[0].endswith("waiting up to 0 s to see whether that is alive")


def test_another_host_that_never_touches_its_lock_is_dead(tmp_path, monkeypatch):
    quick(monkeypatch)
    leave_lock(tmp_path, host="far", machine="other boot", pid=7)
    said = []
    with hold_output(tmp_path, "training", said.append):
        assert "process 7 on 'far', which is gone" in said[-1]


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"pid": "x"}'])
def test_a_lock_that_says_nothing_is_watched_and_removed(tmp_path, monkeypatch, text):
    quick(monkeypatch)
    (tmp_path / "lock").write_text(text)
    with hold_output(tmp_path, "training") as lock:
        assert lock.is_held()


def test_the_holder_touches_its_lock_and_never_another(tmp_path, monkeypatch):
    monkeypatch.setattr(output_lock, "HEARTBEAT_SECONDS", 0.01)
    path = tmp_path / "lock"
    with hold_output(tmp_path, "training") as lock:
        os.utime(path, (1, 1))
        end = time.monotonic() + 20
        while path.stat().st_mtime < 2 and time.monotonic() < end:
            time.sleep(0.01)
        assert path.stat().st_mtime > 2
        leave_lock(tmp_path, token="of another")
        assert not lock.is_held()
    assert read_holder(path).token == "of another", "what others hold is left to them"


def test_a_store_without_links_has_locks_too(tmp_path, monkeypatch):
    def link(*_):
        raise PermissionError

    monkeypatch.setattr(output_lock.os, "link", link)
    with hold_output(tmp_path, "training"), pytest.raises(LockedError):
        OutputLock(tmp_path, "training").acquire()
    assert not list(tmp_path.iterdir())


def test_eval_writes_to_no_folder_that_another_one_fills(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "with_adapter", lambda path, adapter: (path, None))
    monkeypatch.setattr(evaluate, "trained_config", lambda *_: load_config("tiny"))
    monkeypatch.setattr(evaluate, "asked_of", lambda *_: [])
    monkeypatch.setattr(evaluate, "open_checkpoint", lambda *_: pytest.fail("the model is loaded"))
    (tmp_path / "k50").mkdir()
    with hold_output(tmp_path / "k50", "evaluating"):
        assert evaluate.main(["--checkpoint", "x", "--output", str(tmp_path)]) == 2
    assert f"'{tmp_path / 'k50'}' is in use by process {os.getpid()}" in capsys.readouterr().err
