"""Text to token ids and back.

Ids below the vocabulary size are the base tokenizer's; what it lacks up to there is filled with
unused tokens, so that the visual tokens (`config.SPECIAL_TOKENS`) are numbered from the vocabulary
size upwards. Source: olmo/tokenizer.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tokenizers

from stts_jax.config import SPECIAL_TOKENS

TINY_FILE = Path(__file__).with_name("tiny_tokenizer.json")
REMEMBERED_TEXTS = 20000  # times and questions come again and again
END_OF_TURN = "<|im_end|>"  # closes a turn, and serves as BOS and EOS


class TokenizerError(ValueError):
    """A tokenizer that doesn't fit the model; the message is one sentence with the remedy."""


class Tokenizer:
    """A `tokenizers` tokenizer with the visual tokens added.

    Attributes:
      vocab_size: V, ids of the base vocabulary including fillers.
      eos_id: id of the end-of-turn token, which is also BOS.
      special_ids: id of each of `config.SPECIAL_TOKENS`.
    """

    def __init__(self, base: tokenizers.Tokenizer, vocab_size: int) -> None:
        size = base.get_vocab_size(with_added_tokens=True)
        if size > vocab_size:
            raise TokenizerError(
                f"the tokenizer has {size} tokens, more than model.llm.vocab_size={vocab_size}; "
                "raise that or use another data.tokenizer"
            )
        eos_id = base.token_to_id(END_OF_TURN)
        if eos_id is None:
            raise TokenizerError(
                f"the tokenizer has no '{END_OF_TURN}' token, which ends every turn; use the "
                "tokenizer.json of an instruction-tuned model"
            )
        fillers = [f"|<EXTRA_TOKENS_{i}>|" for i in range(vocab_size - size)]
        base.add_special_tokens([*fillers, *SPECIAL_TOKENS])
        self.vocab_size = vocab_size
        self.eos_id = eos_id
        self.special_ids = {name: base.token_to_id(name) for name in SPECIAL_TOKENS}
        for index, (name, token_id) in enumerate(self.special_ids.items()):
            if token_id != vocab_size + index:
                raise TokenizerError(
                    f"token '{name}' has id {token_id} instead of {vocab_size + index}; use a "
                    "tokenizer.json without the visual tokens"
                )
        self._base = base
        self._known: dict[str, list[int]] = {}

    @classmethod
    def load(cls, name_or_path: str, vocab_size: int) -> Tokenizer:
        """Read a tokenizer.

        Args:
          name_or_path: `tiny` for the embedded one, or the path of a `tokenizer.json`.
          vocab_size: rows of the model's base embedding.

        Raises:
          TokenizerError: if there is no such file, or it doesn't fit.
        """
        path = TINY_FILE if name_or_path == "tiny" else Path(name_or_path)
        if not path.is_file():
            raise TokenizerError(
                f"tokenizer '{path}' does not exist; set data.tokenizer to 'tiny' or to the path "
                "of a tokenizer.json"
            )
        try:
            base = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise TokenizerError(
                f"tokenizer '{path}' cannot be read: {error}; use a tokenizer.json"
            ) from error
        return cls(base, vocab_size)

    @property
    def bos_id(self) -> int:
        """Id that every sequence starts with; the same as `eos_id`."""
        return self.eos_id

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; nothing is added. Special tokens written out in it are recognised."""
        if text not in self._known:
            if len(self._known) >= REMEMBERED_TEXTS:
                self._known.clear()
            self._known[text] = self._base.encode(text, add_special_tokens=False).ids
        return list(self._known[text])

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids` up to the first EOS; one EOS at the front is taken as BOS.

        Negative ids are padding and left out.
        """
        kept = [int(i) for i in ids if i >= 0]
        if kept and kept[0] == self.bos_id:
            kept = kept[1:]
        if self.eos_id in kept:
            kept = kept[: kept.index(self.eos_id)]
        return self._base.decode(kept, skip_special_tokens=False)
