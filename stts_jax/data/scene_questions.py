"""Questions about a procedural scene, each with an answer that text alone doesn't give away.

An answer repeats what was asked about (`Where is the red one?`, `red left`): so a small model
has to look things up once, from the repeated word, and learns it in minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stts_jax.data.scenes import (
    COLOURS,
    DIRECTIONS,
    HALVES,
    LASTING_SHAPES,
    Actor,
    Scene,
    SceneConfig,
    half_of,
)

REGIONS = ("left", "centre", "right")
OPTIONS = 4
ABOUT_TIME = ("direction", "when", "change")


@dataclass(frozen=True)
class SceneQuestion:
    """A question; `options` is None for a short answer, `answer` always the text itself."""

    question: str
    answer: str
    type: str
    options: tuple[str, ...] | None = None


def ask(scene: Scene, rng: np.random.Generator, config: SceneConfig) -> list[SceneQuestion]:
    """Questions about `scene`, at most `config.questions`, in random order.

    Those about time are asked wherever they can be: they are learnt last.
    """
    found = [make(scene, rng, config) for make in _MAKERS.values()]
    asked = [
        SceneQuestion(*item, name)
        for name, item in zip(_MAKERS, found, strict=True)
        if item is not None
    ]
    order = rng.permutation(len(asked)).tolist()
    first = sorted(order, key=lambda i: asked[i].type not in ABOUT_TIME)[: config.questions]
    return [_with_options(asked[i], scene, rng, config) for i in order if i in first]


def ask_picture(scene: Scene, rng: np.random.Generator, config: SceneConfig) -> list[SceneQuestion]:
    """Questions about a picture, to learn to see from; most on positions, which take longest."""

    def some(count: int) -> list[Actor]:
        return [scene.actors[i] for i in rng.permutation(len(scene.actors))[:count]]

    asked = [("shape", _shape_of(actor)) for actor in some(2)]
    asked += [("colour", _colour_of(actor)) for actor in some(1)]
    asked += [("where", _region_of(actor, config)) for actor in some(3)]
    asked += [("direction", _direction_of(actor)) for actor in some(2) if actor.hops]
    asked.append(("count", (_COUNT, str(len(scene.actors)))))
    return [SceneQuestion(question, answer, kind) for kind, (question, answer) in asked]


def region_of(actor: Actor, config: SceneConfig) -> str:
    """Returns the third of the frame, from left to right, that a shape's centre starts in."""
    return REGIONS[int((actor.start[0] + actor.size / 2) * len(REGIONS) / config.size)]


def direction(actor: Actor) -> str:
    """Returns the direction in which a shape moves."""
    return next(name for name, unit in DIRECTIONS.items() if actor.towards == unit)


# ---------------------------------------------------------------------------- one of each type

Pair = tuple[str, str]
Asked = Pair | None
Maker = Callable[[Scene, np.random.Generator, SceneConfig], Asked]

_COUNT = "How many shapes at the start?"


def _shape_of(actor: Actor) -> Pair:
    return f"What shape is the {actor.colour} one?", f"{actor.colour} {actor.shape}"


def _colour_of(actor: Actor) -> Pair:
    return f"What colour is the {actor.shape}?", f"{actor.shape} {actor.colour}"


def _region_of(actor: Actor, config: SceneConfig) -> Pair:
    return f"Where is the {actor.colour} one?", f"{actor.colour} {region_of(actor, config)}"


def _direction_of(actor: Actor) -> Pair:
    return f"Which way does the {actor.colour} one move?", f"{actor.colour} {direction(actor)}"


def _pick(rng: np.random.Generator, actors: list[Actor]) -> Actor | None:
    return actors[rng.integers(len(actors))] if actors else None


def _shape(scene: Scene, rng: np.random.Generator, config: SceneConfig) -> Asked:
    actor = _pick(rng, scene.having("static", "mover"))
    return _shape_of(actor) if actor else None


def _colour(scene: Scene, rng: np.random.Generator, config: SceneConfig) -> Asked:
    actor = _pick(rng, scene.having("static", "mover"))
    return _colour_of(actor) if actor else None


def _where(scene: Scene, rng: np.random.Generator, config: SceneConfig) -> Asked:
    actor = _pick(rng, scene.having("static"))
    return _region_of(actor, config) if actor else None


def _count(scene: Scene, rng: np.random.Generator, config: SceneConfig) -> Asked:
    return _COUNT, str(len(scene.having("static", "mover", "changer")))


def _direction(scene: Scene, rng: np.random.Generator, config: SceneConfig) -> Asked:
    actor = _pick(rng, scene.having("mover"))
    return _direction_of(actor) if actor else None


def _change(scene: Scene, rng: np.random.Generator, config: SceneConfig) -> Asked:
    actor = _pick(rng, scene.having("changer"))
    if actor is None:
        return None
    return f"What colour does the {actor.shape} turn?", f"{actor.shape} {actor.turns}"


def _brief_colour(scene: Scene, rng: np.random.Generator, config: SceneConfig) -> Asked:
    actor = _pick(rng, scene.having("brief"))
    return _colour_of(actor) if actor else None


def _brief_where(scene: Scene, rng: np.random.Generator, config: SceneConfig) -> Asked:
    actor = _pick(rng, scene.having("brief"))
    return _region_of(actor, config) if actor else None


def _when(scene: Scene, rng: np.random.Generator, config: SceneConfig) -> Asked:
    actor = _pick(rng, scene.having("brief"))
    if actor is None:
        return None
    return (
        f"When is the {actor.colour} one there?",
        f"{actor.colour} {half_of(actor, config)}",
    )


_MAKERS: dict[str, Maker] = {
    "shape": _shape,
    "colour": _colour,
    "where": _where,
    "count": _count,
    "direction": _direction,
    "change": _change,
    "brief_colour": _brief_colour,
    "brief_where": _brief_where,
    "when": _when,
}


# -------------------------------------------------------------------------------------- options


def _answers(asked: SceneQuestion, scene: Scene, config: SceneConfig) -> tuple[str, ...]:
    """Returns all answers that this question has in any scene."""
    fixed = {
        "where": REGIONS,
        "brief_where": REGIONS,
        "shape": LASTING_SHAPES,
        "direction": tuple(DIRECTIONS),
        "when": HALVES,
        "count": tuple(str(1 + i) for i in range(len(LASTING_SHAPES))),
    }
    values = fixed.get(asked.type, tuple(COLOURS))
    if asked.answer in values:
        return values
    repeated = asked.answer.split(" ", 1)[0]
    return tuple(f"{repeated} {value}" for value in values)


def _with_options(
    asked: SceneQuestion, scene: Scene, rng: np.random.Generator, config: SceneConfig
) -> SceneQuestion:
    if rng.random() >= config.multiple_choice:
        return asked
    seen = {word for actor in scene.actors for word in (actor.shape, actor.colour, actor.turns)}
    others = [a for a in _answers(asked, scene, config) if a != asked.answer]
    others = [others[i] for i in rng.permutation(len(others))]
    others.sort(
        key=lambda text: text.split(" ", 1)[-1] not in seen
    )  # what else is in the video tempts most
    options = [asked.answer, *others[: OPTIONS - 1]]
    shuffled = tuple(options[i] for i in rng.permutation(len(options)))
    return SceneQuestion(asked.question, asked.answer, asked.type, shuffled)
