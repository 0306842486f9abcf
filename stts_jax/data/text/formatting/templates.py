"""The list of wordings of each style, and drawing and filling one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stts_jax.data.text.formatting import point_templates as points
from stts_jax.data.text.formatting import question_templates as questions
from stts_jax.data.text.formatting import track_templates as tracks
from stts_jax.data.text.formatting.fields import FormatterError, required_text

_FIELD = re.compile(r"{([^{}]+)}")


def _about_video(wordings: tuple[str, ...], *words: str) -> tuple[str, ...]:
    """The wordings for images with each of `words` replaced by "video"."""
    for word in words:
        wordings = tuple(wording.replace(word, "video") for wording in wordings)
    return wordings


def _in_seconds(wordings: tuple[str, ...], field: str) -> tuple[str, ...]:
    """The wordings with " seconds" after the time in `field`."""
    return tuple(wording.replace(field, f"{field} seconds") for wording in wordings)


_PICTURES = ("image", "picture", "photo")
TRACK_WITHOUT_FPS_STYLE = "video_point_track_per_frame_default_fps"

# Style (or the part of one that is drawn) -> its wordings, in the order that draws refer to.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "plain": ("{question}",),
    "short_answer": questions.SHORT_ANSWER,
    "short_caption": questions.SHORT_CAPTION,
    "long_caption": questions.LONG_CAPTION,
    "transcript": questions.TRANSCRIPT,
    "chain_of_thought": questions.CHAIN_OF_THOUGHT,
    "multiple_choice": questions.MULTIPLE_CHOICE,
    "video_short_answer": _about_video(questions.SHORT_ANSWER, "image"),
    "video_short_caption": _about_video(questions.SHORT_CAPTION, *_PICTURES),
    "video_long_caption": _about_video(questions.LONG_CAPTION, *_PICTURES),
    "video_transcript": _about_video(questions.TRANSCRIPT, "image"),
    "video_motion_caption": questions.VIDEO_MOTION_CAPTION,
    "video_object_caption": questions.VIDEO_OBJECT_CAPTION,
    "video_clip_caption_start_end": questions.VIDEO_CLIP_CAPTION,
    "video_clip_caption_start_end_in_seconds": _in_seconds(
        questions.VIDEO_CLIP_CAPTION, "{end_time}"
    ),
    "video_clip_transcript_start_end": questions.VIDEO_CLIP_TRANSCRIPT,
    "video_clip_transcript_start_end_in_seconds": _in_seconds(
        questions.VIDEO_CLIP_TRANSCRIPT, "{end_time}"
    ),
    "video_frame_caption_timestamp": questions.VIDEO_FRAME_CAPTION,
    "video_frame_caption_timestamp_in_seconds": _in_seconds(
        questions.VIDEO_FRAME_CAPTION, "{timestamp}"
    ),
    "video_multiple_choice": questions.MULTIPLE_CHOICE,
    "video_multiple_choice_w_subtitle": questions.MULTIPLE_CHOICE,
    "video_multiple_choice_multiple_correct": questions.MULTIPLE_CORRECT,
    "pointing": points.POINTING,
    "point_count": points.POINT_COUNT,
    "count_then_point": points.COUNT_THEN_POINT,
    "only_count": points.ONLY_COUNT,
    "video_point": _about_video(points.POINTING, *_PICTURES),
    "video_point_count": _about_video(points.POINT_COUNT, *_PICTURES),
    "video_count": _about_video(points.ONLY_COUNT, *_PICTURES),
    "video_count_point": _about_video(points.COUNT_THEN_POINT, *_PICTURES),
    "multi_image_pointing": points.MULTI_IMAGE_POINTING,
    "multi_image_counting": points.MULTI_IMAGE_COUNTING,
    "multi_image_point_then_count": points.MULTI_IMAGE_POINT_THEN_COUNT,
    "multi_image_count_then_point": points.MULTI_IMAGE_COUNT_THEN_POINT,
    "video_point_track_per_frame": tracks.TRACK,
    TRACK_WITHOUT_FPS_STYLE: tracks.TRACK_WITHOUT_FPS,
    "video_point_ground_start_end": tracks.FIRST_AND_LAST,
    "video_single_point_track_per_frame": tracks.TRACK_SINGLE_POINT,
}


def draw_one(choices: Sequence[Any], rng: np.random.RandomState) -> Any:
    """One of `choices`, all alike; with one draw, as the reference draws wordings."""
    return choices[rng.randint(0, len(choices))]


def draw_prompt(
    style: str, values: Mapping[str, Any], rng: np.random.RandomState, *, first: bool = False
) -> str:
    """A wording of `style`, drawn from `rng`, with its fields filled from `values`.

    `first` takes the first wording and draws nothing. Source: docs/reference.md#prompts.

    Errors: FormatterError if nothing is worded for `style`, or if a field is missing or no text.
    """
    wordings = TEMPLATES.get(style)
    if wordings is None:
        raise FormatterError(
            f"nothing is worded for the style {style!r}; give the annotation a 'prompt', or use "
            "one of the styles in TEMPLATES"
        )
    wording = wordings[0] if first else draw_one(wordings, rng)
    names = sorted(_FIELD.findall(wording))
    return _fill(wording, {name: required_text(values, name) for name in names})


def _fill(wording: str, values: Mapping[str, str]) -> str:
    """Fill the fields one after another in alphabetical order, as the reference does.

    So text filled in early that itself holds a later field, say an option "{question}", becomes
    the field that is filled, and what follows its second use is lost. Only the older rules can
    meet this, where options are filled before the question; kept because prompts were made so.
    """
    for name, text in values.items():
        before, after = wording.split("{" + name + "}", maxsplit=2)[:2]
        wording = before + text + after
    return wording
