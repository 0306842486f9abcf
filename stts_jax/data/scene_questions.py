"""Questions about a procedural scene, each with an answer that text alone doesn't give away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stts_jax.data.scenes import (
    BRIEF_SHAPES,
    COLOURS,
    DIRECTIONS,
    LASTING_SHAPES,
    THIRDS,
    Actor,
    Scene,
    SceneConfig,
    third_of,
)

ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "middle", "right")
PLACES = tuple(
    "centre" if row == column else f"{row} {column}" for row in ROWS for column in COLUMNS
)
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


def place(actor: Actor, config: SceneConfig) -> str:
    """In which ninth of the frame the middle of a shape is at the start."""
    column, row = (int((corner + actor.size / 2) * 3 / config.size) for corner in actor.start)
    return PLACES[3 * row + column]


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
    actor = _pick(rng, scene.having("static", "mover", "changer"))
    return actor and (f"What shape is {actor.colour} at the start?", actor.shape)


def _colour(scene: Scene, rng: np.random.Generator, config: SceneConfig) -> Asked:
    actor = _pick(rng, scene.having("static", "mover"))
    return actor and (f"What colour is the {actor.shape}?", actor.colour)


def _where(scene: Scene, rng: np.random.Generator, config: SceneConfig) -> Asked:
    actor = _pick(rng, scene.having("static", "changer"))
    return actor and (f"Where is the {actor.shape}?", place(actor, config))


def _count(scene: Scene, rng: np.random.Generator, config: SceneConfig) -> Asked:
    shapes = scene.having("static", "mover", "changer")
    return "How many shapes at the start?", str(len(shapes))


def _direction(scene: Scene, rng: np.random.Generator, config: SceneConfig) -> Asked:
    actor = _pick(rng, scene.having("mover"))
    return actor and (f"Which way does the {actor.shape} move?", direction(actor))


def _change(scene: Scene, rng: np.random.Generator, config: SceneConfig) -> Asked:
    actor = _pick(rng, scene.having("changer"))
    return actor and (f"What colour does the {actor.shape} turn?", str(actor.turns))


def _brief_colour(scene: Scene, rng: np.random.Generator, config: SceneConfig) -> Asked:
    actor = _pick(rng, scene.having("brief"))
    return actor and (f"What colour is the {actor.shape}?", actor.colour)


def _brief_where(scene: Scene, rng: np.random.Generator, config: SceneConfig) -> Asked:
    actor = _pick(rng, scene.having("brief"))
    return actor and (f"Where is the {actor.shape}?", place(actor, config))


def _when(scene: Scene, rng: np.random.Generator, config: SceneConfig) -> Asked:
    actor = _pick(rng, scene.having("brief"))
    return actor and (f"When is the {actor.shape} there?", third_of(actor, config))


def _order(scene: Scene, rng: np.random.Generator, config: SceneConfig) -> Asked:
    briefs = scene.having("brief")
    return ("Which shape comes first?", briefs[0].shape) if len(briefs) == 2 else None


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
    "order": _order,
}
QUESTION_TYPES = tuple(_MAKERS)


def describe(scene: Scene) -> list[SceneQuestion]:
    """Two captions, to learn to see from: what is there at the start, and what happens then."""
    start = sorted(scene.having("static", "mover", "changer"), key=lambda a: a.start[::-1])
    events = sorted(
        (event for actor in scene.actors for event in _events(actor)), key=lambda event: event[0]
    )
    return [
        SceneQuestion("Describe the start.", ", ".join(map(_named, start)), "caption"),
        SceneQuestion("What happens?", ", ".join(text for _, text in events), "caption"),
    ]


def _named(actor: Actor) -> str:
    return f"{actor.colour} {actor.shape}"


def _events(actor: Actor) -> list[tuple[float, str]]:
    """What an actor does and when."""
    if actor.role == "mover":
        return [(actor.hops[0], f"{_named(actor)} moves {direction(actor)}")]
    if actor.role == "changer":
        return [(actor.turns_at, f"{_named(actor)} turns {actor.turns}")]
    return [(actor.appears, f"{_named(actor)} appears")] if actor.role == "brief" else []


# -------------------------------------------------------------------------------------- options


def _answers(asked: SceneQuestion, scene: Scene, config: SceneConfig) -> tuple[str, ...]:
    """Every answer that a question of this type may have."""
    fixed = {
        "where": PLACES,
        "brief_where": PLACES,
        "shape": LASTING_SHAPES,
        "order": BRIEF_SHAPES,
        "direction": tuple(DIRECTIONS),
        "when": THIRDS,
        "count": tuple(map(str, config.start_counts)),
    }
    return fixed.get(asked.type, tuple(COLOURS))


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
