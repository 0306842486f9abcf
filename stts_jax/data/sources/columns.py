"""Which fields of records of other names say what those of our own lines do."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from stts_jax.data.sources.checked_fields import OwnDataError, shown
from stts_jax.data.sources.foreign_lines import is_foreign
from stts_jax.data.sources.own_line import KNOWN_FIELDS

TEXTS = ("question", "answer", "caption", "type", "id")
MEDIA = ("video", "videos", "video_path", "image", "images")
ASKED = ("question", "answer", "options", "caption", "turns")
_NAMED = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True)
class Columns:
    """Which fields of other names say what ours do; None for a field that is not to be set.

    Attributes:
      video, image: path of the file, with names of fields in braces: `videos/{video_id}.mp4`.
      question, answer, caption, type, id: name of the field.
    """

    video: str | None = None
    image: str | None = None
    question: str | None = None
    answer: str | None = None
    caption: str | None = None
    type: str | None = None
    id: str | None = None

    def of(self, record: dict[str, Any], where: str) -> dict[str, Any]:
        """Returns the fields of our line of a record.

        Raises:
          OwnDataError: if it lacks one that is named.
        """
        found: dict[str, Any] = {}
        for name in TEXTS:
            if (source := getattr(self, name)) is not None:
                found[name] = _value(record, source, where)
        if self.video is not None:
            found["video"] = _filled(self.video, record, where)
        if self.image is not None:
            found["images"] = [_filled(self.image, record, where)]
        return found

    @property
    def sources(self) -> set[str]:
        """The fields that are named."""
        patterns = [pattern for pattern in (self.video, self.image) if pattern is not None]
        named = {getattr(self, name) for name in TEXTS} - {None}
        return named.union(*map(_NAMED.findall, patterns))

    def keeps(self, name: str, record: dict[str, Any]) -> bool:
        """Whether a field of a record stays beside those that are named."""
        if name in MEDIA and (self.video is not None or self.image is not None):
            return False
        if is_foreign(record) and not self.asks:
            return True
        if name not in ASKED:
            return name in KNOWN_FIELDS
        if name in self.sources or self.caption is not None:
            return False
        return not self.asks or name in ("answer", "options")

    @property
    def any(self) -> bool:
        """Whether a field is named."""
        return any(value is not None for value in vars(self).values())

    @property
    def asks(self) -> bool:
        """Whether what is asked is named, so that nothing else that a record asks counts."""
        return self.question is not None or self.caption is not None


def _value(record: dict[str, Any], name: str, where: str) -> Any:
    if record.get(name) is None:
        raise OwnDataError(
            f"{where}: there is no field '{name}'; it has {shown(', '.join(map(str, record)))}"
        )
    return record[name]


def _filled(pattern: str, record: dict[str, Any], where: str) -> str:
    return _NAMED.sub(lambda found: str(_value(record, found[1], where)), pattern)
