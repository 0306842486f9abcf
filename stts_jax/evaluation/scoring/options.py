"""The option that a text comes closest to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stts_jax.evaluation.scoring.score import ScoringError


def nearest_option(text: str, options: Sequence[str]) -> int:
    """Index of the option that `text` means, if it is not the text of one exactly.

    The only option that begins the text, else the only one that the text begins, else the only
    one that holds it, else that with the smallest edit distance (the first of several). Case and
    outer spaces don't count. An empty text is never refused: it is compared by edit distance too.

    Source: the reference's `select_mc_option` (docs/reference.md#metrics).

    Raises:
      ScoringError: if two options are the same.
    """
    text = text.lower().strip()
    names = [option.lower().strip() for option in options]
    if len(set(names)) < len(names):
        raise ScoringError(
            f"the options {list(options)} are not all different, so an answer cannot be told "
            "apart; correct the dataset"
        )
    rules: tuple[Callable[[str], bool], ...] = (
        lambda name: name == text,
        lambda name: text.startswith(name),
        lambda name: name.startswith(text),
        lambda name: text in name,
    )
    for rule in rules:
        found = [index for index, name in enumerate(names) if rule(name)]
        if len(found) == 1:
            return found[0]
    distances = [edit_distance(name, text) for name in names]
    return distances.index(min(distances))


def edit_distance(first: str, second: str) -> int:
    """Counts the characters to insert, delete or replace to turn one text into the other."""
    previous = list(range(len(second) + 1))
    for row, a in enumerate(first, start=1):
        current = [row]
        for column, b in enumerate(second, start=1):
            replaced = previous[column - 1] + (a != b)
            current.append(min(previous[column] + 1, current[-1] + 1, replaced))
        previous = current
    return previous[-1]
