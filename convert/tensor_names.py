"""Describes tensor names that don't fit: wrappers around them, and patterns."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence

from convert.tensor_reader import ConvertError
from stts_jax.quoting import LIMIT

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
# So many of a pattern are listed one by one, and so many patterns.
_LISTED = 3
_PATTERNS = 40
_LONGEST = 3 * LIMIT
_DEEPEST_PREFIX = 4


def summarized(problems: Sequence[str]) -> list[str]:
    """Problems as lines; those that differ only in the number of a layer become one with a count.

    Args:
      problems: a phrase each, with the names of tensors in it.
    """
    groups: dict[str, list[str]] = {}
    for problem in problems:
        groups.setdefault(_NUMBER.sub("*", problem), []).append(problem)
    lines: list[str] = []
    for pattern, found in list(groups.items())[:_PATTERNS]:
        if len(found) <= _LISTED:
            lines += [line[:_LONGEST] for line in found]
        else:
            lines.append(f"{pattern[:_LONGEST]} ({len(found)} of them)")
    left = list(groups.values())[_PATTERNS:]
    if left:
        lines.append(f"and {sum(map(len, left))} more of {len(left)} other patterns")
    return lines


def require_own_names(stored: Collection[str], wanted: Collection[str]) -> None:
    """Raises if most of the stored names would be right with another beginning.

    Args:
      stored: names in the checkpoint.
      wanted: names that are looked for.

    Raises:
      ConvertError: with the beginning that a wrapper gave them, and what to do.
    """
    found = Counter(
        change for name in stored if name not in wanted for change in _changes(name, wanted)
    )
    if not found:
        return
    (theirs, ours), count = max(found.items(), key=lambda item: (item[1], -len(item[0][0])))
    if 2 * count < len(wanted):
        return
    begin = f"begin with '{theirs}'" if theirs else "lack a beginning"
    instead = f"where '{ours}' belongs" if ours else "which doesn't belong there"
    raise ConvertError(
        f"the names of {count} tensors {begin}, {instead}: a wrapper (data parallel, compiled, an "
        "adapter) or a part of the model was saved; save the state_dict of the whole model itself, "
        "or fix the names, and convert it again"
    )


def _changes(name: str, wanted: Collection[str]) -> list[tuple[str, str]]:
    """Beginnings (that it has, that it should have) with which a name would be a wanted one."""
    parts = name.split(".", _DEEPEST_PREFIX)
    heads = [".".join(parts[:count]) + "." for count in range(1, len(parts))]
    return [
        (head, ours)
        for head in ["", *heads]
        for ours in ("", "model.")
        if head != ours and ours + name.removeprefix(head) in wanted
    ]
