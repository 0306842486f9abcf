"""Times in text: "12.5" and "00:00:12.5"."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime

import numpy as np

from stts_jax.data.text.formatting.fields import FormatterError
from stts_jax.data.text.formatting.settings import FormatterSettings

log = logging.getLogger(__name__)

_CLOCK_FORMS = ("%M:%S.%f", "%H:%M:%S.%f")
_SECONDS_TO_TENTH_DECIMALS = 1


def parse_timestamp(value: str | float) -> str | float:
    """Seconds from a number, "12.5", "01:02.5" or "01:02:03.5"; a number comes back as it is.

    A clock time needs its decimals, minutes and seconds below 60 and hours below 24. One that has
    another form comes back as the text it is, with a warning: answers may hold such times
    (Source: reference `olmo/util.py`).

    Errors: FormatterError for text that is neither a number nor holds a ":".
    """
    if not isinstance(value, str):
        return value
    if ":" not in value:
        try:
            return float(value)
        except ValueError:
            raise FormatterError(
                f"the time {value!r} cannot be read; write seconds or [hours:]minutes:seconds.0"
            ) from None
    for form in _CLOCK_FORMS:
        try:
            time = datetime.strptime(value, form)
        except ValueError:
            continue
        whole = time.hour * 3600 + time.minute * 60 + time.second
        return whole + time.microsecond / 1_000_000
    log.warning("the time %r is kept as text: it isn't [hours:]minutes:seconds.0", value)
    return value


def clock_time(seconds: float, decimals: int) -> str:
    """Seconds as "HH:MM:SS.s".

    As in the reference, rounding is not carried (59.96 with one decimal is "00:00:60.0"), and
    without decimals the seconds have three digits ("00:00:005"). Source: QUIRKS, Formatter.
    """
    hours = int(seconds // 3600)
    minutes = int(seconds % 3600 // 60)
    return f"{hours:02}:{minutes:02}:{seconds % 60:0{decimals + 3}.{decimals}f}"


def prompt_times(
    values: Sequence[str | float], settings: FormatterSettings, rng: np.random.RandomState
) -> tuple[bool, list[str]]:
    """Formats times for a prompt: whether they are in seconds, and their texts.

    One draw decides for all of them in the mode "50-percent-seconds". Source:
    docs/reference.md#prompts.

    Errors: FormatterError for a time that cannot be read.
    """
    seconds = [_parsed_seconds(value) for value in values]
    mode, decimals = settings.timestamp_mode, settings.seconds_decimal_places
    if mode == "50-percent-seconds" and not rng.random() > 0.5:
        return False, [clock_time(second, decimals) for second in seconds]
    if mode == "seconds-to-tenth":
        decimals = _SECONDS_TO_TENTH_DECIMALS
    return True, [str(round(second, decimals)) for second in seconds]


def answer_time(value: str | float, settings: FormatterSettings) -> str:
    """Formats a time for an answer; text that is no time is returned unchanged.

    Rounds half to even; a whole number of type int has no decimals. Source:
    docs/reference.md#points-and-tracks.
    """
    seconds = parse_timestamp(value)
    if isinstance(seconds, str):
        return seconds
    if settings.output_timestamp_mode == "timestamp":
        return clock_time(seconds, settings.seconds_decimal_places)
    return str(round(seconds, settings.seconds_decimal_places))


def _parsed_seconds(value: str | float) -> float:
    seconds = parse_timestamp(value)
    if isinstance(seconds, str) or seconds is None:
        raise FormatterError(
            f"the time {value!r} cannot be read; write seconds or [hours:]minutes:seconds.0"
        )
    return seconds
