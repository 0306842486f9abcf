"""Turns text into token ids and back.

Ids below the vocabulary size are the base tokenizer's; what it lacks up to there is filled with
unused tokens, so that the visual tokens (`config.SPECIAL_TOKENS`) are numbered from the vocabulary
size upwards. Source: olmo/tokenizer.py (docs/reference.md#tokenizer).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import tokenizers

from stts_jax.buckets.address import path_of
from stts_jax.config import SPECIAL_TOKENS
from stts_jax.data.text.tokenizer_file import load_base, raise_unless_refused
from stts_jax.plain_files import FileError, read_json_object, reason
from stts_jax.quoting import shorten

TINY_FILE = Path(__file__).with_name("tiny_tokenizer.json")
CONFIG_FILE = "tokenizer_config.json"  # beside tokenizer.json in published models
# Ids without a token of their own; published models leave some hundreds.
MOST_FILLERS = 300_000
REMEMBERED_TEXTS = 20000  # times and questions come again and again
REMEMBERED_LENGTH = 1000  # characters; a server is asked any number of long ones
END_OF_TURN = "<|im_end|>"  # closes a turn; EOS where no configuration names another
# Numbered after the visual tokens. Only pointing models use them, but text that holds them must
# get the ids that it had in training.
POINT_TOKENS = ("<|points|>", "<|token_index|>", "<|vit_index|>", "<|vit_loc|>")
# Splits a special token that is meant as text; Unicode reserves it for uses inside of programs.
LITERAL_MARK = "\ufdd0"


class TokenizerError(ValueError):
    """A tokenizer that doesn't fit the model; the message is one sentence with the remedy."""


class Tokenizer:
    """A `tokenizers` tokenizer with the visual tokens added.

    Attributes:
      vocab_size: V, ids of the base vocabulary including fillers: 151936 for Qwen3, 100278 for
        OLMo3.
      eos_id: id of the token that ends answers.
      bos_id: id that every sequence starts with; `eos_id` where the tokenizer has no BOS.
      special_ids: id of each of `config.SPECIAL_TOKENS`.
    """

    def __init__(
        self,
        base: tokenizers.Tokenizer,
        vocab_size: int,
        eos: str = END_OF_TURN,
        bos: str | None = None,
    ) -> None:
        """Add fillers and visual tokens to `base`.

        Args:
          base: the model's own tokenizer.
          vocab_size: rows of the model's base embedding.
          eos: token that ends answers.
          bos: token that starts a sequence, None for `eos`.

        Raises:
          TokenizerError: if `base` has more tokens than rows, lacks `eos` or `bos`, or has the
            visual tokens under other ids.
        """
        size = base.get_vocab_size(with_added_tokens=True)
        if base.token_to_id(SPECIAL_TOKENS[0]) == vocab_size:
            size = vocab_size  # it was saved with the fillers and the visual tokens
        if size > vocab_size:
            raise TokenizerError(
                f"the tokenizer has {size} tokens, more than model.llm.vocab_size={vocab_size}; "
                "raise that or use another data.tokenizer"
            )
        if vocab_size - size > MOST_FILLERS:
            raise TokenizerError(
                f"model.llm.vocab_size={vocab_size} leaves {vocab_size - size} ids without a "
                f"token, as the tokenizer has {size}; use the data.tokenizer of the model"
            )
        self.vocab_size = vocab_size
        self.eos_id = _id_of(base, eos)
        self.bos_id = self.eos_id if bos is None else _id_of(base, bos)
        fillers = [f"|<EXTRA_TOKENS_{i}>|" for i in range(vocab_size - size)]
        base.add_special_tokens([*fillers, *SPECIAL_TOKENS, *POINT_TOKENS])
        self.special_ids: dict[str, int] = {
            name: cast(int, base.token_to_id(name)) for name in SPECIAL_TOKENS
        }
        for index, name in enumerate((*SPECIAL_TOKENS, *POINT_TOKENS)):
            token_id = base.token_to_id(name)
            if token_id != vocab_size + index:
                raise TokenizerError(
                    f"token '{name}' has id {token_id} instead of {vocab_size + index}; use a "
                    "tokenizer.json without the visual tokens"
                )
        self._base = base
        self._known: dict[str, list[int]] = {}
        self._control = _control_pattern(base, (eos, bos or eos, *SPECIAL_TOKENS, *POINT_TOKENS))

    @classmethod
    def load(cls, name_or_path: str, vocab_size: int) -> Tokenizer:
        """Read a tokenizer.

        EOS and BOS are what the `tokenizer_config.json` beside the file says; where there is none,
        EOS is `<|im_end|>`. Where it names no BOS, BOS is EOS, as in Qwen3
        (docs/reference.md#tokenizer).

        Args:
          name_or_path: `tiny` for the embedded one, or the path of a `tokenizer.json`.
          vocab_size: rows of the model's base embedding.

        Raises:
          TokenizerError: if there is no such file, or it doesn't fit.
        """
        path = TINY_FILE if name_or_path == "tiny" else path_of(name_or_path)
        try:
            there = path.is_file()
        except (OSError, ValueError):  # no name of a file at all
            there = False
        if not there:
            raise TokenizerError(
                f"tokenizer {shorten(path)} does not exist; set data.tokenizer to 'tiny' or to the "
                "path of a tokenizer.json"
            )
        try:
            base = load_base(path)
        except FileError as error:
            raise TokenizerError(
                f"tokenizer '{path}' cannot be read: {error}; use a tokenizer.json of a published "
                "model"
            ) from error
        return cls(base, vocab_size, **marks_beside(path))

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; nothing is added. Special tokens written out in it are recognised.

        Pieces of text are encoded one by one and joined as ids: the ids of a joined text may
        differ, as a line end and the one after it become one token. Special tokens that `literal`
        has marked are text.
        """
        known = self._known.get(text)
        if known is None:
            pieces = text.split(LITERAL_MARK)
            known = [token for piece in pieces for token in self._ids(piece)]
            if len(self._known) >= REMEMBERED_TEXTS:
                self._known.clear()
            if len(text) <= REMEMBERED_LENGTH:
                self._known[text] = known
        return list(known)

    def literal(self, value: Any) -> Any:
        """Marks special tokens in texts of users, so that `encode` takes them for text.

        Args:
          value: a text, or mappings and lists of texts at any depth; what is neither stays as is.
        """
        if isinstance(value, str):
            value = value.replace(LITERAL_MARK, "")
            while self._control.search(value):
                value = self._control.sub(lambda token: LITERAL_MARK.join(token[0]), value)
            return value
        return _mapped(self.literal, value)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids` up to the first EOS; one BOS at the front is left out.

        Negative ids are padding and left out. The reference keeps the text of a BOS that isn't the
        same as EOS; here it is left out as well.
        """
        kept = [int(i) for i in ids if i >= 0]
        if kept and kept[0] == self.bos_id:
            kept = kept[1:]
        if self.eos_id in kept:
            kept = kept[: kept.index(self.eos_id)]
        return self._text(kept)

    def _ids(self, text: str) -> list[int]:
        try:
            return self._base.encode(text, add_special_tokens=False).ids
        except BaseException as error:
            raise_unless_refused(error)
            raise TokenizerError(
                f"the tokenizer fails on the text {shorten(text)} ({reason(error)}); use another "
                "data.tokenizer, or other words"
            ) from error

    def _text(self, ids: Sequence[int]) -> str:
        try:
            return self._base.decode(ids, skip_special_tokens=False)
        except BaseException as error:
            raise_unless_refused(error)
            raise TokenizerError(
                f"the tokenizer fails on the ids {shorten(list(ids))} ({reason(error)}); use "
                "another data.tokenizer"
            ) from error


def without_marks(value: Any) -> Any:
    """Undoes `Tokenizer.literal`: texts as they are read by people."""
    if isinstance(value, str):
        return value.replace(LITERAL_MARK, "")
    return _mapped(without_marks, value)


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """`value` with its texts changed; keys of mappings stay."""
    if isinstance(value, Mapping):
        return {key: change(part) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(change(part) for part in value)
    return value


def _control_pattern(base: tokenizers.Tokenizer, named: Iterable[str]) -> re.Pattern[str]:
    """Finds the special tokens of a tokenizer, and those that are named, in a text."""
    added = base.get_added_tokens_decoder().values()
    texts = {*named, *(token.content for token in added if token.special)}
    # A token of one letter can't be split; none that is in use is so short.
    longest_first = sorted((text for text in texts if len(text) > 1), key=lambda text: -len(text))
    return re.compile("|".join(map(re.escape, longest_first)))


def _id_of(base: tokenizers.Tokenizer, token: str) -> int:
    token_id = base.token_to_id(token)
    if token_id is None:
        raise TokenizerError(
            f"the tokenizer has no {shorten(token)} token, which starts sequences or ends answers; "
            "use the tokenizer.json of an instruction-tuned model"
        )
    return token_id


def marks_beside(path: Path) -> dict[str, str]:
    """EOS and BOS as the `tokenizer_config.json` beside a file names them, for `Tokenizer`.

    Raises:
      TokenizerError: if that file can't be read, or names something else than tokens.
    """
    path = path.with_name(CONFIG_FILE)
    if not path.exists():
        return {}
    try:
        stated = read_json_object(path)
    except FileError as error:
        raise TokenizerError(
            f"{error}; copy it again, or remove it to use '{END_OF_TURN}'"
        ) from error
    return marks_in(stated, path)


def marks_in(stated: Mapping[str, Any], path: Path) -> dict[str, str]:
    """EOS and BOS as the content of a `tokenizer_config.json` names them; `path` is for messages.

    Raises:
      TokenizerError: if it names something else than tokens.
    """
    marks = {}
    for name in ("eos", "bos"):
        found = stated.get(f"{name}_token")
        # A token is given by its text, or by a table that has it as "content".
        text = found.get("content") if isinstance(found, dict) else found
        # Half of a pair of surrogates is in no text, but JSON can name it.
        sound = isinstance(text, str) and text and not re.search("[\ud800-\udfff]", text)
        if found is not None and not sound:
            raise TokenizerError(
                f"{name}_token in '{path}' is {shorten(found)}, which is no token; name one, or "
                "remove the line"
            )
        if text is not None:
            marks[name] = text
    return marks
