"""Questions that are answered by points or tracks, and their answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stts_jax.data.text.formatting import points, tracks
from stts_jax.data.text.formatting.fields import (
    Annotation,
    FormatterError,
    describe,
    required,
    required_text,
)
from stts_jax.data.text.formatting.settings import FormatterSettings
from stts_jax.data.text.formatting.templates import TRACK_WITHOUT_FPS_STYLE, draw_prompt

# Videos, and answers with points inside their text, are annotated in percent.
PERCENT = (100.0, 100.0)
POINT_MARKER = "<|POINT|>"
DEFAULT_TRACK_FPS = "2"
P_UNSAID_FPS = 0.5


def image_point_label(annotation: Annotation) -> str:
    """Returns the name of the object to point at, as in the prompt."""
    if "label" in annotation:
        return required_text(annotation, "label").lower()
    return required_text(annotation, "label_cased")


def image_point_answer(annotation: Annotation, settings: FormatterSettings) -> str | None:
    """The points of one image in text; None if the annotation has none."""
    if "points" not in annotation:
        return None
    named = "label" in annotation
    label = required_text(annotation, "label").lower() if named else annotation.get("question")
    if label is None:
        raise FormatterError(f"{describe(annotation)} has points of nothing; add a 'label'")
    found = annotation["points"]
    if not len(found):
        return points.NO_POINTS
    style = annotation["style"]
    mode = "point" if style == "cosyn_point" else style
    return points.image_points(found, points.point_scale(annotation), label, mode, settings)


def text_with_points(
    text: str, point_annotations: Sequence[Annotation], settings: FormatterSettings
) -> str:
    """An answer with points written where it says "<|POINT|>", in order; they are in percent.

    Errors: FormatterError if there are fewer such markers than points.
    """
    for annotation in point_annotations:
        before, marker, after = text.partition(POINT_MARKER)
        if not marker:
            raise FormatterError(
                f"an answer has fewer {POINT_MARKER} than 'answer_annotations'; add the missing one"
            )
        found = required(annotation, "points")
        label, alt = required_text(annotation, "inline_text"), annotation.get("alt_text")
        written = points.image_points(found, PERCENT, label, "point", settings, alt)
        text = before + written + after
    return text


def video_point_answer(annotation: Annotation, settings: FormatterSettings) -> str | None:
    """The points of a video in text; None if the annotation has none or no times.

    What cannot be answered is answered by its explanation. Source:
    docs/reference.md#points-and-tracks.
    """
    if "points" not in annotation or "timestamps" not in annotation:
        return None
    if annotation.get("count") == 0:
        return points.NO_POINTS
    if annotation.get("unanswerable"):
        if annotation.get("explanation"):
            return annotation["explanation"]
        return f"Sorry, I can't count {required_text(annotation, 'label')}."
    return points.video_points(
        annotation["timestamps"],
        annotation["points"],
        PERCENT,
        required_text(annotation, "label"),
        annotation["style"].removeprefix("video_"),
        settings,
    )


def track_turn(
    annotation: Annotation,
    video_times: np.ndarray | None,
    settings: FormatterSettings,
    rng: np.random.RandomState,
    *,
    training: bool,
) -> tuple[str, str]:
    """Prompt and answer of a tracking question.

    Only annotated frames that are among the video's frames are told. A rate of 2 per second goes
    unsaid in half of the prompts. Source: docs/reference.md#points-and-tracks.

    Args:
      annotation: has `style`, `label`, `sampling_fps`, `points` (track frames), perhaps
        `initial_points`.
      video_times: (n,) seconds of the frames that were sampled.
      training: start at a random point at times, if the settings say so.
    """
    style, label = required_text(annotation, "style"), required_text(annotation, "label")
    fps = required(annotation, "sampling_fps")
    values = {"label": label}
    if fps:
        values["fps"] = str(int(fps))
    annotated = annotation.get("points")
    if not annotated:
        return draw_prompt(style, values, rng, first=settings.debug), points.NO_POINTS

    scale = points.point_scale(annotation)
    in_video = tracks.frames_at_times(annotated, video_times)
    on_grid = tracks.frames_at_rate(in_video, fps) if fps else in_video
    if style == "video_point_ground_start_end":
        told = tracks.first_and_last(in_video)
        answered = in_video
    elif style == "video_single_point_track_per_frame":
        random_start = training and settings.sample_random_initial_point
        starts = _initial_points(annotation, in_video, rng, random_start=random_start)
        values["input_points"] = _input_points(starts, scale, label, settings)
        told = tracks.frames_after(on_grid, starts)
        answered = on_grid
    else:
        told = answered = on_grid
    answer = tracks.track_text(told, scale, label, settings) if answered else tracks.NO_TRACKS

    unsaid = style == "video_point_track_per_frame" and values.get("fps") == DEFAULT_TRACK_FPS
    if unsaid and rng.random() < P_UNSAID_FPS:
        style = TRACK_WITHOUT_FPS_STYLE
    return draw_prompt(style, values, rng, first=settings.debug), answer


def _initial_points(
    annotation: Annotation,
    frames: Sequence[tracks.TrackFrame],
    rng: np.random.RandomState,
    *,
    random_start: bool,
) -> Sequence[Mapping[str, Any]]:
    """The points that a single track starts from: given, or of the frames that the video has.

    Where the video's frames miss the object, all annotated frames are looked through.
    """
    if annotation.get("initial_points"):
        starts = annotation["initial_points"]
        if sorted(start["id"] for start in starts) != list(range(len(starts))):
            raise FormatterError(
                f"'initial_points' of {describe(annotation)} have the ids "
                f"{[start['id'] for start in starts]}; number them from 0"
            )
        return starts
    for candidates in (frames, annotation["points"]):
        start = tracks.initial_point(candidates, random_start=random_start, rng=rng)
        if start is not None:
            return [start]
    raise FormatterError(
        f"the object {tracks.SINGLE_OBJECT} of {describe(annotation)} is never visible; leave the "
        "annotation out"
    )


def _input_points(
    starts: Sequence[Mapping[str, Any]],
    scale: points.Scale,
    label: str,
    settings: FormatterSettings,
) -> str:
    times = [start["time"] for start in starts]
    shown = [[start["point"]] for start in starts]
    return points.video_points(times, shown, scale, label, None, settings)
