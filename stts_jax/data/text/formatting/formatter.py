"""Turns an annotation into messages: strings of user and assistant in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast, get_args

import numpy as np

from stts_jax.data.text.formatting.chat import wrap_messages
from stts_jax.data.text.formatting.fields import (
    Annotation,
    FormatterError,
    Mode,
    checked_text,
    describe,
    required,
    required_text,
)
from stts_jax.data.text.formatting.settings import FormatterSettings
from stts_jax.data.text.formatting.styles import join_tag, style_tag
from stts_jax.data.text.formatting.turns import TurnWriter

# Where the tokens of an image or video go; without it they go before all text.
MEDIA_TOKEN = "<|image|>"

_KEPT_FOR_METRICS = ("answer_idx", "answers", "answer", "points", "options")


@dataclass(frozen=True)
class Formatted:
    """The messages of an example, and its metadata.

    Attributes:
      messages: one conversation (user, assistant, user, ...), or for a tree a list of them, which
        share the example's image or video. In inference an answer that is to be written by the
        model is left out, so the number of messages is odd.
      metadata: what metrics need of the annotation, e.g. `option_names`; empty for a tree.
    """

    messages: list[str] | list[list[str]]
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def is_tree(self) -> bool:
        """Whether there are several conversations (or one that was listed as such)."""
        return bool(self.messages) and not isinstance(self.messages[0], str)


class Formatter:
    """Turns annotations into messages by `settings`. Source: docs/reference.md#text.

    An example is one annotation, or holds several of them in `message_list`, or ready-made
    `messages`. An annotation of a message list may itself be ready-made: a text, a list of texts,
    or a dict with `messages`; or a dict with `multi_turn_messages`, each of which is a turn.
    """

    def __init__(self, settings: FormatterSettings | None = None) -> None:
        self.settings = settings or FormatterSettings()

    def format(
        self, example: Mapping[str, Any], *, mode: Mode, rng: np.random.RandomState
    ) -> Formatted:
        """Messages of an example, which is left as it is.

        Args:
          example: the annotation's fields, and perhaps `image` or `video`; a video's `timestamps`
            (seconds of its frames) are needed by tracking questions.
          mode: "train", "eval" (answers are written, prompts vary less) or "inference".
          rng: the example's own generator. Prompts of captions and short answers are drawn in
            every mode.

        Errors: FormatterError, see `TurnWriter.write` and `style_tag`; also if an example has
          ready-made `messages` at its top and the settings write a tag, for which it has no style.
        """
        if mode not in get_args(Mode):
            raise FormatterError(f"mode is {mode!r}; choose from {', '.join(get_args(Mode))}")
        writer = TurnWriter(self.settings, mode, rng, _video_times(example))
        has_media = "image" in example or "video" in example
        if "message_list" in example:
            annotations = self._listed(example["message_list"], rng)
            return Formatted([self._conversation(one, writer, has_media)[0] for one in annotations])
        annotation = example.get("messages", example)
        return Formatted(*self._conversation(annotation, writer, has_media))

    def _listed(self, annotations: Sequence[Any], rng: np.random.RandomState) -> Sequence[Any]:
        """The annotations of a list that are kept, numbered if the settings say so."""
        if not len(annotations):
            raise FormatterError("'message_list' is empty; give at least one annotation")
        p_one = self.settings.p_one_message
        if p_one and rng.random() < p_one:
            return annotations[:1]
        if self.settings.format_message_list == "numbered_qa":
            return [_numbered(one, number) for number, one in enumerate(annotations, start=1)]
        return annotations

    def _conversation(
        self, annotation: Any, writer: TurnWriter, has_media: bool
    ) -> tuple[list[str], dict[str, Any]]:
        """Messages with tag and chat form, and what metrics need."""
        messages, metadata = _messages(annotation, writer)
        first, *rest = messages
        if self.settings.system_prompt != "none":
            tag = style_tag(_style(annotation), messages, self.settings, writer.mode, writer.rng)
            first = join_tag(tag, first)
        if self.settings.image_last and has_media and MEDIA_TOKEN not in first:
            first += MEDIA_TOKEN
        return wrap_messages([first, *rest], self.settings), metadata


def _messages(annotation: Any, writer: TurnWriter) -> tuple[list[str], dict[str, Any]]:
    """Messages without tag and chat form."""
    if isinstance(annotation, str):
        return [annotation], {}
    if not isinstance(annotation, Mapping):
        return _ready_made(annotation), {}
    metadata = {name: annotation[name] for name in _KEPT_FOR_METRICS if name in annotation}
    if "messages" in annotation:
        return _ready_made(annotation["messages"]), metadata
    if "multi_turn_messages" in annotation:
        return _multi_turn(annotation, writer), metadata
    turn = writer.write(annotation)
    metadata.update(turn.metadata)
    if writer.mode == "inference":
        return [turn.prompt], metadata
    return [turn.prompt, cast(str, turn.answer)], metadata  # None only in inference


def _ready_made(messages: Any) -> list[str]:
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise FormatterError(f"messages are {messages!r}; give a list of at least one text")
    return [checked_text(text, f"message {index}") for index, text in enumerate(messages)]


def _multi_turn(annotation: Annotation, writer: TurnWriter) -> list[str]:
    """Turn after turn; all of them need an answer, so this is not for inference."""
    messages = []
    for part in annotation["multi_turn_messages"]:
        turn = writer.write(part)
        if turn.answer is None:
            raise FormatterError(
                f"{describe(part)} is one of several turns and has no answer; format several "
                "turns for training or evaluation only"
            )
        messages += [turn.prompt, turn.answer]
    if not messages:
        raise FormatterError("'multi_turn_messages' is empty; give at least one turn")
    return messages


def _style(annotation: Any) -> str | None:
    """The style that the tag names; of several turns that of the first."""
    if not isinstance(annotation, Mapping):
        return None
    if "multi_turn_messages" in annotation:
        return required(annotation["multi_turn_messages"][0], "style")
    return annotation.get("style")


def _numbered(annotation: Annotation, number: int) -> dict[str, Any]:
    """The annotation with "Q1: " and "A1: " before question and answer.

    The blank before the Q is the reference's: it was meant for all but the first.
    """
    question, answer = (required_text(annotation, name) for name in ("question", "answer"))
    return {
        **annotation,
        "question": f" Q{number}: {question}",
        "answer": f"A{number}: {answer}",
    }


def _video_times(example: Mapping[str, Any]) -> np.ndarray | None:
    """Seconds of the frames of the example's video, a loaded one or a mapping."""
    video = example.get("video")
    if isinstance(video, Mapping):
        return video.get("timestamps")
    return getattr(video, "timestamps", None)
