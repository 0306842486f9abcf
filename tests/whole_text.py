"""Decodes token ids past the first EOS."""

from __future__ import annotations

from collections.abc import Iterable

from stts_jax.data.text.tokenizer import Tokenizer


def decode_all(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    """Text of all `ids` but BOS, EOS and padding; other special tokens are written out."""
    marks = (tokenizer.bos_id, tokenizer.eos_id)
    return tokenizer.decode([int(i) for i in ids if i not in marks])
