"""Reads `tokenizer.json` files, which come with models and may be made to do harm.

The `tokenizers` library builds whatever a file describes: rules that double a text forty times,
patterns that are tried for hours, or parts on whose sight it gives up in a way that no `except
Exception` catches. So a file is looked at once, and its hash is remembered:

* sizes and counts are bounded;
* a file whose parts are all of the kinds that language models use (`_is_plain`) is taken;
* any other is tried in a process with little memory and time first, see `tokenizer_trial`.

Known files so cost one look at their JSON, and none when they were looked at before.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from stts_jax.plain_files import FileError, parse_json, read_text, reason
from stts_jax.quoting import shorten

MOST_BYTES = 64 << 20  # the largest that is known has 33 MB
MOST_ADDED = 20_000
MOST_ADDED_LETTERS = 1000
MOST_GROWTH = 1000
MOST_STEPS = 32
TRIAL_SECONDS = 120.0  # of a machine that may be busy; processor time is bounded by the trial
# Changes when what is looked at does: a file that was looked at otherwise is looked at again.
_VERSION = "1"

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# Of Qwen2 and Qwen3; of OLMo2, OLMo3 and Llama 3; of GPT-2; and of the embedded tokenizer.
KNOWN_PATTERNS = frozenset(
    (
        rf"{_WORDS}|\p{{N}}{_REST}",
        rf"{_WORDS}|\p{{N}}{{1,3}}{_REST}",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"user\n|assistant\n|Only\ return\ the\ correct\ answer\ option\.\n| ?\d+\.\d | ?\p{L}+"
        r"| ?\p{N}| ?[^\s\p{L}\p{N}]+|\n|\s",
    )
)
_NORMALIZERS = ("NFC", "NFD", "NFKC", "NFKD")
_PRE_TOKENIZERS = ("ByteLevel", "Digits")
_POST_PROCESSORS = ("ByteLevel", "TemplateProcessing")
_DECODERS = ("ByteLevel",)


def load_base(path: Path) -> tokenizers.Tokenizer:
    """The tokenizer of a file, which neither cuts texts nor fills them up.

    Raises:
      FileError: if it is no file or no tokenizer, too large, or does harm.
    """
    text = read_text(path, MOST_BYTES)
    known = _marker(text)
    if not known.exists():
        _require_harmless(path, text)
        _remember(known)
    base = built(text, path)
    # What a tokenizer is saved with after it was used for batches; it would cut or fill each text.
    base.no_truncation()
    base.no_padding()
    return base


def built(text: str, path: Path) -> tokenizers.Tokenizer:
    """Builds the library's tokenizer of the text of a file; raises `FileError` if it can't."""
    try:
        return tokenizers.Tokenizer.from_str(text)
    except BaseException as error:
        raise_unless_refused(error)
        raise FileError(f"'{path}' is no tokenizer ({reason(error)})") from error


def raise_unless_refused(error: BaseException) -> None:
    """Raises what the library didn't: its panics are no `Exception`."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error


def _require_harmless(path: Path, text: str) -> None:
    parsed = parse_json(text, path)
    if not isinstance(parsed, dict) or not isinstance(parsed.get("model"), dict):
        raise FileError(f"'{path}' describes no tokenizer: it has no table 'model'")
    _require_counts(path, parsed)
    _require_no_growth(path, parsed)
    if not _is_plain(parsed):
        _try(path, text)


def _require_counts(path: Path, parsed: Mapping[str, Any]) -> None:
    added = parsed.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise FileError(f"'{path}' has added_tokens {shorten(added)}, which are no list of tokens")
    if len(added) > MOST_ADDED:
        raise FileError(f"'{path}' has {len(added)} added tokens, more than {MOST_ADDED}")
    for token in added:
        content = token.get("content")
        if not isinstance(content, str) or not 0 < len(content) <= MOST_ADDED_LETTERS:
            raise FileError(f"'{path}' has an added token {shorten(content)}, which is no text")
    if parsed["model"].get("dropout"):
        raise FileError(
            f"'{path}' has dropout {shorten(parsed['model']['dropout'])}, so the ids of a text "
            "would be drawn by chance"
        )


def _require_no_growth(path: Path, parsed: Mapping[str, Any]) -> None:
    """Refuses rules that replace letters by many more, one after the other."""
    for name in ("normalizer", "pre_tokenizer", "decoder"):
        growth, steps = 1, 0
        parts = [parsed.get(name)]
        while parts:
            part = parts.pop()
            if isinstance(part, list):
                parts += part
            elif isinstance(part, dict):
                steps += "type" in part
                parts += part.values()
                texts = [part.get(key) for key in ("content", "prepend")]
                growth *= max([1, *(len(text) for text in texts if isinstance(text, str))])
        if growth > MOST_GROWTH or steps > MOST_STEPS:
            raise FileError(
                f"'{path}' has a {name} of {steps} steps that may make a text "
                f"{shorten(growth)} times as long"
            )


def _is_plain(parsed: Mapping[str, Any]) -> bool:
    """Whether all of a tokenizer is of kinds whose work a text's length bounds."""
    return (
        parsed["model"].get("type") == "BPE"
        and _all_of(parsed.get("normalizer"), "normalizers", _NORMALIZERS)
        and _all_of(parsed.get("pre_tokenizer"), "pretokenizers", _PRE_TOKENIZERS)
        and _all_of(parsed.get("post_processor"), "processors", _POST_PROCESSORS)
        and _all_of(parsed.get("decoder"), "decoders", _DECODERS)
    )


def _all_of(part: Any, children: str, kinds: tuple[str, ...]) -> bool:
    if part is None:
        return True
    if not isinstance(part, dict):
        return False
    kind = part.get("type")
    if kind == "Sequence":
        found = part.get(children)
        return (
            isinstance(found, list)
            and len(found) <= 8
            and all(isinstance(one, dict) and one.get("type") != "Sequence" for one in found)
            and all(_all_of(one, children, kinds) for one in found)
        )
    if kind == "Split" and "ByteLevel" in kinds and children == "pretokenizers":
        pattern = part.get("pattern")
        return isinstance(pattern, dict) and pattern.get("Regex") in KNOWN_PATTERNS
    return kind in kinds


def _try(path: Path, text: str) -> None:
    """Let a process of its own load and use the tokenizer; a `FileError` if it doesn't end well."""
    script = Path(__file__).with_name("tokenizer_trial.py")
    try:
        trial = subprocess.run(
            [sys.executable, "-I", str(script)],
            input=text.encode(),
            capture_output=True,
            timeout=TRIAL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise FileError(
            f"'{path}' takes more than {TRIAL_SECONDS:.0f} s for some pages of text"
        ) from (error)
    if trial.returncode:
        said = trial.stdout.decode(errors="replace").strip()
        why = said or "it takes more memory or time than a page of text may"
        raise FileError(f"'{path}' can't be used: {shorten(why)}")


def _marker(text: str) -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    name = f"{_VERSION}-{hashlib.sha256(text.encode()).hexdigest()}"
    return root / "stts_jax" / "tokenizers" / name


def _remember(marker: Path) -> None:
    try:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
    except OSError:
        pass  # then it is looked at again
