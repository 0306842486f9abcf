"""Finds the commands in a Markdown page and says what is wrong with them, without running them."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from goldens_folder import REPOSITORY

from stts_jax.config import ConfigError, load_config

PYTHON = ".venv/bin/python"
# Programs that `make setup` puts into .venv, so that their bare names are not on the path.
ONLY_IN_VENV = ("python", "pip", "pip3", "pytest", "mypy", "ruff", "hf")
DOWNLOADER = "huggingface_hub"
CHECKPOINT_CONFIGS = ("molmo2_4b_stts_50", "molmo2_4b", "tiny")
IN_REPOSITORY = ("stts_jax/", "tests/", "docs/", "configs/", "convert/")

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?<=\n\n)((?: {4}.*\n)+)")
_INLINE = re.compile(r"`([^`]+)`")
_OPERATORS = set("();<>|&")
_BEFORE_A_COMMAND = re.compile(r"\w+=\S*|do|then|srun|--kill-on-bad-exit=1")


class ParsedError(Exception):
    """Ends a program when it has read its command line."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__()
        self.options = options


def commands(page: str) -> Iterator[list[str]]:
    """Yields the words of each shell command of a page, in blocks and within sentences."""
    for line in _code_lines(re.sub(r"<!--.*?-->", "", page, flags=re.DOTALL)):
        yield from _commands_of(line)


def faults(page: str) -> list[str]:
    """Returns one sentence for each command of a page that would not run as it is written."""
    found = ((words, _fault(words)) for words in commands(page))
    return [f"`{' '.join(words)}`: {fault}" for words, fault in found if fault]


def programs(page: str) -> list[str]:
    """Returns the modules and scripts that a page runs with Python, each once."""
    words = [w[1:] for w in commands(page) if w[0] == PYTHON and len(w) > 1]
    named = (rest[1] if rest[0] == "-m" and len(rest) > 1 else rest[0] for rest in words)
    return sorted({name for name in named if name not in ("-c", "pip", "pytest")})


def main_of(program: str) -> Callable[[Sequence[str]], Any]:
    """Returns `main` of a script or module; ImportError or ValueError if there is none."""
    name = program.removesuffix(".py")
    if importlib.util.find_spec(name) is None:
        raise ImportError(f"there is no {program}")
    package = (REPOSITORY / name.replace(".", "/")).is_dir()
    return importlib.import_module(f"{name}.__main__" if package else name).main


def options_of(program: str, arguments: Sequence[str]) -> argparse.Namespace:
    """Returns what a program's own parser makes of arguments; SystemExit if it refuses them."""
    parse_args = argparse.ArgumentParser.parse_args
    parse_intermixed = argparse.ArgumentParser.parse_intermixed_args

    def parse_and_stop(self: argparse.ArgumentParser, *given: Any, **named: Any) -> None:
        raise ParsedError(parse_args(self, *given, **named))

    def parse_intermixed_and_stop(self: argparse.ArgumentParser, *given: Any) -> None:
        raise ParsedError(parse_intermixed(self, *given))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
        patch.setattr(argparse.ArgumentParser, "parse_intermixed_args", parse_intermixed_and_stop)
        try:
            main_of(program)(list(arguments))
        except ParsedError as parsed:
            return parsed.options
    raise ValueError(f"{program} never reads its command line")


def _code_lines(page: str) -> Iterator[str]:
    page = page.replace("\\\n", " ")
    for language, block in _FENCED.findall(page):
        if language in ("", "sh", "bash"):
            yield from block.split("\n")
    page = _FENCED.sub("", page)
    for block in _INDENTED.findall(page):
        yield from block.split("\n")
    for span in _INLINE.findall(_INDENTED.sub("", page)):
        yield " ".join(span.split())


def _commands_of(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, "#"
    try:
        words = list(lexer)
    except ValueError:
        words = line.split()
    command: list[str] = []
    for word in [*words, ";"]:
        if PYTHON in word and " " in word:  # what another program is given to run
            yield from _commands_of(word)
        if set(word) <= _OPERATORS:
            while command and _BEFORE_A_COMMAND.fullmatch(command[0]):
                command.pop(0)
            if command:
                yield command
            command = []
        else:
            command.append(word)


def _fault(words: list[str]) -> str:
    if words[0] in ONLY_IN_VENV and len(words) > 1:
        return f"write .venv/bin/{words[0]}; without it this is another environment's"
    if words[0] == "make":
        return _make_fault(words[1:])
    if words[0] != PYTHON or len(words) == 1:
        return ""
    absent = [w for w in words if w.startswith(IN_REPOSITORY) and not (REPOSITORY / w).exists()]
    if absent:
        return f"there is no {absent[0]}"
    if words[1] == "-c":
        return _code_fault(words[2])
    module, arguments = (words[2], words[3:]) if words[1] == "-m" else (words[1], words[2:])
    if module == "pip":
        return _extras_fault(arguments)
    return "" if module == "pytest" else _program_fault(module, arguments)


def _make_fault(words: list[str]) -> str:
    makefile = (REPOSITORY / "Makefile").read_text()
    for word in words:
        name, is_variable, _ = word.partition("=")
        if is_variable and f"$({name})" not in makefile and f"$(if $({name})" not in makefile:
            return f"the Makefile has no variable {name}"
        if not is_variable and not re.search(rf"^{re.escape(name)}:", makefile, re.MULTILINE):
            return f"the Makefile has no target {name}"
    return ""


def _code_fault(code: str) -> str:
    try:
        compile(code, "code", "exec")
    except SyntaxError as error:
        return str(error)
    return ""


def _extras_fault(arguments: list[str]) -> str:
    if arguments == ["install", DOWNLOADER]:
        return ""
    if arguments[:2] != ["install", "-e"]:
        return "install from the clone: pip install -e '.[EXTRA]'"
    known = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = re.fullmatch(r"\.\[([\w,]+)\]", arguments[2])
    extras = wanted[1].split(",") if wanted else []
    unknown = [extra for extra in extras if extra not in known["optional-dependencies"]]
    return f"there is no extra {unknown[0]}" if unknown else "" if extras else "name an extra"


def _program_fault(program: str, arguments: list[str]) -> str:
    try:
        main_of(program)
    except (ImportError, AttributeError) as error:
        return str(error)
    if not arguments or "--help" in arguments:  # a sentence names the program, or help is printed
        return ""
    try:
        options = vars(options_of(program, arguments))
        _check_settings(options)
    except SystemExit:
        return "its options are refused"
    except ConfigError as error:
        return str(error)
    return ""


def _check_settings(options: dict[str, Any]) -> None:
    """Raises ConfigError for a setup or setting that there isn't."""
    config, overrides = options.get("config"), options.get("overrides") or []
    if config == "SETUP" or str(config).startswith("runs/"):  # of the reader, or of a run
        config = None
    start = str(options.get("checkpoint") or "")
    guessed = next((name for name in CHECKPOINT_CONFIGS if name in start), "tiny")
    load_config(config or guessed, overrides)
    ratios = options.get("k") or []
    for percent in ratios if isinstance(ratios, list) else [ratios]:
        load_config(guessed, [*overrides, f"model.prune.topk={percent / 100}"])


def blocks(page: Path) -> list[str]:
    """Returns the fenced blocks of a page without a language, in order."""
    return [block for language, block in _FENCED.findall(page.read_text()) if not language]
