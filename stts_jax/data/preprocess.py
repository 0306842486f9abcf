"""A video and its questions to the arrays of one example.

Several questions about a video share it: they are branches of a tree whose trunk is the video.
Every branch starts at the position after the trunk, and sees the trunk and itself only.
Source: olmo/preprocessing/text_preprocessor.py and video_preprocessor.py (DATA 3.4, 5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from stts_jax.budget import MultimodalType
from stts_jax.config import ModelConfig
from stts_jax.data.examples import Question
from stts_jax.data.image import pooling_index
from stts_jax.data.prompts import question_text, timestamp_text, user_turn
from stts_jax.data.tokenizer import Tokenizer

SHARED = 10000  # subsegment id of what every branch sees
FrameTokens = Literal["video", "frame"]
ExampleArrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Frames:
    """What is left of a video before text is added.

    Attributes:
      patches: (n, N, patch_dim) uint8.
      timestamps: (n,) float64 seconds.
    """

    patches: np.ndarray
    timestamps: np.ndarray


@dataclass(frozen=True)
class Preprocessor:
    """Makes examples for a model.

    Attributes:
      model: sizes.
      tokenizer: for all text.
      frame_tokens: where `<frame_start>` and `<frame_end>` stand: `video`, once around the whole
        video, or `frame`, around every frame's patches with the time before them (the form that
        the STTS weights were trained with).
      shuffle: in training, the visual tokens of each frame come in random order.
    """

    model: ModelConfig
    tokenizer: Tokenizer
    frame_tokens: FrameTokens = "video"
    shuffle: bool = False

    def training(
        self, frames: Frames, questions: Sequence[Question], rng: np.random.Generator
    ) -> ExampleArrays:
        """Arrays of a video with all its questions, in random order, with answers.

        Returns:
          The arrays of `budget.batch_arrays` for this example alone: no row axis and no padding,
          `num_images` and `multimodal_type` have shape (1,).
        """
        trunk = self._trunk(frames)
        order = rng.permutation(len(questions))
        branches = [self._branch(questions[i]) for i in order]
        text = self._single(trunk, branches[0]) if len(branches) == 1 else _tree(trunk, branches)
        if len(branches) > 1:
            text = _end_branches(text, self.tokenizer.eos_id)
        visual = self._visual(frames)
        if self.shuffle:
            places = visual["token_pooling"].reshape(len(frames.patches), -1, self._slots)
            shuffled = [rng.permutation(frame) for frame in places]
            visual["token_pooling"] = np.concatenate(shuffled)
        return {**visual, **text}

    def prompt(self, frames: Frames, question: Question) -> ExampleArrays:
        """Arrays of a video and one question, up to where the answer begins; `labels` are -1."""
        trunk = self._trunk(frames)
        tokens = np.array(trunk + self.prompt_ids(question), np.int32)
        return {
            **self._visual(frames),
            "input_ids": tokens,
            "labels": np.full_like(tokens, -1),
            "loss_masks": np.zeros(len(tokens), np.float32),
            "position_ids": np.arange(len(tokens), dtype=np.int32),
            "subsegment_ids": np.zeros(len(tokens), np.int32),
        }

    def prompt_ids(self, question: Question) -> list[int]:
        """Tokens of a question in chat form, without the video."""
        text = question_text(question.question, question.options)
        return self.tokenizer.encode(user_turn(text))

    def vision_ids(self, timestamps: np.ndarray) -> list[int]:
        """Tokens of a video: times, patches and frame marks, for (n,) seconds."""
        special = self.tokenizer.special_ids
        start, end = special["<frame_start>"], special["<frame_end>"]
        patches = [special["<im_patch>"]] * self.model.tokens_per_frame
        if self.frame_tokens == "frame":
            patches = [start, *patches, end]
        tokens = []
        for k, time in enumerate(timestamps.tolist()):
            tokens += self.tokenizer.encode(timestamp_text(time, first=k == 0)) + patches
        return tokens if self.frame_tokens == "frame" else [start, *tokens, end]

    @property
    def _slots(self) -> int:
        return max(self.model.prune.pooling, self.model.connector.image_pooling) ** 2

    def _trunk(self, frames: Frames) -> list[int]:
        return [self.tokenizer.bos_id, *self.vision_ids(frames.timestamps)]

    def _branch(self, question: Question) -> tuple[list[int], list[int]]:
        return self.prompt_ids(question), self.tokenizer.encode(question.answer)

    def _visual(self, frames: Frames) -> ExampleArrays:
        count = len(frames.patches)
        vit, pooling = self.model.vit, self.model.prune.pooling
        one = pooling_index(vit.grid, pooling)
        shift = (np.arange(count, dtype=np.int32) * vit.patches)[:, None, None]
        index = np.where(one >= 0, one + shift, -1).reshape(-1, pooling**2)
        return {
            "images": frames.patches,
            "num_images": np.array([count], np.int32),
            "multimodal_type": np.array([MultimodalType.VIDEO], np.int32),
            "token_pooling": _widen(index, self._slots),
        }

    def _single(self, trunk: list[int], branch: tuple[list[int], list[int]]) -> ExampleArrays:
        """One conversation: the answer ends with EOS, which counts as one of its tokens."""
        prompt, answer = branch
        answer = [*answer, self.tokenizer.eos_id]
        tokens = np.array(trunk + prompt + answer, np.int32)
        weights = np.zeros(len(tokens), np.float32)
        weights[-len(answer) :] = answer_weight(len(answer), branches=1)
        return {
            "input_ids": tokens[:-1],
            "labels": tokens[1:],
            "loss_masks": weights[1:],
            "position_ids": np.arange(len(tokens) - 1, dtype=np.int32),
            "subsegment_ids": np.zeros(len(tokens) - 1, np.int32),
        }


def answer_weight(tokens: int, branches: int) -> float:
    """Loss weight of each token of an answer of `tokens` tokens, one of `branches` answers.

    Long answers and videos with many questions count for more than short and few, but less than
    in proportion. Source: the reference's `root_subsegments_root_tokens` (DATA 5.4).
    """
    return 2.0 / math.sqrt(tokens) / math.sqrt(branches)


def _tree(trunk: list[int], branches: list[tuple[list[int], list[int]]]) -> ExampleArrays:
    """Trunk and branches in a line, inputs and what follows each; branches still lack their EOS."""
    tokens, weights = list(trunk), [0.0] * len(trunk)
    positions, segments = list(range(len(trunk))), [SHARED] * len(trunk)
    for k, (prompt, answer) in enumerate(branches):
        length = len(prompt) + len(answer)
        weight = answer_weight(len(answer), len(branches))
        tokens += prompt + answer
        weights += [0.0] * len(prompt) + [weight] * len(answer)
        positions += range(len(trunk), len(trunk) + length)
        segments += [k] * length
    return {
        "input_ids": np.array(tokens, np.int32),
        "labels": np.array([*tokens[1:], -1], np.int32),
        "loss_masks": np.array([*weights[1:], 0.0], np.float32),
        "position_ids": np.array(positions, np.int32),
        "subsegment_ids": np.array(segments, np.int32),
    }


def _end_branches(text: ExampleArrays, eos_id: int) -> ExampleArrays:
    """Make EOS the label of every branch's last token, weighted as the label before it."""
    segments = text["subsegment_ids"]
    last = np.flatnonzero(np.append(segments[1:] != segments[:-1], True))
    last = last[segments[last] != SHARED]
    labels, weights = text["labels"].copy(), text["loss_masks"].copy()
    labels[last] = eos_id
    weights[last] = weights[last - 1]
    return {**text, "labels": labels, "loss_masks": weights}


def _widen(index: np.ndarray, slots: int) -> np.ndarray:
    """Pad (V, g) pooling indices to (V, slots) with -1."""
    return np.pad(index, ((0, 0), (0, slots - index.shape[1])), constant_values=-1).astype(np.int32)
