"""Random but valid batches: what the data pipeline could have made, without videos or tokenizer."""

from collections.abc import Sequence

import numpy as np

from stts_jax.batch import Batch
from stts_jax.budget import Budget, MultimodalType
from stts_jax.config import ModelConfig
from stts_jax.data.images.image import pooling_index
from stts_jax.data.packing.rows import SIZES, example_sizes, pack_row, stack_rows

VIDEO, IMAGE = MultimodalType.VIDEO, MultimodalType.IMAGE
MULTI_IMAGE, TEXT = MultimodalType.MULTI_IMAGE, MultimodalType.TEXT
SHARED = 10000  # subsegment id of a video that several questions share
Example = dict[str, np.ndarray]


def random_batch(
    model: ModelConfig,
    budget: Budget,
    rows: int,
    seed: int,
    kinds: Sequence[MultimodalType] = (VIDEO,),
    *,
    max_frames: int | None = None,
    empty_rows: int = 0,
) -> Batch:
    """A batch, the same for the same arguments.

    Each row is filled with examples of random kinds and lengths until the next one doesn't fit;
    the rest is padding. The last `empty_rows` rows are padding only.
    """
    rng = np.random.default_rng(seed)
    max_frames = max_frames or budget.frames
    filled = [
        pack_row(_random_examples(rng, model, budget, kinds, max_frames), budget, model)
        for _ in range(rows - empty_rows)
    ]
    return stack_rows(filled + [pack_row([], budget, model)] * empty_rows)


def _random_examples(rng, model, budget, kinds, max_frames) -> list[Example]:
    left = {key: getattr(budget, key) for key in SIZES}
    examples: list[Example] = []
    for attempt in range(8 * budget.examples):
        if len(examples) == budget.examples:
            break
        kind = kinds[rng.integers(len(kinds))]
        # Ever shorter ones, so that a row is seldom left empty.
        longest = max(1, min(max_frames, left["frames"]) - attempt // 4)
        example = random_example(rng, model, kind, int(rng.integers(1, longest + 1)))
        sizes = example_sizes(example, model)
        if all(sizes[key] <= left[key] for key in SIZES):
            examples.append(example)
            left = {key: left[key] - sizes[key] for key in SIZES}
    return examples


def random_example(
    rng: np.random.Generator, model: ModelConfig, kind: MultimodalType, frames: int
) -> Example:
    """One example: a video of `frames` frames, one or several images, or text alone."""
    frames = {TEXT: 0, IMAGE: 1}.get(kind, frames)
    pooling = model.prune.pooling if kind == VIDEO else model.connector.image_pooling
    slots = max(model.prune.pooling, model.connector.image_pooling) ** 2
    one = pooling_index(model.vit.grid, pooling).reshape(-1, pooling**2)
    shift = (np.arange(frames) * model.vit.patches)[:, None, None]
    pooled = np.where(one >= 0, one + shift, -1).reshape(-1, pooling**2)
    pooled = np.pad(pooled, ((0, 0), (0, slots - pooling**2)), constant_values=-1)

    start, end, patch = (
        model.llm.special_token(name) for name in ("<frame_start>", "<frame_end>", "<im_patch>")
    )
    trunk = [int(rng.integers(1, 50)), *([start] + [patch] * len(one) + [end]) * frames]
    branches = [_words(rng, model) for _ in range(rng.integers(1, 3))]
    return {
        "images": rng.integers(0, 256, (frames, model.vit.patches, model.vit.patch_dim), np.uint8),
        "num_images": np.array([frames], np.int32),
        "multimodal_type": np.array([kind], np.int32),
        "token_pooling": pooled.astype(np.int32),
        **_text(rng, trunk, branches),
    }


def _words(rng: np.random.Generator, model: ModelConfig) -> list[int]:
    return rng.integers(1, model.llm.vocab_size, rng.integers(3, 8)).tolist()


def _text(rng, trunk: list[int], branches: list[list[int]]) -> Example:
    """Branches that see the trunk and themselves; the last tokens of each are its answer."""
    tokens, positions = list(trunk), list(range(len(trunk)))
    segments = [SHARED if len(branches) > 1 else 0] * len(trunk)
    weights = [0.0] * len(trunk)
    for number, branch in enumerate(branches):
        answer = int(rng.integers(1, len(branch)))
        tokens += branch
        positions += range(len(trunk), len(trunk) + len(branch))
        segments += [number] * len(branch)
        weights += [0.0] * (len(branch) - answer - 1) + [float(rng.uniform(0.5, 2.0))] * answer
        weights += [0.0]
    return {
        "input_ids": np.array(tokens, np.int32),
        "labels": np.array([*tokens[1:], -1], np.int32),
        "loss_masks": np.array(weights, np.float32),
        "position_ids": np.array(positions, np.int32),
        "subsegment_ids": np.array(segments, np.int32),
    }
