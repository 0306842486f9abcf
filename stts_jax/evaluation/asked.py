"""Turns a question of a user into a line of a file of own data, and that into an example."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from stts_jax.config import Config
from stts_jax.data.datasets.base import SourceExample
from stts_jax.data.embedded import EmbeddedPicture
from stts_jax.data.images.image import ImageError
from stts_jax.data.media_file import require_content
from stts_jax.data.sources.own_data import example_of
from stts_jax.data.sources.own_line import Line, parse
from stts_jax.data.stored_media import StoredVideo
from stts_jax.data.text.prompts import plainly_worded
from stts_jax.data.video.reading import VideoError

WHERE = "question"
_NOTHING = "nothing"


@dataclass(frozen=True)
class Asked:
    """Media and what is asked about them; the fields are those of a line (docs/data.md).

    Attributes:
      video: file, None if there are images, or text alone.
      question: empty to look only at what is kept.
      options: to choose the answer from, if any.
      images: files, or their content.
      clip: first and last second of the video that are shown.
      subtitle: of the video.
      stored: the content of the video, where it is in memory; `video` is its name then.
      earlier: questions and answers of the same conversation, before the question.
    """

    video: Path | None
    question: str = ""
    options: tuple[str, ...] = ()
    images: tuple[Path | EmbeddedPicture, ...] = ()
    clip: tuple[float, float] | None = None
    subtitle: str | None = None
    stored: StoredVideo | None = None
    earlier: tuple[tuple[str, str], ...] = ()

    def example(self, config: Config, answer: str | None = None) -> SourceExample:
        """Returns the example of the line, worded as the run's are.

        Args:
          config: of the run.
          answer: that the line has, by default any: a prompt doesn't show it.

        Raises:
          OwnDataError: if a file of own data couldn't say so.
        """
        source = example_of(self._line(answer), Path())
        source = dataclasses.replace(source, images=self.images, stored=self.stored)
        return plainly_worded(source) if config.data.wording == "plain" else source

    def require_valid(self) -> None:
        """Raise an `OwnDataError` if a line of own data couldn't say so."""
        self._line(None)

    def require_files(self) -> None:
        """Raises a `VideoError` or `ImageError` if a video or picture is no file with content."""
        if self.video is not None and self.stored is None:
            require_content(self.video, "a video file", VideoError)
        for image in self.images:
            if isinstance(image, Path):
                require_content(image, "a picture", ImageError)

    def _line(self, answer: str | None) -> Line:
        return parse(json.dumps(self._fields(answer)), WHERE, WHERE)

    def _fields(self, answer: str | None) -> dict[str, object]:
        media = {
            "video": None if self.video is None else str(self.video),
            # A line is about something; `example` leaves this out of a question about nothing.
            "images": list(map(str, self.images)) or ([_NOTHING] if self.video is None else None),
            "clip": None if self.clip is None else list(self.clip),
            "subtitle": self.subtitle,
        }
        if not self.question and not self.options:
            return {**media, "caption": "-"}
        if self.earlier:
            turns = [*self.earlier, (self.question, "-")]
            asked_turns = [{"question": question, "answer": said} for question, said in turns]
            return {**media, "turns": asked_turns, "options": list(self.options) or None}
        some = self.options[0] if self.options else "-"
        asked = {"question": self.question, "answer": some if answer is None else answer}
        return {**media, **asked, "options": list(self.options) or None}
