"""Turns one or several images into crops and tokens.

An image is seen twice: squashed into one global crop, and cut into overlapping crops.
Source: olmo/preprocessing/multicrop_preprocessor.py (docs/reference.md#image-tokens).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from stts_jax.budget import MultimodalType
from stts_jax.data.images.image import (
    ImageError,
    normalize,
    pooling_windows,
    require_image,
    resize,
    resize_and_pad,
    resize_bicubic,
    to_patches,
)
from stts_jax.data.images.settings import ImageSettings
from stts_jax.data.text.tokenizer import Tokenizer
from stts_jax.data.vision import VisionInput


@dataclass(frozen=True)
class ImageTokens:
    """One image as crops and tokens.

    Attributes:
      tokens: (n,) int32.
      patches: (c, N, patch_dim) uint8 if the model normalises, else float32; the global crop first.
      token_pooling: (V, G) int32, for each `<im_patch>` (and `<im_low>`) in order the patches it
        pools, as `crop * N + patch`, -1 where there is none.
      patch_mask: (c, N) float32, the share of each patch that is image; None unless asked for.
      patch_grid: (rows, columns) int32, `crop * N + patch` of each position of the image
        of overlapping crops; None without such crops.
    """

    tokens: np.ndarray
    patches: np.ndarray
    token_pooling: np.ndarray
    patch_mask: np.ndarray | None = None
    patch_grid: np.ndarray | None = None


# ----------------------------------------------------------------------------------- one image


def tokenize_image(
    image: np.ndarray,
    settings: ImageSettings,
    tokenizer: Tokenizer,
    rng: np.random.RandomState | None = None,
) -> ImageTokens:
    """Crops and tokens of one image.

    Args:
      image: (H, W, 3) uint8.
      settings: how.
      tokenizer: knows the visual tokens.
      rng: the example's generator in training, of which one number is drawn if
        `settings.p_high_res` is above 0; None in evaluation, where nothing is in high resolution.

    Raises:
      ImageError: if `image` is no such array, or too long for `settings.resize='default'`.
    """
    require_image(image)
    views = []
    if settings.crop_mode != "overlap-and-resize":
        views.append((_global_crop(image, settings), _global_marks(settings, tokenizer)))
    if settings.crop_mode != "resize":
        crops = _overlapping_crops(image, settings, _draw_max_crops(settings, rng))
        views.append((crops, _crop_marks(settings, tokenizer)))
    blocks, windows, grid, patches_before = [], [], None, 0
    for view, marks in views:
        grid = view.grid + patches_before
        pooled = pooling_windows(grid, settings.pooling)
        blocks.append(_block(pooled.shape[:2], marks))
        windows.append(pooled.reshape(-1, pooled.shape[-1]))
        patches_before += view.patches.shape[0] * view.patches.shape[1]
    masks = [view.mask for view, _ in views]
    return ImageTokens(
        np.concatenate(blocks),
        np.concatenate([view.patches for view, _ in views]),
        np.concatenate(windows),
        np.concatenate(masks) if settings.padding_mask else None,
        None if settings.crop_mode == "resize" else grid,
    )


# -------------------------------------------------------------------------------- several images


def tokenize_images(
    images: Sequence[np.ndarray],
    settings: ImageSettings,
    tokenizer: Tokenizer,
    too_many: Literal["raise", "drop"] = "raise",
) -> list[ImageTokens]:
    """Crops and tokens of each image of a group.

    If there are several, the text "Image 1" and so on goes before the tokens of each.

    Args:
      images: (H, W, 3) uint8 each.
      settings: of which `max_group_crops` and `group_pooling` hold.
      tokenizer: for the text too.
      too_many: what to do with more than `settings.max_images`: `raise`, or `drop` the last ones
        as the reference does without a word.

    Raises:
      ImageError: if there are no images or too many, or one cannot be used.
    """
    if not images:
        raise ImageError("a group of images is empty; give at least one image")
    if too_many == "raise" and len(images) > settings.max_images:
        raise ImageError(
            f"a group has {len(images)} images, more than max_images="
            f"{settings.max_images}; give fewer, or raise data.max_images"
        )
    pieces = []
    for number, image in enumerate(images[: settings.max_images], 1):
        piece = tokenize_image(image, settings.for_group, tokenizer)
        if len(images) > 1:
            prefix = np.array(tokenizer.encode(_prefix(number)), np.int32)
            piece = dataclasses.replace(piece, tokens=np.concatenate([prefix, piece.tokens]))
        pieces.append(piece)
    return pieces


def join_images(pieces: Sequence[ImageTokens], kind: MultimodalType) -> VisionInput:
    """Joins images to one input with patches numbered through; masks are left out."""
    pooling, patches_before = [], 0
    for piece in pieces:
        index = piece.token_pooling
        pooling.append(np.where(index < 0, index, index + np.int32(patches_before)))
        patches_before += piece.patches.shape[0] * piece.patches.shape[1]
    return VisionInput(
        np.concatenate([piece.tokens for piece in pieces]),
        np.concatenate([piece.patches for piece in pieces]),
        np.concatenate(pooling),
        kind,
    )


def _prefix(number: int) -> str:
    return f"Image {number}"


# ----------------------------------------------------------------------------------- the parts


def _draw_max_crops(settings: ImageSettings, rng: np.random.RandomState | None) -> int:
    if rng is not None and settings.p_high_res and rng.random() < settings.p_high_res:
        return settings.high_res_max_crops
    return settings.max_crops


@dataclass(frozen=True)
class _View:
    """Crops (c, N, patch_dim), their mask (c, N), and the (rows, columns) grid of patch numbers."""

    patches: np.ndarray
    mask: np.ndarray
    grid: np.ndarray


def _global_crop(image: np.ndarray, settings: ImageSettings) -> _View:
    side, patches = settings.image_size, settings.layout.side
    pixels, mask = _resized(image, (side, side), settings)
    grid = np.arange(patches**2, dtype=np.int32).reshape(patches, patches)
    return _view(pixels[None], mask[None], grid, settings)


def _overlapping_crops(image: np.ndarray, settings: ImageSettings, max_crops: int) -> _View:
    layout = settings.layout
    tiling = layout.tiling(image.shape[0], image.shape[1], max_crops)
    pixels, mask = _resized(image, layout.canvas_size(tiling), settings)
    crops, masks = layout.cut(pixels, tiling), layout.cut(mask, tiling)
    return _view(crops, masks, layout.patch_grid(tiling), settings)


def _view(crops: np.ndarray, masks: np.ndarray, grid: np.ndarray, settings: ImageSettings) -> _View:
    share = to_patches(masks[..., None], settings.patch_size).mean(-1, dtype=np.float32)
    return _View(to_patches(crops, settings.patch_size), share, grid)


def _resized(
    image: np.ndarray, size: tuple[int, int], settings: ImageSettings
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (H, W, 3), normalised unless the model does it, and which of them are image."""
    if settings.resize == "default":
        pixels, mask = resize_and_pad(image, size)
        return normalize(pixels, settings.normalize), mask
    squash = resize if settings.resize == "siglip" else resize_bicubic
    pixels, mask = squash(image, size), np.ones(size, bool)
    if settings.normalize_in_model:
        return pixels, mask
    return normalize(pixels.astype(np.float32) / np.float32(255), settings.normalize), mask


@dataclass(frozen=True)
class _Marks:
    """Token ids of a block of tokens; `row_end` is None where rows just follow each other."""

    start: int
    patch: int
    row_end: int | None
    end: int


def _global_marks(settings: ImageSettings, tokenizer: Tokenizer) -> _Marks:
    ids = tokenizer.special_ids
    with_columns = settings.global_column_tokens
    if with_columns is None:
        with_columns = settings.column_tokens
    followed = settings.crop_mode == "overlap-and-resize-c2"
    low_start = settings.global_start_token and followed
    return _Marks(
        ids["<low_res_im_start>" if low_start else "<im_start>"],
        ids["<im_low>" if settings.low_res_tokens else "<im_patch>"],
        ids["<im_col>"] if with_columns else None,
        ids["<im_end>"],
    )


def _crop_marks(settings: ImageSettings, tokenizer: Tokenizer) -> _Marks:
    ids = tokenizer.special_ids
    row_end = ids["<im_col>"] if settings.column_tokens else None
    return _Marks(ids["<im_start>"], ids["<im_patch>"], row_end, ids["<im_end>"])


def _block(shape: tuple[int, int], marks: _Marks) -> np.ndarray:
    """Tokens for `shape` (rows, columns) of pooled patches."""
    row_end = [] if marks.row_end is None else [marks.row_end]
    row = [marks.patch] * shape[1] + row_end
    return np.array([marks.start, *row * shape[0], marks.end], np.int32)
