"""The house stays as docs/ARCHITECTURE.md says: who imports whom, and which words names use."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest
from goldens_folder import REPOSITORY

# From the top down: a room imports from rooms before it, and from those beside it where it is said.
ROOMS = (
    *(("quoting",), ("buckets",), ("pytrees",), ("config",), ("batch",), ("budget",)),
    *(("train_ratios",), ("size_buckets",)),
    ("arguments", "plain_files", "host_memory", "terminal", "output_lock"),
    *(("parallel",), ("attention",), ("layers",), ("pruning",), ("model",), ("inference",)),
    *(("data",), ("training",), ("convert",), ("evaluation",), ("api",)),
    ("command_line",),
    ("serving",),
    *(("ask", "show", "calibrate", "fit", "bench", "demo"), ("doctor",), ("cli",), ("__main__",)),
)
# Beyond the order: the ViT side must not know what is data, and data must not know the model.
NEVER = {
    "data": ("parallel", "attention", "layers", "pruning", "model", "inference"),
    "pruning": ("config", "model"),
    "attention": ("config", "budget"),
    "config": ("budget",),
}
# One word for several things, or no word of the field's: see docs/CONTRIBUTING.md.
BANNED = (
    *("astray", "anew", "blind", "compact", "forbidden", "ladder", "leads", "mend", "mended"),
    *("nowhere", "place", "places", "ratings", "rung", "rungs", "turned", "untouchable", "ways"),
)
ALLOWED = {
    "seconds_decimal_places",  # a setting
    "_in_place",
}


@cache
def modules() -> dict[str, ast.Module]:
    """The syntax tree of each module of the package and the converter, by dotted name."""
    paths = [*(REPOSITORY / "stts_jax").rglob("*.py"), *(REPOSITORY / "convert").rglob("*.py")]
    return {name_of(path): ast.parse(path.read_text()) for path in paths}


def name_of(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    first, *rest = module.split(".")
    return rest[0] if first == "stts_jax" and rest else first


def imported(tree: ast.Module) -> set[str]:
    """Modules of ours that a module imports, also within functions."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & modules().keys()) or {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] in ("stts_jax", "convert")}


@cache
def imports() -> dict[str, set[str]]:
    return {name: imported(tree) for name, tree in modules().items()}


def at_import(tree: ast.Module) -> set[str]:
    """What is imported when the module is, not later within a function."""
    body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    return imported(ast.Module(body, []))


RANK = {room: rank for rank, rooms in enumerate(ROOMS) for room in rooms}


@pytest.mark.parametrize("room", sorted(RANK))
def test_a_room_imports_from_rooms_above_it(room):
    wrong = [
        f"{name} imports {other}"
        for name, others in imports().items()
        for other in others
        if room_of(name) == room != room_of(other)
        and (RANK[room_of(other)] > RANK[room] or room_of(other) in NEVER.get(room, ()))
    ]
    assert wrong == []


def test_every_module_has_a_room():
    assert {room_of(name) for name in modules()} - {"stts_jax"} <= RANK.keys()


def test_no_module_imports_itself_by_way_of_others():
    graph = {name: at_import(tree) - {name} for name, tree in modules().items()}
    state: dict[str, int] = defaultdict(int)

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert state[name] != 1, f"a circle: {' -> '.join((*path, name))}"
        if state[name] == 0:
            state[name] = 1
            for other in graph.get(name, ()):
                # A package that lists its modules is imported before them, and they may use others.
                if not name.startswith(f"{other}.") and not other.startswith(f"{name}."):
                    visit(other, (*path, name))
            state[name] = 2

    for name in graph:
        visit(name, ())


def names_in(tree: ast.Module) -> set[str]:
    """Names that a module gives: of functions, classes, arguments, variables and attributes."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
    return found


def words(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}


def test_names_use_no_banned_word():
    given = {(module, name) for module, tree in modules().items() for name in names_in(tree)}
    given |= {(module, module.rpartition(".")[2]) for module in modules()}
    wrong = [pair for pair in given if words(pair[1]) & {*BANNED} and pair[1] not in ALLOWED]
    assert sorted(wrong) == []
