"""Questions about a procedural scene, each with an answer that text alone doesn't give away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stts_jax.data.scenes import (
    COLOURS,
    DIRECTIONS,
    SHAPES,
    THIRDS,
    Actor,
    Scene,
    SceneConfig,
    third_of,
)

QUADRANTS = ("top left", "top right", "bottom left", "bottom right")
OPTIONS = 4


@dataclass(frozen=True)
class SceneQuestion:
    """A question; `options` is None for a short answer, `answer` always the text itself."""

    question: str
    answer: str
    type: str
    options: tuple[str, ...] | None = None


def ask(scene: Scene, rng: np.random.Generator, config: SceneConfig) -> list[SceneQuestion]:
    """Questions about `scene`, at most `config.questions`, in random order."""
    found = [make(scene, rng, config) for make in _MAKERS.values()]
    asked = [
        SceneQuestion(text, answer, name)
        for name, item in zip(_MAKERS, found, strict=True)
        if item is not None
        for text, answer in [item]
    ]
    chosen = rng.permutation(len(asked))[: config.questions]
    return [_with_options(asked[i], scene, rng, config) for i in chosen]


def quadrant(actor: Actor, config: SceneConfig) -> str:
    """Where the middle of a shape is at the start."""
    x, y = (corner + actor.size / 2 for corner in actor.start)
    return QUADRANTS[2 * (y >= config.size / 2) + (x >= config.size / 2)]


def direction(actor: Actor) -> str:
    """Which way a moving shape goes."""
    step = np.sign(np.subtract(actor.end, actor.start))
    return next(name for name, way in DIRECTIONS.items() if tuple(step) == way)


# ---------------------------------------------------------------------------- one of each type

Asked = tuple[str, str] | None
Maker = Callable[[Scene, np.random.Generator, SceneConfig], Asked]


def _pick(rng: np.random.Generator, actors: list[Actor]) -> Actor | None:
    return actors[rng.integers(len(actors))] if actors else None


def _shape(scene: Scene, rng: np.random.Generator, config: SceneConfig) -> Asked:
    actor = _pick(rng, scene.having("static", "mover"))
    return actor and (f"What shape is {actor.colour}?", actor.shape)


def _colour(scene: Scene, rng: np.random.Generator, config: SceneConfig) -> Asked:
    actor = _pick(rng, scene.having("static", "mover"))
    return actor and (f"What colour is the {actor.shape}?", actor.colour)


def _where(scene: Scene, rng: np.random.Generator, config: SceneConfig) -> Asked:
    actor = _pick(rng, scene.having("static", "changer"))
    return actor and (f"Where is the {actor.shape}?", quadrant(actor, config))


def _count(scene: Scene, rng: np.random.Generator, config: SceneConfig) -> Asked:
    return "How many shapes at the start?", str(len(scene.having("static", "mover", "changer")))


def _direction(scene: Scene, rng: np.random.Generator, config: SceneConfig) -> Asked:
    actor = _pick(rng, scene.having("mover"))
    return actor and (
        f"Which way does the {actor.colour} {actor.shape} move?",
        direction(actor),
    )


def _change(scene: Scene, rng: np.random.Generator, config: SceneConfig) -> Asked:
    actor = _pick(rng, scene.having("changer"))
    return actor and (f"What colour does the {actor.shape} turn?", str(actor.turns))


def _brief_shape(scene: Scene, rng: np.random.Generator, config: SceneConfig) -> Asked:
    briefs = scene.having("brief")
    return ("What shape appears briefly?", briefs[0].shape) if len(briefs) == 1 else None


def _brief_colour(scene: Scene, rng: np.random.Generator, config: SceneConfig) -> Asked:
    briefs = scene.having("brief")
    return ("What colour appears briefly?", briefs[0].colour) if len(briefs) == 1 else None


def _first_shape(scene: Scene, rng: np.random.Generator, config: SceneConfig) -> Asked:
    briefs = scene.having("brief")
    return ("What shape appears first?", briefs[0].shape) if len(briefs) == 2 else None


def _first_colour(scene: Scene, rng: np.random.Generator, config: SceneConfig) -> Asked:
    briefs = scene.having("brief")
    return ("What colour appears first?", briefs[0].colour) if len(briefs) == 2 else None


def _when(scene: Scene, rng: np.random.Generator, config: SceneConfig) -> Asked:
    actor = _pick(rng, scene.having("brief"))
    return actor and (f"When does the {actor.colour} shape appear?", third_of(actor, config))


_MAKERS: dict[str, Maker] = {
    "shape": _shape,
    "colour": _colour,
    "where": _where,
    "count": _count,
    "direction": _direction,
    "change": _change,
    "brief_shape": _brief_shape,
    "brief_colour": _brief_colour,
    "first_shape": _first_shape,
    "first_colour": _first_colour,
    "when": _when,
}
QUESTION_TYPES = tuple(_MAKERS)


# -------------------------------------------------------------------------------------- options


def _answers(asked: SceneQuestion, scene: Scene, config: SceneConfig) -> tuple[str, ...]:
    """Every answer that a question of this type may have."""
    fixed = {
        "where": QUADRANTS,
        "direction": tuple(DIRECTIONS),
        "when": THIRDS,
        "count": tuple(map(str, config.start_counts)),
    }
    return fixed.get(asked.type, SHAPES if asked.answer in SHAPES else tuple(COLOURS))


def _with_options(
    asked: SceneQuestion, scene: Scene, rng: np.random.Generator, config: SceneConfig
) -> SceneQuestion:
    if rng.random() >= config.multiple_choice:
        return asked
    seen = {word for actor in scene.actors for word in (actor.shape, actor.colour, actor.turns)}
    others = [a for a in _answers(asked, scene, config) if a != asked.answer]
    others = [others[i] for i in rng.permutation(len(others))]
    others.sort(key=lambda word: word not in seen)  # what else is in the video tempts most
    options = [asked.answer, *others[: OPTIONS - 1]]
    shuffled = tuple(options[i] for i in rng.permutation(len(options)))
    return SceneQuestion(asked.question, asked.answer, asked.type, shuffled)
