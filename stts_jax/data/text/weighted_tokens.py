"""Tokens with loss weights, and the joining of text and visual tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class VisionBlock:
    """Tokens of one image or video.

    Attributes:
      tokens: (n,) ids.
      positions: (n,) rotary positions counted from 0, None for one after the other.
    """

    tokens: np.ndarray
    positions: np.ndarray | None = None


def positions_within_segments(segments: np.ndarray) -> np.ndarray:
    """Counts for each token the earlier ones of its segment: (n,) ids -> (n,) int32."""
    positions = np.zeros(len(segments), np.int32)
    for segment in np.unique(segments):
        inside = segments == segment
        positions[inside] = np.arange(inside.sum(), dtype=np.int32)
    return positions


@dataclass(frozen=True)
class WeightedTokens:
    """Text: `ids` (n,) int32, and `weights` (n,) float32, the loss of predicting each."""

    ids: np.ndarray
    weights: np.ndarray

    def part(self, start: int, stop: int | None) -> WeightedTokens:
        """Tokens `start` to before `stop`, None for the end."""
        return WeightedTokens(self.ids[start:stop], self.weights[start:stop])


NO_TOKENS = WeightedTokens(np.zeros(0, np.int32), np.zeros(0, np.float32))


@dataclass(frozen=True)
class TokenLine:
    """Text and vision in order.

    Attributes:
      ids: (n,) int32.
      weights: (n,) float32, 0 for vision.
      positions: (n,) int32 rotary positions.
      end: the position after the last.
    """

    ids: np.ndarray
    weights: np.ndarray
    positions: np.ndarray
    end: int


def join(texts: Sequence[WeightedTokens]) -> WeightedTokens:
    """Several texts, at least one, as one."""
    return WeightedTokens(
        np.concatenate([text.ids for text in texts]),
        np.concatenate([text.weights for text in texts]),
    )


def interleave(texts: Sequence[WeightedTokens], blocks: Sequence[VisionBlock]) -> TokenLine:
    """The first text, the first block, the second text, and so on to the last text.

    Args:
      texts: one more than `blocks`.
      blocks: tokens of images or a video.
    """
    parts: list[WeightedTokens] = []
    positions: list[np.ndarray] = []
    end = 0
    for k, text in enumerate(texts):
        parts.append(text)
        positions.append(end + np.arange(len(text.ids)))
        end += len(text.ids)
        if k < len(blocks):
            tokens = blocks[k].tokens.astype(np.int32)
            own = blocks[k].positions
            own = np.arange(len(tokens)) if own is None else own
            parts.append(WeightedTokens(tokens, np.zeros(len(tokens), np.float32)))
            positions.append(end + own)
            end += int(own.max(initial=-1)) + 1
    text = join(parts)
    return TokenLine(text.ids, text.weights, np.concatenate(positions).astype(np.int32), end)
