"""Splits texts into words for comparison, without spelling that means nothing.

Case, quotation marks, brackets and the punctuation of sentences go, and so do articles before a
word. Signs that change what is said stay as words of their own: +, -, /, %, # and their like, a
colon between digits, and the dash of "3-4". Unicode's forms of a sign are ASCII's. Numbers are
compared by value: "2" is "2.0" and "1,000" is "1000". A comma that groups no thousands is no
decimal point, since "1,5" may be a list, so it equals itself alone; and so do digits that begin
with a zero, as "007" or the minutes of "10:05".
"""

from __future__ import annotations

import re
import unicodedata

SPECIAL_TOKEN = re.compile(r"<\|[^|<>]*\|>")

_SAME_SIGNS = {
    "'": "\u2018\u2019\u201a\u201b\u2032`\u00b4",
    '"': "\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb",
    "-": "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe63",
    ".": "\u3002\uff61",
    ",": "\u3001\u060c\uff64",
    "/": "\u2044\u2215",
    ":": "\u2236",
    " ": "\u3000",
    "...": "\u2026",
}
_FULL_WIDTH = range(0xFF01, 0xFF5F)
_ASCII_SIGNS = {ord(form): sign for sign, forms in _SAME_SIGNS.items() for form in forms} | {
    code: chr(code - 0xFEE0) for code in _FULL_WIDTH
}
# Of Unicode's category "other punctuation", what only ends or divides sentences.
_SENTENCE_SIGNS = frozenset(
    "!?;,.:\u00a1\u00bf\u00b7\u2022\u2025\u061b\u061f\u06d4\u0964\u0965\u30fb\uff65"
)
_BRACKETS_AND_QUOTES = ("Ps", "Pe", "Pi", "Pf")
_WRAPPERS = ("**", "__", '"', "'", "*", "_")

_LEADING_ARTICLE = re.compile(r"^(?:a|an|the) +(?=[^\W\d_]{2})", re.IGNORECASE)
_INNER_ARTICLE = re.compile(r"(?<= )(?:a|an|the) +(?=[^\W\d_]{2})")
_DIGITS_THEN_LETTERS = re.compile(r"([+-]?[\d.,]*\d)([^\W\d].*)", re.DOTALL)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?")
_NUMBER = re.compile(r"([+-]?)(0|[1-9]\d*|(?=\.))(?:\.(\d+))?")


def words(text: str, *, articles: bool = False, case: bool = False) -> tuple[str, ...]:
    """Returns the words of a text that count, none only for a blank text.

    Args:
      text: any.
      articles: keep articles.
      case: keep capitals.
    """
    text = _unwrapped(" ".join(folded(SPECIAL_TOKEN.sub(" ", text)).split()))
    kept = text
    if not articles:
        text = _INNER_ARTICLE.sub("", _LEADING_ARTICLE.sub("", text))
    spaced = "".join(_spaced(text, index) for index in range(len(text)))
    found = tuple(part for word in spaced.split() for part in _parts(word))
    found = found or ((kept,) if kept else ())
    return found if case else tuple(word.casefold() for word in found)


def same_answer(given: str, expected: str) -> bool:
    """Returns whether two short answers say the same; an empty one equals nothing."""
    said = words(given)
    return bool(said) and said == words(expected)


def folded(text: str) -> str:
    """Returns a text with ASCII's signs and digits for Unicode's forms of them."""
    text = unicodedata.normalize("NFC", text).translate(_ASCII_SIGNS)
    return "".join(map(_plain_character, text))


def _plain_character(character: str) -> str:
    kind = unicodedata.category(character)
    if kind == "Nd":
        return str(unicodedata.digit(character))
    if kind == "Cf":  # shows nothing
        return ""
    return " " if kind == "Cc" else character


def _unwrapped(text: str) -> str:
    """The text without quotation marks or marks of emphasis around the whole of it."""
    for mark in _WRAPPERS:
        inner = text[len(mark) : -len(mark)]
        wrapped = text.startswith(mark) and text.endswith(mark)
        if wrapped and inner.strip() and mark not in inner:
            return _unwrapped(inner.strip())
    return text


def _is_word(character: str) -> bool:
    return character == "_" or unicodedata.category(character or " ")[0] in "LMN"


def _spaced(text: str, index: int) -> str:
    """Returns a character as it is compared: itself, apart from its neighbours, or a space."""
    character = text[index]
    if _is_word(character):
        return character
    before, after = text[index - 1 : index], text[index + 1 : index + 2]
    between_digits = before.isdecimal() and after.isdecimal()
    apart = f" {character} "
    if character == ".":
        decimal = after.isdecimal() and not _is_word(before)
        return character if decimal or (_is_word(before) and _is_word(after)) else " "
    if character == ",":
        return character if between_digits else " "
    if character == ":":
        return apart if between_digits else " "
    if character in "'\"":
        if character == "'" and before.isalpha() and after.isalpha():
            return character
        return apart if before.isdecimal() else " "  # feet and inches
    if character in "+-" and not _is_word(before) and _begins_number(text[index + 1 :]):
        return f" {character}"
    if character == "-":
        return apart if _hyphen_counts(text, index) else " "
    kind = unicodedata.category(character)
    dropped = character in _SENTENCE_SIGNS or kind in _BRACKETS_AND_QUOTES or kind[0] == "Z"
    return " " if dropped else apart


def _begins_number(text: str) -> bool:
    return text.removeprefix(".")[:1].isdecimal()


def _hyphen_counts(text: str, index: int) -> bool:
    """Whether a hyphen is a sign ("3-4", "A-", "-x") and not one within or between words."""
    before, after = text[index - 1 : index], text[index + 1 : index + 2]
    if before.isdecimal() and after.isdecimal():
        return True
    if _is_word(before) and _is_word(after):
        return False
    if before.strip() or after.strip():
        return True
    last = text[index + 1 :].lstrip()[:1]
    return last.isdecimal() or not last  # "- red" is an entry of a list, "red - blue" a dash


def _parts(word: str) -> tuple[str, ...]:
    """A word, or a number and the letters after it: "5m" is "5 m"."""
    found = _DIGITS_THEN_LETTERS.fullmatch(word)
    return (_number(found[1]), found[2]) if found else (_number(word),)


def _number(word: str) -> str:
    """One spelling for each value of a number; other words as they are."""
    plain = word.replace(",", "") if _THOUSANDS.fullmatch(word) else word
    found = _NUMBER.fullmatch(plain)
    if not found:
        return word
    sign, whole, fraction = found[1], found[2] or "0", (found[3] or "").rstrip("0")
    value = f"{whole}.{fraction}" if fraction else whole
    return f"-{value}" if sign == "-" and value != "0" else value
