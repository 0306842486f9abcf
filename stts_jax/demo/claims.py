"""Checks the claims of the demo against its summary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stts_jax.demo.plan import RANDOM, STTS, TEXT_ONLY, UNPRUNED

# Accuracies in percent, as a summary states them as shares.
UNPRUNED_AT_LEAST = 90.0
GUESSING_AT_MOST = 35.0
TEXT_ONLY_ABOVE_GUESSING = 10.0
LOST_AT_HALF = 2.0
AHEAD_OF_RANDOM = 8.0


@dataclass(frozen=True)
class Claim:
    """A claim, its figures, and whether they support it."""

    text: str
    figures: str
    holds: bool


def accuracy_of(summary: Mapping[str, Any], method: str, k: int) -> float:
    """Returns the accuracy of one run in percent."""
    for run in summary["runs"]:
        if run["method"] == method and run["k"] == k and run["packing"] == "stream":
            return 100.0 * run["accuracy"]
    raise KeyError(f"the summary has no run of '{method}' at {k} %; run `make demo` again")


def claims(summary: Mapping[str, Any]) -> list[Claim]:
    """Returns every claim with its figures."""
    guessing = 100.0 * summary["guessing"]
    unpruned = accuracy_of(summary, UNPRUNED, 0)
    text_only = accuracy_of(summary, TEXT_ONLY, 100)
    half = accuracy_of(summary, STTS.name, 50)
    ahead = {
        k: accuracy_of(summary, STTS.name, k) - accuracy_of(summary, RANDOM.name, k)
        for k in (70, 80)
    }
    best = max(ahead, key=lambda k: ahead[k])
    return [
        Claim(
            f"unpruned reaches {UNPRUNED_AT_LEAST:g} %, guessing at most {GUESSING_AT_MOST:g} %",
            f"{unpruned:.1f} %, {guessing:.1f} %",
            unpruned >= UNPRUNED_AT_LEAST and guessing <= GUESSING_AT_MOST,
        ),
        Claim(
            f"without visual tokens it is no more than {TEXT_ONLY_ABOVE_GUESSING:g} points above "
            "guessing",
            f"{text_only:.1f} %",
            text_only <= guessing + TEXT_ONLY_ABOVE_GUESSING,
        ),
        Claim(
            f"STTS at 50 % is within {LOST_AT_HALF:g} points of unpruned",
            f"{half:.1f} % against {unpruned:.1f} %",
            half >= unpruned - LOST_AT_HALF,
        ),
        Claim(
            f"at 70 or 80 % STTS is at least {AHEAD_OF_RANDOM:g} points ahead of random",
            f"{ahead[best]:+.1f} points at {best} %",
            ahead[best] >= AHEAD_OF_RANDOM,
        ),
        Claim(
            "STTS keeps moving and appearing shapes more than the still background",
            f"{100 * summary['kept_moving']:.0f} % against "
            f"{100 * summary['kept_still']:.0f} % at {summary['kept_ratio']} %",
            summary["kept_moving"] >= summary["kept_still"] + 0.3,
        ),
    ]
