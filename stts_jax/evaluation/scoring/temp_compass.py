"""TempCompass: multiple choice, yes or no, matching captions, and captions.

A judge scores what the rules cannot read. Without one, the published rule counts it as wrong, as
the reference does with its interface switched off, and the fixed rule reports it as not judged.
Captions can only be judged.

The judge's instructions are worded here, not TempCompass's own, and its judge model is no longer
offered: judged scores are not comparable with published ones, the others are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import ascii_uppercase

import numpy as np

from stts_jax.evaluation.scoring.careful import named_option
from stts_jax.evaluation.scoring.choices import option_wordings
from stts_jax.evaluation.scoring.judge import Judge
from stts_jax.evaluation.scoring.score import Metadata, Metric, Score

TASKS = ("multi-choice", "yes_no", "caption_matching", "captioning")
# What the reference calls "internal": the tasks that rules can score.
RULE_TASKS = TASKS[:3]
ASPECTS = ("action", "attribute_change", "direction", "order", "speed")

GRADING = (
    "You grade an answer to a question about a video. You are given the question, the right "
    "answer and the answer to grade. Reply with the single word Correct if the answer means the "
    "right answer, else with the single word Incorrect."
)
CHOOSING = (
    "You are given a description of a video and a multiple choice question about the video. Choose "
    "an option by the description alone. Reply with one line that gives the reason and a second "
    'line "Answer: " with the chosen option as it is written, or with "Answer: none" if the '
    "description does not settle it."
)
_OPTION_LINE = re.compile(r"^(?:\w+ )?([A-Z])[.):]\s*(.+)$", re.MULTILINE)


def choice_by_rule(text: str, answer: str) -> float | None:
    """1 or 0 if the text is the answer, a letter A to D, or begins like "A." or "A)"; else None.

    Source: the reference's `eval_multi_choice`, which scores matching captions too.
    """
    if text == answer:
        return 1.0
    if text in ("A", "B", "C", "D") or text[:2] in ("A.", "B.", "C.", "D.", "A)", "B)", "C)", "D)"):
        return float(text[0] == answer[0])
    return None


def yes_no_by_rule(text: str, answer: str) -> float | None:
    """1 or 0 if the text begins with "yes" or "no" ("Noah" does), else None.

    Source: the reference's `eval_yes_no`.
    """
    for word in ("yes", "no"):
        if text.lower().startswith(word):
            return float(word == answer)
    return None


def matched_caption(text: str, question: str) -> str | None:
    """The option that the text names by its line, its sentence, its label or its label's letter.

    Options are the lines "Option A: The man walks" below the question. What is returned is the
    part that matched. The reference defines this rule for matching captions but never uses it.

    Source: the reference's `parse_caption_matching_output`.
    """
    lines = [line for line in question.split("\n")[1:] if ": " in line]
    if not lines:
        return None
    labels, sentences = zip(*(line.split(": ")[:2] for line in lines), strict=True)
    marks = [re.sub("Sentence |Option |Caption ", "", label) for label in labels]
    after_bracket = text.split(") ")[1] if ") " in text else text
    found = [line for line in lines if line == text]
    found += [sentence for sentence in sentences if sentence in (text, after_bracket)]
    found += [label for label in (*labels, *marks) if label in (text, text.replace(".", ""))]
    return found[-1] if found else None


def caption_by_rule(text: str, question: str, answer: str) -> float | None:
    """1 or 0 by `matched_caption`, None if it finds nothing."""
    matched = matched_caption(text, question)
    if matched is None:
        return None
    label, sentence = answer.split(": ")[:2]
    return float(matched in (answer, label, sentence, label.split()[-1]))


def temp_compass(judge: Judge | None = None, tasks: tuple[str, ...] = RULE_TASKS) -> Metric:
    """The metric over `tasks`, in all and by temporal aspect.

    Metadata: `task`, `temporal_aspect`, `question`, `answer`; for captions also `mc_question` and
    `mc_answer`.

    Args:
      judge: asked where rules fail.
      tasks: reported even if no question is of them.
    """

    def score(
        answer: str, metadata: Metadata, generator: np.random.RandomState
    ) -> Mapping[str, Score]:
        task, aspect = metadata["task"], metadata["temporal_aspect"]
        one = _task_score(answer.strip(), task, metadata, judge)
        return dict.fromkeys((task, f"{task}_{aspect}", "all"), one)

    groups = [name for task in tasks for name in (task, *(f"{task}_{a}" for a in ASPECTS))]
    return Metric("temp_compass", score, "all", (*groups, "all"), (*tasks, "all"))


def _task_score(text: str, task: str, metadata: Metadata, judge: Judge | None) -> Score:
    if task == "captioning":
        verdict = _judged_caption(text, metadata, judge)
        return Score(verdict, verdict)
    question, right = metadata["question"], metadata["answer"]
    if task == "yes_no":
        published, fixed = yes_no_by_rule(text, right), _yes_no_with_care(text, right)
    else:
        published, fixed = choice_by_rule(text, right), _choice_with_care(text, metadata)
        if fixed is None and ": " in right and right in question.split("\n"):
            fixed = caption_by_rule(text, question, right)
    verdict = None
    if judge and (published is None or fixed is None):
        request = f"Question:\n{question}\nRight answer: {right}\nAnswer to grade: {text}"
        verdict = graded(judge(GRADING, request))
    return Score(
        value=published if published is not None else verdict or 0.0,
        fixed=fixed if fixed is not None else verdict,
    )


def graded(opinion: str) -> float:
    """1 if the opinion says Correct and does not begin with or hold Incorrect."""
    if opinion.startswith("Correct"):
        return 1.0
    return float("Correct" in opinion and "Incorrect" not in opinion)


def _judged_caption(text: str, metadata: Metadata, judge: Judge | None) -> float | None:
    question, right = metadata["mc_question"], metadata["mc_answer"]
    if judge is None:
        return None
    opinion = judge(CHOOSING, f"Description:\n{text}\nQuestion:\n{question}")
    lines = [line for line in opinion.split("\n") if "Answer" in line]
    chosen = lines[-1].replace("Answer:", "").strip() if lines else opinion
    letters = sum(chosen.count(mark) for mark in ("A.", "B.", "C.", "D."))
    return float(letters == 1 and chosen.split(". ")[0] == right.split(". ")[0])


def _yes_no_with_care(text: str, answer: str) -> float | None:
    found = re.match(r"\W*(yes|no)\b", text, re.IGNORECASE)
    return float(found[1].lower() == answer.lower()) if found else None


def _choice_with_care(text: str, metadata: Metadata) -> float | None:
    """Returns the option whose letter or wording the text names; None if it names none."""
    question, right = metadata["question"], metadata["answer"]
    if text == right:
        return 1.0
    for line in _OPTION_LINE.finditer(question):
        if text.strip(" .") in (line[0], line[0].split(":")[0]):
            return float(line[1] == _letter(right))
    wordings = option_wordings(metadata) or [found[2] for found in _OPTION_LINE.finditer(question)]
    named = named_option(text, len(wordings), wordings) if wordings else None
    return None if named is None else float(ascii_uppercase[named] == _letter(right))


def _letter(answer: str) -> str:
    found = _OPTION_LINE.match(answer)
    return found[1] if found else answer[:1]
