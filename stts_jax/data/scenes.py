"""Procedural scenes: a few coloured shapes on a still background, in space and in time.

Every scene is made so that its questions need what pruning can lose: shapes that show for one
sampled frame only, shapes that move, colours that change. Cells that differ from the frame
before, and the first frame, hold everything that is asked. Scenes differ in how many cells that
is: in a still one hardly any, in a busy one up to thirteen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

COLOURS = {
    "red": (255, 60, 60),
    "green": (60, 225, 70),
    "blue": (80, 100, 255),
    "yellow": (250, 230, 60),
    "white": (245, 245, 245),
    "pink": (255, 110, 220),
}
# Shapes that are there from the start, and shapes that show for a moment only.
LASTING_SHAPES = ("circle", "square", "triangle")
BRIEF_SHAPES = ("cross", "ring")
# Backgrounds are dark and have no colour of their own, so that every shape is lighter: what is
# drawn is then a linear feature of the pixels, and a small model sees it within minutes.
BACKGROUND_GREY = (20, 30)
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
HALVES = ("early", "late")
EDGE = 2  # pixels; a shape that moves has a white edge on the side that it goes to

Role = Literal["static", "mover", "changer", "brief"]
Activity = Literal["still", "calm", "busy"]


@dataclass(frozen=True)
class SceneConfig:
    """Knobs of the difficulty; lengths are pixels, times seconds.

    Attributes:
      size: side of the frame.
      seconds, fps: of the file. Longer than (frames - 1) / sampling rate, so that asking for more
        frames really gives more.
      sampled_frames: how many frames a viewer is taken to sample; brief shapes show for
        `brief_frames` of these.
      activities: how much happens, each equally often.
      picture_odds: shares of the pictures with one shape, with two and so on. What a shape looks
        like is learnt where there is only one, and then which one is meant: where most pictures
        have several, one seed in three learnt neither.
      shape_size: smallest and largest.
      cell: side of the square that a shape is centred in.
      hops: cells that a moving shape moves by, each in one step and at a time of its own.
      contrast: of the background's texture.
      light: levels of grey on top, from left to right, as if light came from the right: a trace
        of positions in the pixels, beside the table of positions.
      colour_change: a shape that changes turns to a colour at least so far from its own, levels of
        red, green and blue together, if one is left. From pink to white (170) a patch's features
        hardly change, and nothing could tell from them that there is something to keep.
      multiple_choice: share of questions with options.
      questions: per video, at most.
    """

    size: int = 48
    seconds: float = 8.0
    fps: int = 4
    sampled_frames: int = 8
    brief_frames: int = 1
    activities: tuple[Activity, ...] = ("still", "calm", "busy")
    picture_odds: tuple[float, ...] = (0.36, 0.36, 0.18, 0.1)
    shape_size: tuple[int, int] = (14, 14)
    cell: int = 16
    hops: int = 2
    contrast: int = 14
    light: tuple[int, ...] = (0, 25, 50)
    colour_change: int = 250
    multiple_choice: float = 0.25
    questions: int = 6

    @property
    def sampled_gap(self) -> float:
        """Seconds between sampled frames."""
        return self.seconds / (self.sampled_frames - 1)


@dataclass(frozen=True)
class Actor:
    """One shape. `start` and `end` are (x, y) of its top left corner; it shows in [appears, goes).

    `hops` are the times at which a mover moves one step, `towards` the (x, y) direction in which it
    does; `turns` and `turns_at` are the colour that a changer takes on and when.
    """

    role: Role
    shape: str
    colour: str
    size: int
    start: tuple[int, int]
    end: tuple[int, int]
    appears: float = 0.0
    goes: float = float("inf")
    hops: tuple[float, ...] = ()
    towards: tuple[int, int] = (0, 0)
    turns: str | None = None
    turns_at: float = float("inf")

    def position(self, seconds: float) -> tuple[int, int]:
        """Corner at a time."""
        done = sum(hop <= seconds for hop in self.hops)
        share = done / len(self.hops) if self.hops else 0.0
        x, y = (round(a + (b - a) * share) for a, b in zip(self.start, self.end, strict=True))
        return x, y

    def colour_at(self, seconds: float) -> str:
        """Name of the colour at a time."""
        return self.turns if self.turns and seconds >= self.turns_at else self.colour


@dataclass(frozen=True)
class Scene:
    """Actors and the (H, W, 3) uint8 background."""

    actors: tuple[Actor, ...]
    background: np.ndarray

    def having(self, *roles: Role) -> list[Actor]:
        """Actors with one of the roles, in order of appearance."""
        chosen = [actor for actor in self.actors if actor.role in roles]
        return sorted(chosen, key=lambda actor: actor.appears)


def half_of(actor: Actor, config: SceneConfig) -> str:
    """Returns the half of the video that a brief shape appears in."""
    middle = (actor.appears + actor.goes) / 2 / config.seconds
    return HALVES[int(middle * 2)]


def plan_scene(rng: np.random.Generator, config: SceneConfig) -> Scene:
    """Draw a scene. All colours (also those turned to) and all shapes in it are different."""
    background = _background(rng, config)
    roles = _roles(rng, rng.choice(config.activities).item())
    while True:  # until everything finds room; the roles stay, or full scenes would be rare
        actors = _plan_actors(rng, roles, config)
        if actors is not None:
            return Scene(actors, background)


def plan_picture(rng: np.random.Generator, config: SceneConfig) -> Scene:
    """Draw a moment of a scene: a few shapes of any kind, a cell for each, half of them moving."""
    count = 1 + int(rng.choice(len(config.picture_odds), p=config.picture_odds))
    shapes = rng.permutation(LASTING_SHAPES + BRIEF_SHAPES)[:count].tolist()
    colours = rng.permutation(list(COLOURS))[:count].tolist()
    side, size = config.size // config.cell, config.shape_size[1]
    inset = (config.cell - size) // 2
    actors = []
    for cell, shape, colour in zip(rng.permutation(side**2)[:count], shapes, colours, strict=True):
        corner = (int(cell % side) * config.cell + inset, int(cell // side) * config.cell + inset)
        actor = Actor("static", shape, colour, size, corner, corner)
        if rng.random() < 0.5:
            towards = DIRECTIONS[rng.choice(list(DIRECTIONS))]
            actor = replace(actor, role="mover", hops=(0.0,), towards=towards)
        actors.append(actor)
    return Scene(tuple(actors), _background(rng, config))


def render(scene: Scene, config: SceneConfig) -> np.ndarray:
    """All frames of the file, (seconds * fps, H, W, 3) uint8."""
    count = round(config.seconds * config.fps)
    frames = np.repeat(scene.background[None], count, axis=0)
    for actor in scene.actors:
        mask = shape_mask(actor.shape, actor.size)
        for k in range(count):
            time = k / config.fps
            if actor.appears <= time < actor.goes:
                x, y = actor.position(time)
                window = frames[k, y : y + actor.size, x : x + actor.size]
                window[mask] = COLOURS[actor.colour_at(time)]
                if actor.hops and time >= actor.hops[0]:
                    _leading_edge(window, actor.towards)[...] = 255
    return frames


def _leading_edge(window: np.ndarray, step: tuple[int, int]) -> np.ndarray:
    """Returns a view of the front part of a shape's window, in its direction."""
    parts = {-1: slice(0, EDGE), 0: slice(None), 1: slice(-EDGE, None)}
    x, y = step
    return window[parts[y], parts[x]]


# ------------------------------------------------------------------------------------- planning


def _plan_actors(
    rng: np.random.Generator, roles: list[Role], config: SceneConfig
) -> tuple[Actor, ...] | None:
    briefs = roles.count("brief")
    lasting, passing = rng.permutation(LASTING_SHAPES), rng.permutation(BRIEF_SHAPES)
    shapes = [*lasting[: len(roles) - briefs].tolist(), *passing[:briefs].tolist()]
    colours = rng.permutation(list(COLOURS)).tolist()
    visible_at = _brief_frames(rng, briefs, config)
    taken: list[tuple[int, int, int, int]] = []
    actors = []
    for role, shape in zip(roles, shapes, strict=True):
        path = _free_path(rng, role, taken, config)
        if path is None:
            return None
        start, end, size = path
        actor = Actor(role, shape, colours.pop(), size, start, end)
        if role == "brief":
            first = (visible_at.pop() - 0.5) * config.sampled_gap
            goes = first + config.brief_frames * config.sampled_gap
            actor = replace(actor, appears=first, goes=goes)
        elif role == "changer":
            turns_at = _between_frames(rng, 1, config)[0]
            # What it turns to is asked, so it is that which is drawn first, all colours alike.
            before = _colour_far_from(actor.colour, colours, config)
            colours.remove(before)
            actor = replace(actor, colour=before, turns=actor.colour, turns_at=turns_at)
        elif role == "mover":
            x, y = np.sign(np.subtract(end, start)).tolist()
            hops = _between_frames(rng, config.hops, config)
            actor = replace(actor, hops=hops, towards=(x, y))
        actors.append(actor)
    return tuple(actors)


def _roles(rng: np.random.Generator, activity: Activity) -> list[Role]:
    """Draws who is in a scene: one to three lasting shapes, then up to two brief ones.

    One that changes is the first, as long as there are colours far from each other.
    """
    count = int(rng.integers(1, len(LASTING_SHAPES) + 1))
    some: Role = "mover" if rng.random() < 0.5 else "changer"
    static: list[Role] = ["static"]
    mover: list[Role] = ["mover"]
    brief: list[Role] = ["brief"]
    if activity == "still":
        return static * count + brief * int(rng.integers(2))
    if activity == "calm":
        return [some, *static * (count - 1), *brief]
    return [*(["changer", *mover * (count - 1)] if count > 1 else mover), *brief * 2]


def _colour_far_from(colour: str, others: list[str], config: SceneConfig) -> str:
    """The first of the others that is far enough away, the farthest if none is."""

    def distance(other: str) -> int:
        return int(np.abs(np.subtract(COLOURS[colour], COLOURS[other])).sum())

    far = (other for other in others if distance(other) >= config.colour_change)
    return next(far, max(others, key=distance))


def _brief_frames(rng: np.random.Generator, briefs: int, config: SceneConfig) -> list[int]:
    """Sampled frames at which brief shapes first show: halves equally often, never the ends."""
    inner = np.arange(1, config.sampled_frames - config.brief_frames)
    halves = np.array_split(inner, len(HALVES))
    chosen = rng.permutation(len(HALVES))[:briefs]
    return [int(rng.choice(halves[half])) for half in chosen]


def _between_frames(rng: np.random.Generator, count: int, config: SceneConfig) -> tuple[float, ...]:
    """Different times, each in the middle between two sampled frames, not at the very ends."""
    frames = rng.choice(np.arange(2, config.sampled_frames - 1), size=count, replace=False)
    return tuple((float(frame) - 0.5) * config.sampled_gap for frame in np.sort(frames))


def _free_path(
    rng: np.random.Generator,
    role: Role,
    taken: list[tuple[int, int, int, int]],
    config: SceneConfig,
) -> tuple[tuple[int, int], tuple[int, int], int] | None:
    """Draws start, end and size of a shape that crosses no other's path; None without room."""
    size = int(rng.integers(config.shape_size[0], config.shape_size[1] + 1))
    inset = (config.cell - size) // 2
    for _ in range(60):
        start, end = _path(rng, role, config)
        low, high = np.minimum(start, end), np.maximum(start, end) + config.cell
        box = (int(low[0]), int(low[1]), int(high[0]), int(high[1]))
        if not any(_overlap(box, other) for other in taken):
            taken.append(box)
            x, y = (int(v) + inset for v in start)
            to_x, to_y = (int(v) + inset for v in end)
            return (x, y), (to_x, to_y), size
    return None


def _path(
    rng: np.random.Generator, role: Role, config: SceneConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Corners of the cell of a shape at the start and at the end."""
    cells = config.size // config.cell
    if role == "mover":
        step = np.array(DIRECTIONS[rng.choice(list(DIRECTIONS))]) * config.hops
        low, high = np.maximum(0, -step), cells - np.maximum(0, step)
        start = np.array([rng.integers(a, b) for a, b in zip(low, high, strict=True)])
        return start * config.cell, (start + step) * config.cell
    start = rng.integers(0, cells, size=2) * config.cell
    return start, start


def _overlap(first: tuple[int, int, int, int], second: tuple[int, int, int, int]) -> bool:
    return (
        first[0] < second[2]
        and second[0] < first[2]
        and first[1] < second[3]
        and second[1] < first[3]
    )


# -------------------------------------------------------------------------------------- drawing


def _background(rng: np.random.Generator, config: SceneConfig) -> np.ndarray:
    y, x = np.mgrid[: config.size, : config.size] / config.size
    angle, kind = rng.random() * 2 * np.pi, rng.integers(3)
    along = x * np.cos(angle) + y * np.sin(angle)
    if kind == 0:
        texture = 2 * (along - along.min()) / np.ptp(along) - 1
    elif kind == 1:
        texture = np.sign(np.sin(along * 2 * np.pi * rng.integers(3, 8)))
    else:
        blocks = rng.uniform(-1, 1, (config.size // 4, config.size // 4))
        texture = np.kron(blocks, np.ones((4, 4)))
    light = np.array(config.light)[(x * len(config.light)).astype(int)]
    grey = rng.integers(*BACKGROUND_GREY) + texture * rng.uniform(0.4, 1.0) * config.contrast
    grey = grey + light
    return np.repeat(grey[..., None], 3, axis=-1).clip(0, 255).astype(np.uint8)


def shape_mask(shape: str, size: int) -> np.ndarray:
    """(size, size) bool, where a shape covers its square.

    Each shape has a hatching of its own, as suits in a game of cards have colours: at this size
    outlines alone take a small model long to tell apart.
    """
    row, column = np.mgrid[:size, :size] // 2
    y, x = (np.mgrid[:size, :size] + 0.5) / size * 2 - 1
    masks = {
        "circle": np.hypot(x, y) <= 1,
        "square": (row + column) % 2 == 0,
        "triangle": (np.abs(x) <= (y + 1.4) / 2) & (row % 2 == 0),
        "cross": ((np.abs(x) <= 0.6) | (np.abs(y) <= 0.6)) & (column % 2 == 0),
        "ring": np.maximum(np.abs(x), np.abs(y)) >= 0.6,
    }
    return masks[shape]
