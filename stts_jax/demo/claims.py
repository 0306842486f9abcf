"""Checks the claims of the demo against its summaries: of one seed, and of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stts_jax.demo.plan import AUTO, RANDOM, STTS, TEXT_ONLY, UNPRUNED, specialist
from stts_jax.demo.summaries import accuracy_of, run_of, runs_of

# Accuracies in percent, as a summary states them as shares.
UNPRUNED_AT_LEAST = 90.0
GUESSING_AT_MOST = 35.0
TEXT_ONLY_ABOVE_GUESSING = 10.0
LOST_AT_MOST = 2.0
NEARLY_WHOLE = (30, 50, 70)  # ratios at which no more than `LOST_AT_MOST` is lost
HIGH = 80  # the ratio at which methods differ
AHEAD_OF_RANDOM = 10.0
AUTO_AHEAD = 2.0
AS_MANY = 1.05  # times the tokens of a fixed ratio; a threshold was found on other videos
BEHIND_SPECIALISTS = 1.0


@dataclass(frozen=True)
class Claim:
    """A claim, its figures, and whether they support it."""

    text: str
    figures: str
    holds: bool


def claims(summary: Mapping[str, Any]) -> list[Claim]:
    """Returns every claim about one run with its figures."""
    guessing = 100.0 * summary["guessing"]
    unpruned = accuracy_of(summary, UNPRUNED, 0)
    text_only = accuracy_of(summary, TEXT_ONLY, 100)
    ours = {k: accuracy_of(summary, STTS.name, k) for k in (*NEARLY_WHOLE, HIGH)}
    most_lost = min(NEARLY_WHOLE, key=lambda k: ours[k])
    ahead = ours[HIGH] - accuracy_of(summary, RANDOM.name, HIGH)
    # Of models that drop as much of each video, the best.
    ours_there = run_of(summary, STTS.name, HIGH)
    own_there = runs_of(summary, specialist(HIGH).name).get(HIGH, ours_there)
    fixed = max(ours_there, own_there, key=lambda run: run["accuracy"])
    auto = run_of(summary, AUTO.name, HIGH)
    gain = 100.0 * (auto["accuracy"] - fixed["accuracy"])
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
            f"one checkpoint is within {LOST_AT_MOST:g} points of unpruned at "
            f"{', '.join(map(str, NEARLY_WHOLE))} %",
            f"{ours[most_lost]:.1f} % at {most_lost} % against {unpruned:.1f} %",
            ours[most_lost] >= unpruned - LOST_AT_MOST,
        ),
        Claim(
            f"at {HIGH} % it is at least {AHEAD_OF_RANDOM:g} points ahead of random",
            f"{ahead:+.1f} points",
            ahead >= AHEAD_OF_RANDOM,
        ),
        Claim(
            f"a threshold that drops {HIGH} % on average is at least {AUTO_AHEAD:g} points ahead "
            f"of dropping {HIGH} % of each video",
            f"{100 * auto['accuracy']:.1f} % with {auto['visual_tokens']:.1f} tokens against "
            f"{100 * fixed['accuracy']:.1f} % with {fixed['visual_tokens']:.1f}",
            gain >= AUTO_AHEAD and auto["visual_tokens"] <= AS_MANY * fixed["visual_tokens"],
        ),
        Claim(
            "it keeps moving and appearing shapes more than the still background",
            f"{100 * summary['kept_moving']:.0f} % against "
            f"{100 * summary['kept_still']:.0f} % at {summary['kept_ratio']} %",
            summary["kept_moving"] >= summary["kept_still"] + 0.3,
        ),
    ]


def claims_over_seeds(
    summaries: Sequence[Mapping[str, Any]], specialists: Sequence[int]
) -> list[Claim]:
    """Returns the claims about several seeds: those of each one, and those about their means.

    Args:
      summaries: of seeds for which STTS was trained at each of the ratios too.
      specialists: these ratios in percent.
    """
    found = []
    for held in zip(*map(claims, summaries), strict=True):
        holding = sum(claim.holds for claim in held)
        figures = f"{holding} of {len(held)} seeds"
        found.append(Claim(held[0].text, figures, holding == len(held)))
    for k in specialists:
        gaps = [
            accuracy_of(each, STTS.name, k) - accuracy_of(each, specialist(k).name, k)
            for each in summaries
        ]
        mean = sum(gaps) / len(gaps)
        text = (
            f"at {k} % one checkpoint is within {BEHIND_SPECIALISTS:g} point of the model trained "
            "there, in the mean over seeds"
        )
        figures = f"{mean:+.2f} points, {min(gaps):+.1f} to {max(gaps):+.1f}"
        found.append(Claim(text, figures, mean >= -BEHIND_SPECIALISTS))
    return found
