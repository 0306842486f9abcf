"""Text of tokens as they come, one piece at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from stts_jax.data.text.tokenizer import Tokenizer

# Stands for bytes that are no letter, or not yet: a letter may take several tokens.
_INCOMPLETE = "\ufffd"


def without_incomplete(text: str) -> str:
    """Returns the text without the letter at its end that further tokens may complete."""
    return text.rstrip(_INCOMPLETE)


def pieces(tokenizer: Tokenizer, tokens: Iterable[int]) -> Iterator[str]:
    """Yields the text of an answer piece by piece; joined they are what `Tokenizer.decode` gives.

    Args:
      tokenizer: of the model.
      tokens: ids as they are chosen; nothing is read after the one that ends the answer.
    """
    ids: list[int] = []
    shown = ""
    for token in tokens:
        if token == tokenizer.eos_id:
            break
        ids.append(token)
        text = without_incomplete(tokenizer.decode(ids))
        if len(text) > len(shown):
            yield text[len(shown) :]
            shown = text
    rest = tokenizer.decode(ids)[len(shown) :]
    if rest:
        yield rest
