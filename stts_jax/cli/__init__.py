"""The command `stts SUBCOMMAND ...`: finds the program of a subcommand and runs it."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from stts_jax.cli.commands import COMMANDS, Command
from stts_jax.quoting import shorten

_CLONE = Path(__file__).resolve().parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a subcommand; returns its exit code, or 2 where there is no such subcommand.

    Only the module of the subcommand is imported, so `stts --help` starts no JAX.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(help_text())
        return 0
    name, *rest = words
    if name not in COMMANDS:
        print(f"stts: {unknown_sentence(name)}", file=sys.stderr)
        return 2
    command = COMMANDS[name]
    # What argparse calls the program in a usage line, where its parser has no name of its own.
    sys.argv[0] = f"stts {name}"
    try:
        run = program_of(command)
    except FileNotFoundError as error:
        print(f"stts: {error}", file=sys.stderr)
        return 2
    return run(rest)


def help_text() -> str:
    """Returns the list of subcommands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.purpose}" for name, command in COMMANDS.items()]
    return "\n".join(
        ["usage: stts SUBCOMMAND ...", "", *lines, "", "Each has --help: stts ask --help"]
    )


def unknown_sentence(name: str) -> str:
    """Returns the message for a subcommand that there isn't, with the nearest that there is."""
    near = difflib.get_close_matches(name[:64], COMMANDS, n=1, cutoff=0.0)
    return (
        f"subcommand {shorten(name)} is unknown; did you mean '{near[0]}'? "
        f"(there are {', '.join(COMMANDS)})"
    )


def program_of(command: Command) -> Callable[[Sequence[str]], int]:
    """Returns the program of a subcommand, as a function from its arguments to the exit code.

    Raises:
      FileNotFoundError: for a script of the clone where only the package is installed.
    """
    module = _script(command.script) if command.script else importlib.import_module(command.module)
    program: Callable[..., int | None] = module.main
    if command.name:
        from stts_jax.command_line import run

        return lambda arguments: run(command.name, lambda: program(arguments))  # type: ignore[arg-type]
    if command.ends_at_once:
        from stts_jax.command_line import end_program

        return lambda arguments: end_program(program(arguments) or 0)
    return lambda arguments: program(arguments) or 0


def _script(name: str) -> ModuleType:
    """Imports a script of the clone by its own name, as its worker processes do."""
    path = _CLONE / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{name} comes with the clone and not with the installed package; install from the "
            "clone with 'pip install -e .'"
        )
    if str(_CLONE) not in sys.path:
        sys.path.append(str(_CLONE))
    return importlib.import_module(path.stem)
