"""The smallest setup that has every part, shared by the training tests."""

import dataclasses
import resource
import signal
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import jax
import numpy as np
from random_batches import IMAGE, MULTI_IMAGE, TEXT, VIDEO, random_batch

from stts_jax.budget import row_budget
from stts_jax.config import Config, load_config
from stts_jax.data.bad_examples import BadExamples
from stts_jax.data.packing.fill_rates import FillRates
from stts_jax.data.packing.rows import row_sizes
from stts_jax.parallel.mesh import make_mesh, shard_batch
from stts_jax.training import run
from stts_jax.training.loop import RunResult
from stts_jax.training.run import RunParts
from stts_jax.training.step import TrainState, abstract_state, make_train_step

KEY = jax.random.key(0)
ALL_KINDS = (VIDEO, VIDEO, IMAGE, MULTI_IMAGE, TEXT)
SMALL = (
    "model.vit.image_size=32",
    "model.vit.positions=16",
    "model.vit.width=16",
    "model.vit.heads=2",
    "model.vit.head_dim=8",
    "model.vit.mlp_width=32",
    "model.vit.layers=4",
    "model.vit.feature_layers=[-1, -2]",
    "model.prune.prune_at=0",
    "model.connector.width=16",
    "model.connector.heads=2",
    "model.connector.head_dim=8",
    "model.connector.mlp_width=32",
    "model.llm.vocab_size=64",
    "model.llm.width=24",
    "model.llm.layers=2",
    "model.llm.heads=2",
    "model.llm.kv_heads=1",
    "model.llm.head_dim=8",
    "model.llm.mlp_width=32",
    "data.max_frames=4",
    "data.row_frames=4",
    "data.row_examples=2",
    "data.row_text_tokens=40",
    "data.batch_rows=8",
    "train.optimizer=adamw",
    "train.steps=8",
    "train.evaluate_every=0",
    "train.save_every=4",
    "train.log_every=2",
    *(f"train.{group}.warmup=2" for group in ("llm", "vit", "connector", "scorer")),
    *(f"train.{group}.learning_rate=1e-2" for group in ("llm", "vit", "connector", "scorer")),
)


def small_config(*overrides: str) -> Config:
    return load_config("tiny", [*SMALL, *overrides])


@cache
def single_mesh():
    return make_mesh(devices=jax.devices()[:1])


@cache
def train_step(*overrides: str):
    """The step of a setup on one device; tests that use the same one compile it once."""
    config = small_config(*overrides)
    return make_train_step(config, row_budget(config.model, config.data), single_mesh())


@cache
def _initial_arrays():
    return jax.device_get(jax.tree.leaves(random_state(small_config())))


def fresh_state(*overrides: str) -> TrainState:
    """An initial state, made once and copied (steps give it up).

    Overrides may only be such that leave the parameters as they are.
    """
    shapes = abstract_state(small_config(*overrides), single_mesh())
    arrays = [
        jax.device_put(array.copy(), leaf.sharding)
        for array, leaf in zip(_initial_arrays(), jax.tree.leaves(shapes), strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(shapes), arrays)


# What a run that did nothing returns.
ENDED = RunResult(
    step=4,
    bad_examples=0,
    stopped=False,
    stopped_by=None,
    left_running=False,
    steps_per_s=None,
    seconds=1.0,
    buckets={},
    metrics={},
    evaluation={},
)


def small_parts(**changes) -> RunParts:
    """One device, batches of numbers, no picture, and what is compiled is compiled once for all."""
    parts = RunParts(
        make_mesh=lambda _: single_mesh(),
        open_data=FakeBatches,
        init_state=lambda *_: fresh_state(),
        make_step=lambda *_: train_step(),
        plot=lambda _: None,
    )
    return dataclasses.replace(parts, **changes)


def train(config: Config, output: Path, **options) -> RunResult:
    """A run of small parts."""
    return run.train(config, output, **{"parts": small_parts(), **options})


def random_state(config: Config, mesh=None, key=None) -> TrainState:
    """Arbitrary parameters and moments of 0, made without compiling the initialisers."""
    rng = np.random.default_rng(0)
    abstract = abstract_state(config, mesh or single_mesh())

    def placed(leaf, array):
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda place: array[place])

    def random(leaf):
        return placed(leaf, 0.3 * rng.standard_normal(leaf.shape, np.float32))

    zeros = jax.tree.map(lambda leaf: placed(leaf, np.zeros(leaf.shape, leaf.dtype)), abstract)
    return dataclasses.replace(zeros, model=jax.tree.map(random, abstract.model))


def batch_for(config: Config, seed: int, mesh=None, **options):
    budget = row_budget(config.model, config.data)
    options.setdefault("kinds", ALL_KINDS)
    batch = random_batch(config.model, budget, config.data.batch_rows, seed, **options)
    return shard_batch(batch, mesh or single_mesh())


@contextmanager
def full_disk(room: int = 0):
    """A limit on the size of files stands for the full disk; both end in the same write error."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


class FakeBatches:
    """Stands for the pipeline: numbered random batches, of which each part has its rows."""

    def __init__(self, config, *, process_index=0, process_count=1, **_):
        self.config, self.number = config, 0
        self.part, self.parts = process_index, process_count
        self.budget = row_budget(config.model, config.data)
        self.fill_rates = FillRates(self.budget)
        self.bad = BadExamples(total=1, max_share=1.0)

    def __next__(self):
        self.number += 1
        rows = self.config.data.batch_rows
        batch = random_batch(self.config.model, self.budget, rows, self.number, ALL_KINDS)
        size = rows // self.parts
        own = slice(self.part * size, (self.part + 1) * size)
        batch = jax.tree.map(lambda array: array[own], batch)
        self.fill_rates.add(row_sizes(batch, self.config.model))
        return batch

    def get_state(self):
        return {"number": self.number, "part": self.part}

    def set_state(self, state):
        assert state["part"] == self.part
        self.number = state["number"]

    def close(self):
        pass
