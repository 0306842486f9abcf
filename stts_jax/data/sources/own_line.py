"""One line of users' own data: checking and parsing it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from stts_jax.data.sources.checked_fields import Fields, OwnDataError, is_seconds, shown
from stts_jax.data.sources.foreign_lines import (
    ForeignLineError,
    is_foreign,
    own_fields,
    skipped_fields,
)
from stts_jax.plain_files import unique_names

KNOWN_FIELDS = (
    "video",
    "images",
    "clip",
    "subtitle",
    "question",
    "answer",
    "options",
    "caption",
    "turns",
    "type",
    "id",
)
SUBTITLE_FILES = (".srt", ".vtt")
OTHER_SUBTITLE_FILES = (".ass", ".ssa", ".sbv", ".ttml", ".lrc", ".sub", ".smi", ".txt", ".json")


@dataclass(frozen=True)
class Line:
    """A line that is right.

    Attributes:
      id: given, or the same as `location`.
      location: the file's name and the number of the line.
      video: path as it is written, None if there is none.
      images: paths as they are written.
      clip: first and last second that are shown.
      subtitle: a text, the path of a file as it is written where `subtitle_is_file`, or lines of
        (start, end, text) in seconds of the whole video.
      turns: questions and answers, several if they are asked one after the other.
      options: of the only question; its answer is one of them.
      caption: instead of turns.
      type: what results are grouped by.
      skipped: fields of another format that are not read.
      unlearnt: numbers of turns, from 0, whose answers are not learnt; not of the last.
    """

    id: str
    location: str
    video: str | None = None
    images: tuple[str, ...] = ()
    clip: tuple[float, float] | None = None
    subtitle: str | tuple[tuple[float, float, str], ...] | None = None
    turns: tuple[tuple[str, str], ...] = ()
    options: tuple[str, ...] | None = None
    caption: str | None = None
    type: str | None = None
    skipped: tuple[str, ...] = ()
    unlearnt: tuple[int, ...] = ()

    @property
    def subtitle_is_file(self) -> bool:
        """Whether the subtitle is the path of a file."""
        return isinstance(self.subtitle, str) and names_subtitle_file(self.subtitle)

    @property
    def names_absolute(self) -> bool:
        """Whether a file is named by an absolute path."""
        named = [*self.images, *([self.video] if self.video else [])]
        if self.subtitle_is_file:
            named.append(str(self.subtitle).strip())
        return any(path.startswith("/") for path in named)

    @property
    def metadata(self) -> dict[str, Any]:
        """Returns the metadata that a metric needs to judge the last answer."""
        metadata: dict[str, Any] = {} if self.type is None else {"type": self.type}
        if self.turns:
            question, answer = self.turns[-1]
            metadata |= {"question": question, "answer": answer}
            if self.options is not None:
                metadata |= {
                    "options": list(self.options),
                    "answer_idx": self.options.index(answer),
                }
        if self.caption is not None:
            metadata["answer"] = self.caption
        return metadata


def parse(text: str, where: str, location: str) -> Line:
    """Parse a line.

    Args:
      text: of the line.
      where: file and number of the line, for errors.
      location: name of the file and number of the line, which is its id where it has none.

    Raises:
      OwnDataError: if it is wrong.
    """
    return parse_value(json_value(text, where), where, location)


def json_value(text: str, where: str) -> Any:
    """The value of a line's JSON; OwnDataError if it is none."""
    try:
        return json.loads(text, object_pairs_hook=unique_names)
    except (ValueError, RecursionError) as error:
        reason = "too deeply nested" if isinstance(error, RecursionError) else error
        raise OwnDataError(
            f"{where}: not valid JSON ({reason}); write one object per line"
        ) from error


def parse_value(values: Any, where: str, location: str) -> Line:
    """The line of a JSON value; see `parse`."""
    if not isinstance(values, dict):
        raise OwnDataError(f"{where}: {shown(values)} is not a JSON object; write {{...}}")
    try:
        if not is_foreign(values):
            return _line(Fields(values, where), location)
        line = _line(Fields(own_fields(values), where), location)
        return replace(line, skipped=skipped_fields(values))
    except ForeignLineError as error:
        raise OwnDataError(f"{where}: {error}") from error
    except RecursionError as error:
        raise OwnDataError(f"{where}: it is too deeply nested; write it flatter") from error


def _line(fields: Fields, location: str) -> Line:
    fields.require_known(KNOWN_FIELDS)
    turns, options, caption, unlearnt = _asked(fields)
    named = fields.name("id")
    return Line(
        id=location if named is None else named,
        location=location,
        **_media(fields),
        turns=turns,
        options=options,
        caption=caption,
        type=fields.name("type"),
        unlearnt=unlearnt,
    )


def names_subtitle_file(text: str) -> bool:
    """Whether a subtitle is the path of a file that is read: one line that ends in .srt or .vtt."""
    return _names_file(text, SUBTITLE_FILES)


def _names_file(text: str, endings: tuple[str, ...]) -> bool:
    return "\n" not in text.strip() and text.strip().lower().endswith(endings)


# ---------------------------------------------------------------------------- what is looked at


def _media(fields: Fields) -> dict[str, Any]:
    """The arguments of `Line` that are about media."""
    if not fields.has("video") and not fields.has("images"):
        raise OwnDataError(
            f"{fields.where}: field 'video' is missing, and so is 'images'; add one of them"
        )
    if not fields.has("video"):
        for key in ("clip", "subtitle"):
            if fields.has(key):
                raise fields.error(key, "it goes with a video; add 'video', or remove it")
    elif fields.has("images"):
        raise fields.error(
            "images", "there is 'video' too, and an example shows one of them; remove the other"
        )
    return {
        "video": fields.text("video") if fields.has("video") else None,
        "images": fields.texts("images", 1) if fields.has("images") else (),
        "clip": _clip(fields) if fields.has("clip") else None,
        "subtitle": _subtitle(fields) if fields.has("subtitle") else None,
    }


def _clip(fields: Fields) -> tuple[float, float]:
    clip = fields.values["clip"]
    pair = isinstance(clip, list) and len(clip) == 2 and all(map(is_seconds, clip))
    if not pair or clip[0] >= clip[1]:
        raise fields.error("clip", "write [start, end] in seconds, the start before the end")
    return float(clip[0]), float(clip[1])


def _subtitle(fields: Fields) -> str | tuple[tuple[float, float, str], ...]:
    if not isinstance(fields.values["subtitle"], list):
        text = fields.text("subtitle")
        if names_subtitle_file(text):
            fields.require_path(text, "subtitle")
        elif _names_file(text, OTHER_SUBTITLE_FILES):
            raise fields.error(
                "subtitle", f"files are read that end in {', '.join(SUBTITLE_FILES)}; convert it"
            )
        return text
    lines = []
    for part in fields.parts("subtitle", ("start", "end", "text")):
        start, end = part.seconds("start"), part.seconds("end")
        if start > end:
            raise part.error("end", f"it must not be before the start, {start:g}")
        lines.append((start, end, part.text("text")))
    return tuple(lines)


# -------------------------------------------------------------------------------- what is asked


def _asked(
    fields: Fields,
) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...] | None, str | None, tuple[int, ...]]:
    """Turns, options and caption, and turns that are not learnt; a line has turns or a caption."""
    forms = [key for key in ("question", "caption", "turns") if fields.has(key)]
    if not forms and "question" not in fields.values and not fields.has("options"):
        raise OwnDataError(
            f"{fields.where}: field 'question' is missing, and so are 'caption' and 'turns'; "
            "add one of them"
        )
    if len(forms) > 1:
        raise fields.error(
            forms[1], f"there is '{forms[0]}' too; write two lines about the same media"
        )
    if "question" not in forms and fields.has("options"):
        raise fields.error("options", "they go with one question; add 'question', or remove them")
    if forms and forms[0] != "question" and fields.has("answer"):
        raise fields.error("answer", f"it goes with 'question', not with '{forms[0]}'; remove it")
    if forms == ["caption"]:
        return (), None, fields.text("caption"), ()
    if forms == ["turns"]:
        turns, unlearnt = _turns(fields)
        return turns, None, None, unlearnt
    question, answer = fields.text("question"), fields.text("answer")
    return ((question, answer),), _options(fields, answer), None, ()


def _turns(fields: Fields) -> tuple[tuple[tuple[str, str], ...], tuple[int, ...]]:
    """Turns to the last one that is learnt, and which before it are not."""
    parts = fields.parts("turns", ("question", "answer", "weight"))
    turns = tuple((part.text("question"), part.text("answer")) for part in parts)
    learnt = [_is_learnt(part) for part in parts]
    if not any(learnt):
        raise fields.error("turns", "no answer of it is learnt, as all have a weight of 0")
    count = len(learnt) - learnt[::-1].index(True)
    return turns[:count], tuple(n for n in range(count) if not learnt[n])


def _is_learnt(turn: Fields) -> bool:
    weight = turn.values.get("weight")
    if weight is not None and weight not in (0, 1):
        raise turn.error("weight", "write 0 for an answer that is not learnt, or leave it out")
    return weight is None or weight == 1


def _options(fields: Fields, answer: str) -> tuple[str, ...] | None:
    if not fields.has("options"):
        return None
    options = fields.texts("options", 2)
    if len(set(options)) < len(options):
        raise fields.error("options", "an option is there twice; remove it")
    if answer not in options:
        raise fields.error(
            "answer", f"it is not one of the options {shown(list(options))}; write the text of one"
        )
    return options
