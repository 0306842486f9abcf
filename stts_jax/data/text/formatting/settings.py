"""Settings of the formatter: one frozen dataclass, checked where it is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stts_jax.data.text.formatting.fields import FormatterError

CHOICES: dict[str, tuple[str | None, ...]] = {
    "prompt_templates": ("uber_model_v2", "uber_model", "none"),
    "message_format": ("qwen3", "role", "none"),
    "system_prompt": (
        "demo_or_style_v2",
        "demo_or_style",
        "style",
        "style_and_length",
        "style_and_length_v2",
        "style_and_length_v3",
        "no_style",
        "none",
    ),
    "select_answer": ("best", "first"),
    "format_message_list": (None, "numbered_qa"),
    "pointing_format": ("html-v2", "html-v1", "default"),
    "timestamp_mode": ("50-percent-seconds", "seconds", "seconds-to-tenth"),
    "output_timestamp_mode": ("seconds", "timestamp"),
}
PROBABILITIES = ("p_one_message", "p_choice_content_in_mc", "p_multi_point_all_image")


@dataclass(frozen=True)
class FormatterSettings:
    """Settings of `Formatter`; the defaults are those of the reference's SFT runs.

    Source: docs/reference.md#pipeline and #text. The names are the reference's, so that its
    configs can be read.

    Attributes:
      prompt_templates: rules that make a prompt from an annotation (docs/reference.md#prompts).
      "uber_model" is the
        older set, "none" gives the bare fields.
      message_format: chat form around the messages: "qwen3", "role" ("User: ... Assistant:") or
        "none".
      system_prompt: what opens the user's text (docs/reference.md#style-tags), e.g.
      "video_short_answer: ". Not a
        system turn: the reference only calls it that.
      always_start_with_space: a blank before the first message too ("role" and "none" only).
      default_inference_len: length that is asked for in inference where the tag holds one, in
        units of 15 characters; None asks for none.
      select_answer: of several answers take the most frequent ("best") or the lowest ("first").
      debug: take the first wording of each list instead of a drawn one.
      image_last: put "<|image|>" after the first message instead of media before it.
      format_message_list: "numbered_qa" numbers the questions and answers of a message list.
      p_one_message: how often only the first annotation of a message list is kept.
      eval_system_prompt_mapping: style -> the style whose tag is written for it.
      p_choice_content_in_mc: how often an answer is "B. text" rather than "B" (older rules only).
      template_video_mc_questions: vary the wording of video choices (older rules only).
      pointing_format: how points are written; "default" is the reference's oldest form, which is
        known here only so that its configs can be read: writing points with it is an error.
      timestamp_mode: how times are written in prompts: half of them in seconds and half as
        "00:01:02.5", or all in seconds (with `seconds_decimal_places`, or always with one).
      output_timestamp_mode: how times are written in answers.
      seconds_decimal_places: decimals of seconds.
      p_multi_point_all_image: how often a question about several images is about all of them; at
        0 the older drawing rule is used.
      use_separate_count_without_pointing_style: in training, name the styles
        "..._count_without_pointing" in the tag rather than the style they vary.
      sample_random_initial_point: in training, start 20 % of single tracks at a random point.
    """

    prompt_templates: str = "uber_model_v2"
    message_format: str = "qwen3"
    system_prompt: str = "demo_or_style_v2"
    always_start_with_space: bool = False
    default_inference_len: int | None = 65
    select_answer: str = "best"
    debug: bool = False
    image_last: bool = False
    format_message_list: str | None = None
    p_one_message: float = 0.0
    eval_system_prompt_mapping: Mapping[str, str] = field(default_factory=dict)
    p_choice_content_in_mc: float = 1.0
    template_video_mc_questions: bool = True
    pointing_format: str = "html-v2"
    timestamp_mode: str = "50-percent-seconds"
    output_timestamp_mode: str = "seconds"
    seconds_decimal_places: int = 1
    p_multi_point_all_image: float = 0.5
    use_separate_count_without_pointing_style: bool = False
    sample_random_initial_point: bool = True

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            _check_choice(name, getattr(self, name), choices)
        for name in PROBABILITIES:
            _check_probability(name, getattr(self, name))
        if self.seconds_decimal_places < 0:
            raise FormatterError(
                f"seconds_decimal_places is {self.seconds_decimal_places}; set it to 0 or more"
            )
        if (self.prompt_templates, self.system_prompt) == ("uber_model_v2", "demo_or_style"):
            raise FormatterError(
                "system_prompt 'demo_or_style' doesn't go with prompt_templates 'uber_model_v2'; "
                "use 'demo_or_style_v2'"
            )


def _check_choice(name: str, value: Any, choices: tuple[str | None, ...]) -> None:
    if value not in choices:
        allowed = ", ".join(map(repr, choices))
        raise FormatterError(f"{name} is {value!r}, which is not known; choose from {allowed}")


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise FormatterError(f"{name} is {value}; set it between 0 and 1")
