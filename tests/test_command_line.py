"""All commands end with the same exit codes, and one sentence for a user's error."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading

import jax
import pytest
from goldens_folder import REPOSITORY

import train
from convert import opening
from stts_jax import command_line
from stts_jax.terminal import BROKEN_PIPE
from stts_jax.training import distributed
from stts_jax.training.checkpointing.checkpoint_errors import CheckpointError
from stts_jax.training.library_output import library_log, library_log_of

GLOO = "Gloo all-reduce failed: [pair.cc:534] Connection closed by peer [127.0.0.1]:48131"


def ended(error: BaseException) -> int:
    """The exit code of a command that raises."""

    def command() -> None:
        raise error

    return command_line.run_on_hosts("x", command)


def test_adapters_are_read_with_the_model_that_was_named(tmp_path):
    model, adapters = tmp_path / "model", tmp_path / "adapters"
    assert opening.with_adapter(model, None) == (model, None)
    assert opening.with_adapter(model, adapters) == (adapters, model)


def test_adapters_without_their_model_are_refused(tmp_path, capsys):
    arguments = ["--output", str(tmp_path / "run"), "--adapter", str(tmp_path)]
    assert train.main([*arguments, "--set", "train.evaluate_every=0"]) == 2
    assert "--adapter is given without its model; name that with --init-from" in (
        capsys.readouterr().err
    )


def test_output_that_nobody_reads_ends_a_command_without_a_word():
    program = "import sys; from stts_jax.data.__main__ import main; sys.exit(main(['list']))"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == BROKEN_PIPE == 141


def test_every_command_ends_so(monkeypatch, capsys):
    monkeypatch.setattr(command_line, "is_stdout_closed", lambda: True)
    monkeypatch.setattr(command_line, "end_quietly", lambda: BROKEN_PIPE)
    assert ended(BrokenPipeError()) == BROKEN_PIPE
    assert capsys.readouterr().err == ""


def test_another_pipe_that_breaks_is_a_defect(monkeypatch, capsys):
    monkeypatch.setattr(command_line, "is_stdout_closed", lambda: False)
    assert ended(BrokenPipeError()) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("wrapped", [False, True], ids=["as it is", "in the error of a save"])
def test_a_process_that_is_gone_has_an_exit_code_and_a_sentence(monkeypatch, capsys, wrapped):
    monkeypatch.setattr(distributed, "several_processes", lambda: True)
    lost = jax.errors.JaxRuntimeError(GLOO)
    saving = CheckpointError("the checkpoint cannot be written")
    saving.__cause__ = lost
    assert ended(saving if wrapped else lost) == distributed.LOST_PROCESS == 75
    assert capsys.readouterr().err == f"x: {distributed.LOST_MESSAGE}\n"


def test_a_process_on_its_own_has_lost_nobody(monkeypatch, capsys):
    assert ended(jax.errors.JaxRuntimeError(GLOO)) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_message_shows_the_beginning_of_a_long_path(capsys):
    assert ended(CheckpointError(f"folder '/{'a' * 5000}' cannot be written")) == 2
    assert len(capsys.readouterr().err) < 300


def test_a_path_that_no_system_takes_is_one_sentence(tmp_path, capsys):
    with pytest.raises(OSError, match="File name too long") as error:
        (tmp_path / ("a" * 5000)).read_text()
    assert ended(error.value) == 2
    assert "is too long for this system" in (said := capsys.readouterr().err) and len(said) < 400


ABORTED = """
import os, sys
from pathlib import Path
from stts_jax.training.library_output import keep_native_log
keep_native_log("x", Path(sys.argv[1]))
print("python still speaks", file=sys.stderr)
os.write(2, sys.argv[2].encode())
os.abort()
"""


@pytest.mark.parametrize("lost", [True, False], ids=["by JAX's service", "by another library"])
def test_an_abort_is_explained_and_what_the_library_said_is_kept(tmp_path, lost):
    said = "F1130 client.h:80] Terminating process because the "
    said += "JAX distributed service detected fatal errors." if lost else "heap is broken."
    log = tmp_path / "new" / "native-0.log"
    command = [sys.executable, "-c", ABORTED, str(log), said]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    first, last = done.stderr.splitlines()
    assert first == "python still speaks" and log.read_text() == said
    if lost:
        assert done.returncode == distributed.LOST_PROCESS
        assert last == f"x: {distributed.LOST_MESSAGE} ('{log}' has more)"
    else:
        assert done.returncode == -signal.SIGABRT
        assert last == f"x: aborted by a library; '{log}' has what it said"


def test_what_libraries_log_goes_to_a_file_of_the_run(tmp_path, capfd):
    with library_log(tmp_path, 3):
        logging.getLogger("absl").error("no metadata")
        logging.getLogger("orbax.checkpoint").warning("slow")
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()
    logged = library_log_of(tmp_path, 3).read_text()
    assert all(text in logged for text in ("no metadata", "slow", "ZeroDivisionError"))
    assert "\n" not in capfd.readouterr().err
    with library_log(tmp_path, 4):
        pass
    assert not library_log_of(tmp_path, 4).exists(), "where nothing is logged there is no file"
