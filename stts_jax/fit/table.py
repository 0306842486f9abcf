"""The table of docs/fit.md: `python -m stts_jax.fit.table` makes the rows that are missing.

Each row is compiled by a process of its own and appended to docs/fit.jsonl when it is done, so
the command can be stopped at any time and started again. A row that can't be compiled is in it
too, with the compiler's words. The table in docs/fit.md is made of that file and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stts_jax.arguments import Parser
from stts_jax.command_line import run
from stts_jax.config import ConfigError
from stts_jax.fit.hardware import GIB
from stts_jax.fit.table_rows import ROWS, Row

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / "docs" / "fit.jsonl"
DOCUMENT = REPOSITORY / "docs" / "fit.md"
START, END = "<!-- table: python -m stts_jax.fit.table -->", "<!-- end of table -->"
# The code that determines the compiled program.
_CODE = ("budget.py", "layers", "model", "parallel", "pruning", "training")
# The last line of a traceback.
_ERROR = re.compile(r"[A-Za-z_.]*(Error|Exception)\b.*: ")
Result = dict[str, Any]
Make = Callable[[Row], Result]


def read_results(path: Path) -> dict[str, Result]:
    """Returns the rows by key; of a repeated row the last."""
    if not path.exists():
        return {}
    rows = (json.loads(line) for line in path.read_text().splitlines() if line.strip())
    return {row["key"]: row for row in rows}


def make_missing(rows: Sequence[Row], path: Path, make: Make, *, stale: bool = False) -> list[Row]:
    """Makes the rows that aren't in the file, one after the other, each written when done.

    Args:
      rows: all that there should be.
      path: of the JSONL file.
      make: compiles a row; what it finds has an `error` where that failed.
      stale: remake those too that other code made.

    Returns:
      those of `rows` that are in the file with an error.
    """
    code = code_fingerprint()
    for number, row in enumerate(rows, 1):
        known = read_results(path).get(row.key)
        if known is not None and not (stale and known["code"] != code):
            continue
        print(f"row {number} of {len(rows)}: {row.key}", flush=True)
        result = make(row)
        with path.open("a") as file:
            file.write(json.dumps({"key": row.key, "code": code, **result}) + "\n")
    results = read_results(path)
    return [row for row in rows if "error" in results[row.key]]


def compile_row(row: Row) -> Result:
    """Returns the report of `python -m stts_jax.fit`, or an `error` in the compiler's words.

    Raises:
      ConfigError: where it can't even start: without the compiler, for example.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "row.json"
        command = [sys.executable, "-m", "stts_jax.fit", *row.arguments, "--output", str(output)]
        command += ["--plan"] if row.is_for_tpus else []
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        if output.exists():
            return json.loads(output.read_text())
    if done.returncode == 2:
        raise ConfigError(done.stderr.strip().splitlines()[-1])
    return {"error": _error_of(done)}


def _error_of(done: subprocess.CompletedProcess[str]) -> str:
    """Returns the line of the error, out of a traceback and the compiler's log."""
    if done.returncode < 0:
        return f"killed by signal {-done.returncode}"
    lines = [line for line in done.stderr.splitlines() if _ERROR.match(line)]
    return (lines[-1] if lines else f"exit code {done.returncode}")[:300]


def code_fingerprint() -> str:
    """Returns a hash of the code that determines the compiled programs."""
    digest = hashlib.sha256()
    for name in _CODE:
        path = REPOSITORY / "stts_jax" / name
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def table_lines(results: Mapping[str, Result], rows: Sequence[Row] = ROWS) -> list[str]:
    """Returns the Markdown table of the finished rows, in the order of `rows`."""
    lines = [
        "| devices | setup | row | program | mesh | parameters | optimizer | batch, cache | "
        "temporaries | total of limit, GiB | fits | TFLOPs: model + again | sent, GiB | "
        "step at least |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    return lines + [_line(row, results[row.key]) for row in rows if row.key in results]


def _line(row: Row, result: Result) -> str:
    if "error" in result:
        error = "could not be compiled: " + result["error"].replace("|", "/")
        asked = [row.topology, row.config, " ".join(row.size), " ".join(row.more) or "train"]
        return "| " + " | ".join([*asked, *["?"] * 6, error, *["?"] * 3]) + " |"
    memory, flops, sent = result["memory"], result["flops"], result["collectives"]
    left = _gib(abs(memory["left"]))
    cells = [
        result["topology"],
        result["config"],
        _row_text(result),
        result["program"],
        result["mesh"],
        _gib(memory["parameters"]),
        _gib(memory.get("optimizer", 0)),
        _gib(memory["batch"] + memory.get("cache", 0)),
        _gib(memory["temporaries"]),
        f"{_gib(memory['total'])} of {_gib(memory['limit'])}",
        f"yes, {left} left" if result["fits"] else f"no, {left} too much",
        f"{_tera(flops['model'])} + {_tera(flops['recompute'])}",
        "?" if sent is None else _gib(sum(kind["bytes"] for kind in sent.values())),
        _time(result["seconds"], known=sent is not None),
    ]
    return "| " + " | ".join(cells) + " |"


def _row_text(result: Result) -> str:
    text = f"{result['videos_per_row']} x {result['frames']}, {_tokens_text(result)} tokens"
    parts = result.get("accumulate", 1)
    if parts == 1:
        return text
    return f"{text}; {result['rows_per_device']} rows a device in {parts} parts"


def _tokens_text(result: Result) -> str:
    tokens = [own["tokens_per_row"] for own in result.get("by_ratio", ())]
    return f"{min(tokens):,} to {max(tokens):,}" if tokens else f"{result['tokens_per_row']:,}"


def _gib(size: float) -> str:
    return f"{size / GIB:,.2f}"


def _tera(flops: float) -> str:
    return f"{flops / 1e12:,.0f}" if flops >= 1e13 or not flops else f"{flops / 1e12:.2f}"


def _time(seconds: Mapping[str, Any] | None, *, known: bool) -> str:
    if seconds is None:
        return "?"
    bound = seconds["bound"]
    text = f"{bound:.2f} s" if bound >= 0.1 else f"{bound * 1e3:.2f} ms"
    return f"{text} ({seconds['by']})" if known else f"{text} (without links)"


def document_with(text: str, lines: Sequence[str]) -> str:
    """Returns the document with its table replaced.

    Raises:
      ValueError: where the document has no markers for it.
    """
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ValueError(f"the document lacks the lines '{START}' and '{END}'; put them back")
    return "\n".join([before + START, "", *lines, "", END + after])


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes the table; the exit code is 1 where a row failed."""
    parser = Parser(prog="python -m stts_jax.fit.table", description=__doc__)
    parser.add_argument("--only", default="", help="rows whose options contain this text")
    parser.add_argument(
        "--stale", action="store_true", help="remake those too that other code made"
    )
    options = parser.parse_args(arguments)
    failed: list[Row] = []

    def command() -> None:
        rows = [row for row in ROWS if options.only in row.key]
        try:
            failed.extend(make_missing(rows, RESULTS, compile_row, stale=options.stale))
        finally:
            lines = table_lines(read_results(RESULTS))
            DOCUMENT.write_text(document_with(DOCUMENT.read_text(), lines))

    code = run("fit.table", command)
    for row in failed:
        print(f"could not be compiled: {row.key}", file=sys.stderr)
    return code or int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
