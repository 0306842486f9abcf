"""Reads a draw of the training order: arrays of an example, or its fault."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from stts_jax.budget import Budget, row_budget
from stts_jax.config import DataConfig, ModelConfig
from stts_jax.data.bad_examples import READING_ERRORS, Unreadable
from stts_jax.data.datasets.base import SourceExample
from stts_jax.data.example_chain import ExampleChain, example_rng
from stts_jax.data.media import Media
from stts_jax.data.mixture_order import Draw
from stts_jax.data.packing.row_remedies import remedy
from stts_jax.data.packing.rows import Arrays, BudgetError, Excess, example_sizes, excess
from stts_jax.data.sources.source import Source
from stts_jax.data.text.message_weight import MessageWeight


@dataclass(frozen=True)
class Reader:
    """Turns draws of examples into arrays; runs in the worker processes.

    Attributes:
      sources: the datasets.
      chains: for each of them.
      data: says what a row holds, which every example has to fit.
      seed: of all that is random in examples.
      models: configurations at each ratio that rows are packed for, by default that of the chains.
    """

    sources: tuple[Source, ...]
    chains: tuple[ExampleChain, ...]
    data: DataConfig
    seed: int
    models: tuple[ModelConfig, ...] = ()

    @cached_property
    def rows(self) -> tuple[tuple[ModelConfig, Budget], ...]:
        """The rows that every example has to fit: of each ratio."""
        models = self.models or (self.chains[0].model,)
        return tuple((model, row_budget(model, self.data)) for model in models)

    def __call__(self, draw: Draw) -> dict[str, Any] | Unreadable:
        """Read an example; its randomness depends on seed, number and epoch only.

        Returns:
          `example`, its arrays; `sizes`, see `example_sizes`; its `name`; the `draw`; and
          `left_out`, lines of it that fit no row, where others do. Or why it can't be used.
        """
        source, chain = self.sources[draw.source], self.chains[draw.source]
        number = source.number(draw.index)
        name = source.called(draw.index)
        rng = example_rng(number, draw.epoch, self.seed)
        try:
            example = source.get(draw.index, rng)
            media = chain.load(example, rng)
            made = _Fitting(chain, self.data, self.rows, media, rng, source.weight)
            arrays, sizes, left_out = made.fitted(example)
        except (*READING_ERRORS, BudgetError) as error:
            return Unreadable(name, str(error), draw=draw)
        found = {"name": name, "draw": tuple(draw), "left_out": left_out}
        return {**found, "example": arrays, "sizes": sizes}


@dataclass(frozen=True)
class _Fitting:
    """Makes arrays of an example that fit a row, without those lines that are too long."""

    chain: ExampleChain
    data: DataConfig
    rows: tuple[tuple[ModelConfig, Budget], ...]
    media: Media
    rng: np.random.RandomState
    weight: MessageWeight | None

    def fitted(
        self, example: SourceExample
    ) -> tuple[Arrays, dict[str, int], tuple[Unreadable, ...]]:
        """Arrays, their sizes, and the lines that were left out.

        Raises:
          BudgetError: if no line of it fits a row.
        """
        state, left_out, lines = self.rng.get_state(), [], len(example.annotations)
        arrays, sizes = self._made(example, self.chain)
        while over := self._excess(arrays):
            if len(example.annotations) == 1 or not over.of_text:
                raise BudgetError(f"it {over}; {self._remedy(example, sizes, state)}")
            example, bad = self._without_longest(example, 1 / lines, state)
            left_out.append(bad)
            self.rng.set_state(state)
            arrays, sizes = self._made(example, self.chain)
        return arrays, sizes, tuple(left_out)

    def _made(self, example: SourceExample, chain: ExampleChain) -> tuple[Arrays, dict[str, int]]:
        arrays = chain.prepare(example, self.media, "train", self.rng, self.weight).arrays
        return arrays, example_sizes(arrays, chain.model)

    def _excess(self, arrays: Arrays) -> Excess | None:
        """Returns by how much an example is too large for a row of some ratio."""
        found = (excess(example_sizes(arrays, model), budget) for model, budget in self.rows)
        return next((over for over in found if over), None)

    def _without_longest(
        self, example: SourceExample, share: float, state: Any
    ) -> tuple[SourceExample, Unreadable]:
        """The example without its longest line, and what is said of that."""
        alone = [_of_lines(example, [number]) for number in range(len(example.annotations))]
        sizes, overs = [], []
        for one in alone:
            self.rng.set_state(state)
            arrays, own = self._made(one, self.chain)
            sizes.append(own)
            overs.append(self._excess(arrays))
        longest = max(range(len(sizes)), key=lambda number: sizes[number]["tokens"])
        over = overs[longest]
        if over:
            reason = f"it {over}; {self._remedy(alone[longest], sizes[longest], state)}"
        else:
            reason = (
                f"it fits no row beside the {len(alone) - 1} other lines about the same media; "
                "lower data.questions_per_video or raise data.row_text_tokens"
            )
        named = example.names[longest] if example.names else f"annotation {longest} of an example"
        kept = [number for number in range(len(alone)) if number != longest]
        return _of_lines(example, kept), Unreadable(named, reason, share)

    def _remedy(self, example: SourceExample, sizes: dict[str, int], state: Any) -> str:
        """Says what to set so that the example fits a row."""

        def with_crops(count: int) -> dict[str, int]:
            settings = self.chain.settings
            images = dataclasses.replace(settings.images, max_crops=count, max_group_crops=count)
            chain = dataclasses.replace(
                self.chain, settings=dataclasses.replace(settings, images=images)
            )
            self.rng.set_state(state)
            return self._made(example, chain)[1]

        crops = with_crops if self.media.images else None
        return remedy(sizes, self.chain.model, self.data, crops)


def _of_lines(example: SourceExample, numbers: list[int]) -> SourceExample:
    return dataclasses.replace(
        example,
        annotations=tuple(example.annotations[number] for number in numbers),
        names=tuple(example.names[number] for number in numbers) if example.names else (),
    )
