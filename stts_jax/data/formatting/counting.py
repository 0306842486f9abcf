"""Telling questions that could be answered by pointing and counting."""

from __future__ import annotations

import re

# What is measured or compared rather than counted, each as a pattern. Source: the reference's
# `detect_counting_question.py`, with its spellings: training sets were split by it.
_TIMES = ("years", "months", "weeks", "days", "hours", "minutes", "[a-z]*seconds")
_LENGTHS_AND_AREAS = (
    "(tera|giga|mega|deci|kilo||micro|centi|milli|nano|pico|deca)meters",
    "meters",
    "metres",
    "acres",
    "leagues",
    "fathoms",
    "nautical miles",
    "hectares",
    "(square |SQ )?inches",
    "(square |SQ )feet",
    "(square |SQ )?ft",
    "(square |SQ )?miles",
    "(square | SQ)?yards",
    "passing yards",
)
_MONEY = ("dollars", "cents", "pounds", "euros")
_SPEEDS = ("seed", "mph", "kph")
_COMPARISONS = ("more", "fewer", "less", "likes")
_VOLUMES = ("cubic", "gallons", "quarts", "pints", "fluid ounces", "[a-z]*liters")
_WEIGHTS = ("weight", "[a-z]*grams", "pounds", "tons", "ounces")
_OTHERS = (
    "ways",
    "different ways",
    "degrees",
    "calories",
    "hertz",
    "horsepower",
    "[a-z]*bytes",
    "psi",
    "atmospheres",
    "[a-z]*watts",
)
_UNCOUNTED = "|".join(
    _TIMES + _LENGTHS_AND_AREAS + _MONEY + _SPEEDS + _COMPARISONS + _VOLUMES + _WEIGHTS + _OTHERS
)
_AMOUNT = "total count|count|total|total number|number|num|total amount|amount"
_ASKING_FOR = r"what|(what's|what (is|was|were)|states?|indicates?) the( exact| precise)?"
_COUNTING = "|".join(
    (
        f"how ?many (?!{_UNCOUNTED})",
        "(?<!do not )(count|tally) (all|every|each|the) ",
        "(there are|a total of) _{3,4}",
        f"({_ASKING_FOR}) ({_AMOUNT}) of (?!{_UNCOUNTED}|money|the)",
    )
)
_COUNTING_QUESTION = re.compile(rf"\b({_COUNTING})\b", re.IGNORECASE)


def is_counting_question(question: str) -> bool:
    """Whether a question may ask to count things that can be pointed at.

    Meant to miss few: many questions that it finds ask for something else. Source: reference
    `olmo/preprocessing/detect_counting_question.py`.
    """
    if question.lower().startswith("approximately"):
        return False
    return _COUNTING_QUESTION.search(question) is not None
