"""Settings of crops and tokens of images: one frozen dataclass, checked where it is built."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from stts_jax.config import ConfigError
from stts_jax.data.images.image import Normalization
from stts_jax.data.images.tiling import CropLayout

ResizeMode = Literal["siglip", "default", "dino", "metaclip"]
CropMode = Literal["overlap-and-resize-c2", "overlap-and-resize", "resize"]
_MODES = {"resize": ResizeMode, "normalize": Normalization, "crop_mode": CropMode}
_COUNTS = (
    *("image_size", "patch_size", "max_crops", "high_res_max_crops", "pooling"),
    *("max_images", "max_group_crops", "group_pooling"),
)


@dataclass(frozen=True)
class ImageSettings:
    """Settings of images; the defaults are those of the released models' SFT.

    The names of modes are the reference's.

    Attributes:
      image_size, patch_size: sides of a crop and a patch, pixels.
      resize: `siglip` squashes without antialiasing, `dino` and `metaclip` squash bicubically,
        `default` keeps the aspect and pads.
      normalize: of colours, see `image.normalize`.
      normalize_in_model: leave patches as uint8, which the model normalises the `siglip` way.
      padding_mask: say how much of every patch is image and not padding.
      crop_mode: `overlap-and-resize-c2` for a global crop and overlapping crops,
        `overlap-and-resize` for overlapping crops alone, `resize` for the global crop alone.
      max_crops: overlapping crops at most.
      high_res_max_crops, p_high_res: in training, an image has that many crops with that
        probability.
      margins: of overlapping crops, see `tiling.CropLayout`.
      pooling: (rows, columns) of patches that make a token.
      column_tokens: end every row of tokens with `<im_col>`.
      global_column_tokens: the same in the global crop; None for `column_tokens`.
      global_start_token: begin the global crop with `<low_res_im_start>`, not `<im_start>`; only
        where overlapping crops follow.
      low_res_tokens: use `<im_low>` for the patches of the global crop, not `<im_patch>`.
      max_images: in a group.
      max_group_crops, group_pooling: `max_crops` and `pooling` of the images of a group.
    """

    image_size: int = 378
    patch_size: int = 14
    resize: ResizeMode = "siglip"
    normalize: Normalization = "siglip"
    normalize_in_model: bool = True
    padding_mask: bool = False
    crop_mode: CropMode = "overlap-and-resize-c2"
    max_crops: int = 8
    high_res_max_crops: int = 24
    p_high_res: float = 0.0
    margins: tuple[int, int] = (4, 4)
    pooling: tuple[int, int] = (2, 2)
    column_tokens: bool = True
    global_column_tokens: bool | None = False
    global_start_token: bool = True
    low_res_tokens: bool = False
    max_images: int = 5
    max_group_crops: int = 8
    group_pooling: tuple[int, int] = (2, 2)

    def __post_init__(self) -> None:
        self._check_names()
        self._check_numbers()
        if self.normalize_in_model and (self.resize, self.normalize) != ("siglip", "siglip"):
            raise ConfigError(
                "ImageSettings.normalize_in_model is set, which needs 'siglip' as resize and "
                f"normalize, but they are '{self.resize}' and '{self.normalize}'; change these or "
                "unset it"
            )

    def _check_names(self) -> None:
        for name, known in _MODES.items():
            if getattr(self, name) not in get_args(known):
                raise ConfigError(
                    f"ImageSettings.{name} is '{getattr(self, name)}'; use one of "
                    f"{', '.join(get_args(known))}"
                )

    def _check_numbers(self) -> None:
        for name in _COUNTS:
            if np.min(getattr(self, name)) < 1:
                raise ConfigError(
                    f"ImageSettings.{name} is {getattr(self, name)}; set it to 1 or more"
                )
        if self.image_size % self.patch_size:
            raise ConfigError(
                f"ImageSettings.image_size is {self.image_size}, which patches of "
                f"{self.patch_size} pixels don't tile; use a multiple of ImageSettings.patch_size"
            )
        if not 0 <= self.p_high_res <= 1:
            raise ConfigError(f"ImageSettings.p_high_res is {self.p_high_res}; use 0 to 1")
        if min(self.margins) < 0 or self.layout.window < 1:
            raise ConfigError(
                f"ImageSettings.margins is {self.margins}, which leaves nothing of a crop of "
                f"{self.layout.side} x {self.layout.side} patches; use two smaller numbers, 0 or "
                "more"
            )

    @property
    def layout(self) -> CropLayout:
        """The overlapping crops."""
        return CropLayout(self.image_size, self.patch_size, self.margins)

    @property
    def for_group(self) -> ImageSettings:
        """Settings of each image of a group; those are never in high resolution."""
        return dataclasses.replace(
            self, max_crops=self.max_group_crops, pooling=self.group_pooling, p_high_res=0.0
        )
