"""Tries a tokenizer that may do harm: a program that reads it from its input.

It gets little memory and processor time, and ends with code 0 if the tokenizer reads, encodes and
decodes some pages of text within them. It imports nothing of ours, so that it starts at once.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import resource
import sys

MEMORY_BYTES = 2 << 30
PROCESSOR_SECONDS = 10
# Ids for a byte, and bytes for an id, that no tokenizer of a language model exceeds.
_MOST_IDS = 4
_MOST_BYTES = 512
_LENGTH = 2000
_TEXT = (
    "What happens at 12.5 seconds? It's RED,\n\n  \t不是蓝色。 (a) x_1 = {y: [2, 3]} <im_patch>\r\n"
)


def main() -> int:
    """The exit code; a sentence on the output says what is wrong."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_SECONDS, PROCESSOR_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["RAYON_NUM_THREADS"] = "1"
    import tokenizers

    text = sys.stdin.buffer.read().decode()
    try:
        base = tokenizers.Tokenizer.from_str(text)
        base.no_truncation()
        base.no_padding()
        for probe in probes(json.loads(text)):
            wrong = misuse(base, probe)
            if wrong:
                print(wrong)
                return 1
    except BaseException as error:  # a panic of the library is no Exception
        print(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)
        return 1
    return 0


def probes(parsed: dict[str, object]) -> list[str]:
    """Texts that are hard for patterns: pages of one letter, each followed by another one."""
    used = json.dumps([parsed.get(part) for part in ("normalizer", "pre_tokenizer")])
    letters = dict.fromkeys((*"a1 \n\t.'é中", *used[:2000]))
    pairs = [first + second for first, second in itertools.pairwise(used[:500])]
    return [
        "",
        _TEXT * 40,
        *(letter * _LENGTH + "\x01" for letter in letters),
        *(pair * (_LENGTH // 2) + "\x01" for pair in dict.fromkeys(pairs)),
    ]


def misuse(base: object, text: str) -> str:
    """A sentence on what a tokenizer does wrong with a text; empty if nothing."""
    ids = base.encode(text, add_special_tokens=False).ids  # type: ignore[attr-defined]
    size = len(text.encode()) + 16
    if len(ids) > _MOST_IDS * size:
        return f"it makes {len(ids)} ids of {size} bytes"
    back = base.decode(ids, skip_special_tokens=False)  # type: ignore[attr-defined]
    if len(back) > _MOST_BYTES * size:
        return f"it makes {len(back)} letters of {len(ids)} ids"
    return ""


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        code = main()
        sys.stdout.flush()
        os._exit(code)
