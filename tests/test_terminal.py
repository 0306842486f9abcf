"""Commands say what they do, with and without a terminal."""

from __future__ import annotations

import time

from stts_jax import terminal
from stts_jax.terminal import doing, progress_bar


def test_what_takes_long_is_told_of_meanwhile(monkeypatch):
    monkeypatch.setattr(terminal, "INTERVAL_SECONDS", 0.02)
    said: list[str] = []
    with doing("compiling", said.append):
        end = time.monotonic() + 20
        while len(said) < 3 and time.monotonic() < end:
            time.sleep(0.01)
    assert said[0] == "compiling ..."
    assert said[1] == "compiling: 0 s so far"
    assert said[-1].startswith("compiling: 0.") and said[-1].endswith(" s")


def test_what_fails_is_not_said_to_be_done():
    said: list[str] = []
    try:
        with doing("compiling", said.append):
            raise KeyError
    except KeyError:
        assert said == ["compiling ..."]


def test_a_bar_without_a_terminal_is_a_line_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr(terminal, "INTERVAL_SECONDS", 0.02)
    monkeypatch.setattr(terminal, "_DELAY_SECONDS", 0.0)
    for _ in progress_bar(range(3), desc="converting", unit="tensors"):
        time.sleep(0.05)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("converting: 0 of 3 tensors after 00:00")
    assert lines[-1].startswith("converting: 3 of 3 tensors after 00:00")
    assert len(lines) >= 4 and not any("\r" in line for line in lines)


def test_what_is_done_at_once_has_no_bar(capsys):
    list(progress_bar(range(3), desc="converting"))
    assert capsys.readouterr().err == ""
