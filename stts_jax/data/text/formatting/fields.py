"""Reading the fields of an annotation, with one clear error where they are wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Annotation = Mapping[str, Any]

# train: prompts vary and the answer is written. eval: the answer is written, for a loss.
# inference: the model is to write the answer.
Mode = Literal["train", "eval", "inference"]


class FormatterError(ValueError):
    """An annotation or setting that cannot be formatted; one sentence that names it."""


def describe(annotation: Annotation) -> str:
    """Returns an annotation's name in errors: its style and the fields that it has."""
    fields = ", ".join(sorted(map(str, annotation)))
    return f"the annotation of style {annotation.get('style')!r} with the fields [{fields}]"


def required(annotation: Annotation, name: str) -> Any:
    """The field `name`; FormatterError if there is none."""
    if name not in annotation:
        raise FormatterError(f"{describe(annotation)} has no '{name}'; add this field")
    return annotation[name]


def required_text(annotation: Annotation, name: str) -> str:
    """The field `name`; FormatterError if there is none or if it is no text."""
    return checked_text(required(annotation, name), f"'{name}' of {describe(annotation)}")


def checked_text(value: Any, what: str) -> str:
    """`value` if it is a text, else FormatterError naming `what`."""
    if not isinstance(value, str):
        raise FormatterError(f"{what} is {value!r}, which is not text; give it as a string")
    return value
