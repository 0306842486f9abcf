"""One question and its answer from an annotation, by the prompt rules of the settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stts_jax.data.text.formatting import multiple_choice, point_turns, styles
from stts_jax.data.text.formatting.fields import (
    Annotation,
    FormatterError,
    Mode,
    checked_text,
    describe,
    required,
    required_text,
)
from stts_jax.data.text.formatting.multi_image_points import multi_image_turn
from stts_jax.data.text.formatting.settings import FormatterSettings
from stts_jax.data.text.formatting.templates import draw_one, draw_prompt
from stts_jax.data.text.formatting.timestamps import prompt_times

_BARE_TIME_DECIMALS = 2


@dataclass(frozen=True)
class Turn:
    """A prompt, its answer (None if the rules leave it open), and metadata for metrics."""

    prompt: str
    answer: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


class TurnWriter:
    """Writes turns; everything drawn comes from `rng`, in the order of the reference.

    Args:
      video_times: (n,) seconds of the sampled frames; needed by tracking questions only.
    """

    def __init__(
        self,
        settings: FormatterSettings,
        mode: Mode,
        rng: np.random.RandomState,
        video_times: np.ndarray | None = None,
    ) -> None:
        self.settings = settings
        self.mode = mode
        self.rng = rng
        self.video_times = video_times

    def write(self, annotation: Annotation) -> Turn:
        """Prompt by the first rule that fits, then the answer unless that rule has given it.

        In inference the answer is None where only the annotation's fields hold it. Source: DATA
        4.2.

        Errors: FormatterError if a field is missing, if nothing is worded for the style, or,
        outside inference, if there is no answer.
        """
        if "prompt" in annotation:
            turn = Turn(annotation["prompt"])
        elif self.settings.prompt_templates == "none":
            turn = self._bare(annotation)
        else:
            turn = self._worded(annotation)
        checked_text(turn.prompt, f"the prompt of {describe(annotation)}")
        if turn.answer is not None or self.mode == "inference":
            return turn
        answer = checked_text(self._answer(annotation), f"the answer of {describe(annotation)}")
        return Turn(turn.prompt, answer, turn.metadata)

    def _bare(self, annotation: Annotation) -> Turn:
        """Rules of "none": the fields themselves."""
        if annotation.get("style") in styles.IMAGE_POINT_STYLES:
            return self._image_points(annotation, worded=False)
        if multiple_choice.has_options(annotation):
            return self._choice(
                annotation, multiple_choice.older_form(annotation, self.settings, self.rng)
            )
        if "timestamp" in annotation:
            return Turn(_bare_time(annotation, "timestamp"))
        if "start_time" in annotation:
            start, end = (_bare_time(annotation, name) for name in ("start_time", "end_time"))
            return Turn(f"{start}-{end}")
        return Turn(annotation.get("question", ""))

    def _worded(self, annotation: Annotation) -> Turn:
        """Rules of "uber_model" and "uber_model_v2", which differ in multiple choice only.

        A style that no rule knows, without a question, has an empty prompt, so that its tag is all
        there is; the reference has trained such prompts (docs/reference.md#what-is-odd).
        """
        style = required_text(annotation, "style")
        if style in styles.CAPTION_STYLES and "question" not in annotation:
            return Turn(self._draw(style, annotation))
        if style in styles.FRAME_STYLES:
            return self._timed(annotation, "timestamp")
        if style in styles.CLIP_STYLES:
            return self._timed(annotation, "start_time", "end_time")
        if style in styles.SHORT_ANSWER_STYLES:
            return Turn(self._draw(style, annotation))
        if "_exp" in style:
            return Turn(self._draw("chain_of_thought", annotation))
        if style in styles.IMAGE_POINT_STYLES:
            return self._image_points(annotation, worded=True)
        if style in styles.TRACK_STYLES:
            return self._track(annotation)
        if style in styles.VIDEO_POINT_STYLES:
            return self._video_points(annotation)
        if style in styles.MULTI_IMAGE_POINT_STYLES:
            return self._multi_image_points(annotation)
        if multiple_choice.has_options(annotation):
            return self._worded_choice(annotation)
        return Turn(annotation.get("question", ""))

    def _draw(self, style: str, values: Mapping[str, Any]) -> str:
        return draw_prompt(style, values, self.rng, first=self.settings.debug)

    def _timed(self, annotation: Annotation, *names: str) -> Turn:
        values = [required(annotation, name) for name in names]
        in_seconds, texts = prompt_times(values, self.settings, self.rng)
        style = annotation["style"] + ("_in_seconds" if in_seconds else "")
        return Turn(self._draw(style, {**annotation, **dict(zip(names, texts, strict=True))}))

    def _worded_choice(self, annotation: Annotation) -> Turn:
        if self.settings.prompt_templates == "uber_model_v2":
            choice = multiple_choice.template_options(
                annotation, training=self.mode == "train", rng=self.rng
            )
        else:
            choice = multiple_choice.older_templated_form(annotation, self.settings, self.rng)
        return self._choice(annotation, choice)

    def _choice(self, annotation: Annotation, choice: multiple_choice.MultipleChoice) -> Turn:
        output = multiple_choice.right_output(annotation, choice)
        return Turn(choice.prompt, output, {"option_names": choice.names})

    def _image_points(self, annotation: Annotation, *, worded: bool) -> Turn:
        if "question" in annotation:
            prompt = annotation["question"]
        else:
            prompt = point_turns.image_point_label(annotation)
            if worded:
                prompt = self._draw(annotation["style"], {**annotation, "label": prompt})
        return Turn(prompt, point_turns.image_point_answer(annotation, self.settings))

    def _video_points(self, annotation: Annotation) -> Turn:
        if "question" in annotation:
            prompt = annotation["question"]
        else:
            prompt = self._draw(annotation["style"], annotation)
        answer = point_turns.video_point_answer(annotation, self.settings)
        return Turn(prompt, answer, {**annotation.get("metadata", {}), "answer": answer})

    def _multi_image_points(self, annotation: Annotation) -> Turn:
        prompt, answer = multi_image_turn(annotation, self.settings, self.rng)
        return Turn(prompt, answer, {**annotation.get("metadata", {}), "answer": answer})

    def _track(self, annotation: Annotation) -> Turn:
        prompt, answer = point_turns.track_turn(
            annotation, self.video_times, self.settings, self.rng, training=self.mode == "train"
        )
        return Turn(prompt, answer)

    def _answer(self, annotation: Annotation) -> str | None:
        """Returns the answer in the annotation's own fields."""
        if "answers" in annotation:
            return self._one_answer(annotation["answers"])
        if "answer" in annotation:
            answer = annotation["answer"]
            if "answer_annotations" in annotation:
                return point_turns.text_with_points(
                    answer, annotation["answer_annotations"], self.settings
                )
            if "explanation" in annotation:
                explanation = required_text(annotation, "explanation")
                return f"{explanation} Answer: {required_text(annotation, 'answer')}"
            return answer
        for name in ("answer_with_points", "text"):
            if name in annotation:
                return annotation[name]
        raise FormatterError(
            f"{describe(annotation)} has no answer; add 'answer', 'answers', 'text' or, to an "
            "'answer_idx', 'options', or format it for inference"
        )

    def _one_answer(self, answers: Sequence[str] | str | None) -> str | None:
        """One of several answers: the lowest, or the most frequent, ties being drawn."""
        if answers is None or isinstance(answers, str):
            return answers
        if not len(answers):
            raise FormatterError("'answers' is empty; give at least one answer")
        if self.settings.select_answer == "first":
            return min(answers)
        counts = Counter(answers)
        highest = max(counts.values())
        frequent = [answer for answer, count in counts.items() if count == highest]
        return draw_one(frequent, self.rng)


def _bare_time(annotation: Annotation, name: str) -> str:
    value = required(annotation, name)
    if isinstance(value, str):
        raise FormatterError(
            f"'{name}' of {describe(annotation)} is {value!r}; without prompt templates give "
            "seconds as a number"
        )
    return str(round(value, _BARE_TIME_DECIMALS))
