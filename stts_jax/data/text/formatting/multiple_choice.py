"""Multiple choice: the question with its options, and the answer for each option."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stts_jax.data.text.formatting import multiple_choice_templates as wordings
from stts_jax.data.text.formatting.fields import (
    Annotation,
    FormatterError,
    describe,
    required,
    required_text,
)
from stts_jax.data.text.formatting.settings import FormatterSettings
from stts_jax.data.text.formatting.styles import VIDEO_MULTIPLE_CHOICE_STYLES
from stts_jax.data.text.formatting.templates import draw_one, draw_prompt

STANDARD_INSTRUCTION = "Only return the correct answer option."

P_STANDARD_FORM = 0.1
P_LABEL_ONLY = 0.25
P_LABELLED = 0.8
P_INLINE = 0.1
P_INSTRUCTION = 0.5
P_RARE_MARKER = 0.2
P_BULLETS = 0.5
P_OWN_LABEL_NAME = 0.6
P_FIRST_GENERAL_NAME = 0.8  # including the share above


@dataclass(frozen=True)
class MultipleChoice:
    """A question with options.

    Attributes:
      prompt: question, options and instruction.
      names: what each option is called: its label, or its text where it has none. A string of
        letters where the labels are letters, else a list, as the reference keeps it in metadata.
      outputs: what is answered for each option.
    """

    prompt: str
    names: Sequence[str]
    outputs: Sequence[str]


def has_options(annotation: Annotation) -> bool:
    """Whether the annotation is a question with options."""
    return "question" in annotation and (
        "options" in annotation or "unlabelled_options" in annotation
    )


def right_output(annotation: Annotation, choice: MultipleChoice) -> str | None:
    """Returns the answer for `answer_idx`; None if the annotation has no index.

    Errors: FormatterError if there is no such option, or if its label set is too short for it.
    """
    if "answer_idx" not in annotation:
        return None
    return choice.outputs[_checked_index(annotation, len(choice.names))]


def template_options(
    annotation: Annotation, *, training: bool, rng: np.random.RandomState
) -> MultipleChoice:
    """Rules of "uber_model_v2": one fixed form, varied in nine of ten trainings.

    Outside training nothing is drawn. Source: docs/reference.md#multiple-choice.
    """
    question = required_text(annotation, "question")
    options = _options(annotation)
    labelled = "options" in annotation
    # A blank answer must have a label, else there would be nothing to answer.
    must_label = labelled and _answer_is_blank(annotation, options)
    if training and not rng.random() < P_STANDARD_FORM:
        p_labelled = 1.0 if must_label else P_LABELLED
        return varied_form(question, options, rng, p_labelled=p_labelled)
    plain = _lettered(options) if labelled else MultipleChoice("\n".join(options), options, options)
    prompt = f"{question}\n{STANDARD_INSTRUCTION}\n{plain.prompt}"
    return MultipleChoice(prompt, plain.names, plain.outputs)


def older_form(
    annotation: Annotation, settings: FormatterSettings, rng: np.random.RandomState
) -> MultipleChoice:
    """Rules of "none": question and options, one a line; the answer has its text or only a letter.

    Draws from `rng` only if `p_choice_content_in_mc` is neither 0 nor 1, where the reference draws
    from Python's global generator. Source: docs/reference.md#multiple-choice.
    """
    question = required_text(annotation, "question")
    options = _options(annotation)
    if "options" not in annotation:
        return MultipleChoice(f"{question}\n" + "\n".join(options) + "\n", options, options)
    lettered = _lettered(options)
    with_text = _with_text(annotation, settings.p_choice_content_in_mc, rng)
    outputs = lettered.outputs if with_text else lettered.names
    return MultipleChoice(f"{question}\n{lettered.prompt}\n", lettered.names, outputs)


def older_templated_form(
    annotation: Annotation, settings: FormatterSettings, rng: np.random.RandomState
) -> MultipleChoice:
    """Rules of "uber_model": `older_form`, for videos with a drawn wording around it.

    As in the reference, the question is cut out of the options wherever it occurs in them.

    Errors: FormatterError for a video style that nothing is worded for.
    """
    choice = older_form(annotation, settings, rng)
    style = annotation.get("style")
    if style not in VIDEO_MULTIPLE_CHOICE_STYLES or not settings.template_video_mc_questions:
        return choice
    question = required_text(annotation, "question")
    values = {"question": question, "options": choice.prompt.replace(question, "").strip()}
    prompt = draw_prompt(style, values, rng, first=settings.debug)
    return MultipleChoice(prompt, choice.names, choice.outputs)


def varied_form(
    question: str,
    options: Sequence[Any],
    rng: np.random.RandomState,
    *,
    p_labelled: float = P_LABELLED,
) -> MultipleChoice:
    """A question in one of many forms: labels, separators and wordings are drawn from `rng`.

    Options beyond the label set (10 Roman numerals, 20 numbers, 26 letters) get no label and are
    left out, as in the reference. Source: docs/reference.md#multiple-choice, which has the order
    of the draws.
    """
    options = [str(option) for option in options]
    label_only = rng.random() < P_LABEL_ONLY
    labelled = label_only or rng.random() < p_labelled
    inline = rng.random() < P_INLINE
    with_instruction = rng.random() < P_INSTRUCTION

    marker, kind, names, texts = "", "", options, options
    if labelled:
        marker = _draw_marker(rng)
        labels, kind = draw_one(wordings.LABEL_SETS, rng)
        texts = [marker % label + option for label, option in zip(labels, options, strict=False)]
        names = labels[: len(texts)]

    listed = _list_options(texts, options, marker, rng, labelled=labelled, inline=inline)
    if labelled:
        kind = _draw_label_name(kind, rng)
    layout, instruction = _draw_layout(
        rng, labelled=labelled, label_only=label_only, with_instruction=with_instruction
    )
    prompt = layout.format(
        question=question,
        options=listed,
        label=kind,
        instruction=instruction.format(label=kind),
    )
    return MultipleChoice(prompt, names, names if label_only else texts)


def _draw_marker(rng: np.random.RandomState) -> str:
    common = rng.random() > P_RARE_MARKER
    return draw_one(wordings.COMMON_MARKERS if common else wordings.RARE_MARKERS, rng)


def _draw_label_name(kind: str, rng: np.random.RandomState) -> str:
    """Draws the name of labels in the wording: their own kind, or something general."""
    draw = rng.random()
    if draw < P_OWN_LABEL_NAME:
        return kind
    first, second = wordings.GENERAL_LABEL_NAMES
    return first if draw < P_FIRST_GENERAL_NAME else second


def _draw_layout(
    rng: np.random.RandomState, *, labelled: bool, label_only: bool, with_instruction: bool
) -> tuple[str, str]:
    """Draws the layout, and the instruction in it ("" if the layout has its own)."""
    if not with_instruction:
        return draw_one(wordings.LABEL_LAYOUTS if label_only else wordings.OPTION_LAYOUTS, rng), ""
    instructions: tuple[str, ...] = wordings.OPTION_INSTRUCTIONS
    if label_only:
        instructions = wordings.LABEL_INSTRUCTIONS
    elif labelled:
        instructions += wordings.LABELLED_OPTION_INSTRUCTIONS
    instruction = draw_one(instructions, rng)
    return draw_one(wordings.INSTRUCTION_LAYOUTS, rng), instruction


def _list_options(
    texts: Sequence[str],
    options: Sequence[str],
    marker: str,
    rng: np.random.RandomState,
    *,
    labelled: bool,
    inline: bool,
) -> str:
    """The options as one text: in a line with separators, or one a line, perhaps with bullets."""
    separators = [
        separator
        for separator in wordings.INLINE_SEPARATORS
        if separator not in marker.strip()
        and not any(option.endswith(separator) for option in options)
    ]
    if labelled:
        separators.append("")
    if inline and separators:
        separator = draw_one(separators, rng)
        ended = [text if text.endswith(separator) else text + separator for text in texts[:-1]]
        return " ".join([*ended, *texts[-1:]])
    if not labelled and rng.random() < P_BULLETS:
        bullet = draw_one(wordings.BULLETS, rng)
        return f"{bullet} " + f"\n{bullet} ".join(texts)
    return "\n".join(texts)


def _options(annotation: Annotation) -> list[str]:
    """The options as texts; numbers are allowed."""
    name = "options" if "options" in annotation else "unlabelled_options"
    options = required(annotation, name)
    if isinstance(options, str) or not len(options):
        raise FormatterError(f"'{name}' of {describe(annotation)} is {options!r}; give a list")
    return [str(option) for option in options]


def _lettered(options: Sequence[str]) -> MultipleChoice:
    """Options with capital letters, one a line; what comes after Z is left out."""
    letters = string.ascii_uppercase[: len(options)]
    lines = [f"{letter}. {option}" for letter, option in zip(letters, options, strict=False)]
    return MultipleChoice("\n".join(lines), letters, lines)


def _with_text(annotation: Annotation, p_text: float, rng: np.random.RandomState) -> bool:
    """Whether the answer holds the option's text."""
    if "answer_idx" not in annotation or not annotation.get("content_in_mc", True):
        return False
    return rng.random() < p_text if 0 < p_text < 1 else p_text == 1


def _answer_is_blank(annotation: Annotation, options: Sequence[str]) -> bool:
    if "answer_idx" not in annotation:
        return False
    return not options[_checked_index(annotation, len(options))].strip()


def _checked_index(annotation: Annotation, count: int) -> int:
    index = annotation["answer_idx"]
    if isinstance(index, str) or index is None or int(index) != index or not 0 <= index < count:
        raise FormatterError(
            f"'answer_idx' of {describe(annotation)} is {index!r}, which names none of the options "
            f"that have a label; give a whole number from 0 to {count - 1}"
        )
    return int(index)
