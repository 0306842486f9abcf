"""Groups of styles, and the tag that opens the user's text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from stts_jax.data.text.formatting.fields import FormatterError, Mode
from stts_jax.data.text.formatting.settings import FormatterSettings

# Tasks that a user may ask for in any words, so that no tag is needed.
DEMO_STYLES = (
    "point_count",
    "pointing",
    "cosyn_point",
    "user_qa",
    "long_caption",
    "short_caption",
    "video_long_caption",
    "video_short_caption",
    "video_point_track_per_frame",
    "video_point_track_start_end",
    "video_single_point_track_start_end",
    "video_transcript",
    "video_clip_caption_start_end",
    "video_clip_caption_start_end_in_seconds",
    "video_clip_transcript_start_end",
    "video_clip_transcript_start_end_in_seconds",
    "video_frame_caption_timestamp",
    "video_frame_caption_timestamp_in_seconds",
    "correction_qa",
    "text_sft",
    "video_point",
    "video_point_count",
    "video_count",
    "video_count_point",
    "multi_image_pointing",
    "multi_image_counting",
    "multi_image_point_then_count",
    "multi_image_count_then_point",
)
VIDEO_MULTIPLE_CHOICE_STYLES = (
    "video_multiple_choice",
    "video_multiple_choice_count_without_pointing",
    "video_multiple_choice_multiple_correct",
    "video_multiple_choice_w_subtitle",
)
IMAGE_MULTIPLE_CHOICE_STYLES = (
    "a_okvqa_mc",
    "ai2_diagram_no_letter",
    "ai2_diagram",
    "science_qa",
    "eval_multiple_choice",
    "multi_image_mc",
    "multi_image_mc_exp",
    "mantis_instruct_mc",
    "eval_multi_image_mc",
)
CAPTION_STYLES = (
    "long_caption",
    "short_caption",
    "video_long_caption",
    "video_short_caption",
    "video_transcript",
    "video_motion_caption",
    "video_object_caption",
)
CLIP_STYLES = ("video_clip_caption_start_end", "video_clip_transcript_start_end")
FRAME_STYLES = ("video_frame_caption_timestamp",)
SHORT_ANSWER_STYLES = ("video_short_answer", "video_short_answer_count_without_pointing")
IMAGE_POINT_STYLES = ("pointing", "point_count", "point_then_count", "cosyn_point")
VIDEO_POINT_STYLES = ("video_point", "video_point_count", "video_count", "video_count_point")
MULTI_IMAGE_POINT_STYLES = (
    "multi_image_pointing",
    "multi_image_counting",
    "multi_image_point_then_count",
    "multi_image_count_then_point",
)
TRACK_STYLES = (
    "video_point_track_per_frame",
    "video_point_ground_start_end",
    "video_single_point_track_per_frame",
)

_UNTAGGED = {*DEMO_STYLES, *VIDEO_MULTIPLE_CHOICE_STYLES, *IMAGE_MULTIPLE_CHOICE_STYLES}
_NEVER_A_LENGTH = ("pointing", "point_count", "cosyn_point")

# Styles of evaluation sets -> the style that was trained.
_TRAINED_STYLE = {
    "eval_short_answer": "vqa2",
    "eval_multiple_choice": "a_okvqa_mc",
    "video_eval_short_answer": "video_short_answer",
    "video_eval_multiple_choice": "video_multiple_choice",
    "video_eval_multiple_choice_w_subtitle": "video_multiple_choice_w_subtitle",
}
_WITHOUT_POINTING = {
    "video_short_answer_count_without_pointing": "video_short_answer",
    "video_multiple_choice_count_without_pointing": "video_multiple_choice",
}


def style_tag(
    style: str | None,
    messages: Sequence[str],
    settings: FormatterSettings,
    mode: Mode,
    rng: np.random.RandomState,
) -> str:
    """The tag before the user's text, e.g. "video_short_answer:", or "" where none belongs.

    Source: docs/reference.md#style-tags.

    Args:
      style: of the annotation.
      messages: the messages without a tag; some tags hold the length of the last one.
      settings: its `system_prompt` is the rule; "none" is up to the caller, who then writes no tag.
      mode: length tags name a fixed length in inference.
      rng: drawn from by "demo_or_style" and, outside inference, by the length tags.

    Errors: FormatterError if there is no style.
    """
    if not isinstance(style, str):
        raise FormatterError(
            f"the style is {style!r}, but system_prompt '{settings.system_prompt}' writes it into "
            "the prompt; give the annotation a 'style' (ready-made messages: in an entry of "
            "'message_list'), or set system_prompt to 'none'"
        )
    write = _TAGS[settings.system_prompt]
    return write(_tagged_style(style, settings, mode), messages, settings, mode, rng)


def join_tag(tag: str, text: str) -> str:
    """Tag and text with a blank between them, if there are both."""
    return f"{tag} {text}" if tag and text else tag + text


def _tagged_style(style: str, settings: FormatterSettings, mode: Mode) -> str:
    """The style that the tag names in place of `style`."""
    if style in settings.eval_system_prompt_mapping:
        return settings.eval_system_prompt_mapping[style]
    if mode != "train" or not settings.use_separate_count_without_pointing_style:
        style = _WITHOUT_POINTING.get(style, style)
    if style.startswith("eval_multi_image_"):
        return style.removeprefix("eval_")
    return _TRAINED_STYLE.get(style, style)


Tag = Callable[[str, Sequence[str], FormatterSettings, Mode, np.random.RandomState], str]


def _no_tag(style: str, *_: object) -> str:
    return ""


def _always(style: str, *_: object) -> str:
    return f"{style}:"


def _demo_or_style_v2(style: str, *_: object) -> str:
    return "" if style in _UNTAGGED else f"{style}:"


def _demo_or_style(
    style: str,
    messages: Sequence[str],
    settings: FormatterSettings,
    mode: Mode,
    rng: np.random.RandomState,
) -> str:
    """Demo styles keep their tag in a tenth of the cases, so that it still is learnt."""
    if style in ("android_control", "demo"):
        return ""
    if style in DEMO_STYLES and rng.random() > 0.1 and not settings.debug:
        return ""
    return f"{style}:"


def _length_fixed_noise(
    style: str,
    messages: Sequence[str],
    settings: FormatterSettings,
    mode: Mode,
    rng: np.random.RandomState,
) -> str:
    """Length in units of 15 characters with noise of 25 characters; a short text may get "-1"."""
    if style in _NEVER_A_LENGTH:
        return f"{style}:"
    if mode == "inference":
        length = settings.default_inference_len
    elif rng.random() > 0.1:
        length = (len(messages[-1]) + int(rng.normal(scale=25))) // 15
    else:
        length = None
    # The first version left the blank standing where it named no length.
    blank = " " if settings.system_prompt == "style_and_length" else ""
    return f"{style}{blank}:" if length is None else f"{style} {length}:"


def _length_relative_noise(
    style: str,
    messages: Sequence[str],
    settings: FormatterSettings,
    mode: Mode,
    rng: np.random.RandomState,
) -> str:
    """Length in units of 25 characters with noise of 5 %, at most half of the length."""
    if mode == "inference":
        length = settings.default_inference_len
    elif rng.random() > 0.1:
        noise = np.clip(rng.normal(loc=1, scale=0.05), 0.5, 1.5)
        length = int(len(messages[-1]) * noise / 25)
    else:
        length = None
    return f"{style}:" if length is None else f"{style} {length}:"


_TAGS: dict[str, Tag] = {
    "style": _always,
    "no_style": _no_tag,
    "demo_or_style": _demo_or_style,
    "demo_or_style_v2": _demo_or_style_v2,
    "style_and_length": _length_fixed_noise,
    "style_and_length_v2": _length_fixed_noise,
    "style_and_length_v3": _length_relative_noise,
}
