"""The reference's packer on sizes alone, to measure ours against (docs/reference.md#packer).

When its buffer is full and a further example comes, it packs those of the buffer that are of most
value together, by a knapsack table over two limits in coarse steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np


def knapsack(
    tokens: Sequence[int],
    images: Sequence[int],
    max_tokens: int,
    max_images: int,
    values: Sequence[float],
) -> list[int]:
    """Numbers of the items of most value that fit both limits, the last one first.

    Of equal sets, the one without the later item is taken; sums are float32.
    """
    table = np.zeros((len(tokens) + 1, max_tokens + 1, max_images + 1), np.float32)
    for item, (t, i, value) in enumerate(zip(tokens, images, values, strict=True)):
        table[item + 1] = table[item]
        if t <= max_tokens and i <= max_images:
            with_item = table[item, : max_tokens + 1 - t, : max_images + 1 - i] + np.float32(value)
            table[item + 1, t:, i:] = np.maximum(table[item + 1, t:, i:], with_item)
    taken = []
    t, i = max_tokens, max_images
    for item in reversed(range(len(tokens))):
        fits = tokens[item] <= t and images[item] <= i
        if fits and table[item + 1, t, i] != table[item, t, i]:
            taken.append(item)
            t, i = t - tokens[item], i - images[item]
    return taken


@dataclass
class ReferencePacker:
    """Packs (tokens, images) of examples.

    Attributes:
      max_tokens, max_images: limits of a pack.
      buffer_size: examples that wait.
      image_weight: value of an image, in tokens.
      lone_images: whether an example with the most images that fit is packed alone at once.
      waiting: (number, tokens, images) of what waits.
    """

    max_tokens: int
    max_images: int
    buffer_size: int
    image_weight: float = 1.0
    lone_images: bool = False
    waiting: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def step(self) -> int:
        """Tokens are counted in these."""
        return max(1, self.max_tokens // 512)

    def add(self, number: int, tokens: int, images: int) -> list[int] | None:
        """Take an example in; returns the numbers of a pack's examples, if one is made.

        Raises:
          RuntimeError: if nothing that waits fits a pack.
        """
        fills_tokens = self._steps(tokens) >= self._steps(self.max_tokens)
        if fills_tokens or (self.lone_images and images >= self.max_images):
            return [number]
        pack = None
        if len(self.waiting) == self.buffer_size:
            pack = self._pack()
        self.waiting.append((number, tokens, images))
        return pack

    def _pack(self) -> list[int]:
        _, tokens, images = zip(*self.waiting, strict=True)
        taken = knapsack(
            [self._steps(t) for t in tokens],
            images,
            self._steps(self.max_tokens),
            self.max_images,
            [t + i * self.image_weight for t, i in zip(tokens, images, strict=True)],
        )
        if not taken:
            raise RuntimeError("nothing that waits fits")
        pack = [self.waiting[item][0] for item in taken]
        self.waiting = [w for item, w in enumerate(self.waiting) if item not in taken]
        return pack

    def _steps(self, tokens: int) -> int:
        return -(-tokens // self.step)


def packs_of(packer: ReferencePacker, sizes: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Numbers of the examples in each pack of a stream of (tokens, images)."""
    packs = (packer.add(number, *size) for number, size in enumerate(sizes))
    return [pack for pack in packs if pack is not None]
