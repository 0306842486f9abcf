"""Questions about objects in several images, answered by points or their number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stts_jax.data.text.formatting import points
from stts_jax.data.text.formatting.fields import Annotation, FormatterError, describe, required
from stts_jax.data.text.formatting.settings import FormatterSettings
from stts_jax.data.text.formatting.templates import draw_one, draw_prompt

ALL_IMAGES = "all images"
P_ALL_OF_ALL_DRAWN = 0.5
P_SINGLE_IMAGE_WORDING = 0.5

_MODES = {
    "multi_image_pointing": "point",
    "multi_image_counting": "count",
    "multi_image_point_then_count": "point_then_count",
    "multi_image_count_then_point": "count_then_point",
}


def multi_image_turn(
    annotation: Annotation, settings: FormatterSettings, rng: np.random.RandomState
) -> tuple[str, str]:
    """Prompt and answer of a question about one kind of object in some or all of several images.

    The kind, the images and the wording are drawn, in this order. The reference draws them from
    an unseeded generator; here they come from `rng`. Source: docs/reference.md#points-and-tracks.

    Args:
      annotation: has `style`, one of each of `normalized_labels`, `labels` and `points` for an
        image, and a size (see `points.point_scale`).
    """
    style = required(annotation, "style")
    kinds = [str(kind) for kind in required(annotation, "normalized_labels")]
    if not kinds:
        raise FormatterError(f"'normalized_labels' of {describe(annotation)} is empty; add labels")
    kind = draw_one(sorted(set(kinds)), rng)
    label = str(required(annotation, "labels")[kinds.index(kind)])
    chosen = _draw_images(len(kinds), settings, rng)
    prompt = _draw_wording(style, label, chosen, settings, rng)
    holding = _images_with(annotation, kinds, kind, range(len(kinds)) if chosen is None else chosen)
    if not holding:
        return prompt, points.NO_POINTS
    scale = points.point_scale(annotation)
    answer = points.multi_image_points(
        [index + 1 for index in holding],
        [annotation["points"][index] for index in holding],
        [scale] * len(holding),
        label,
        _MODES[style],
        settings,
    )
    return prompt, answer


def _draw_images(
    count: int, settings: FormatterSettings, rng: np.random.RandomState
) -> list[int] | None:
    """Indices of the images that are asked about; None for "all images"."""
    p_all = settings.p_multi_point_all_image
    if p_all and (count == 1 or rng.random() < p_all):
        return None
    chosen = rng.permutation(count)[: rng.randint(1, count + 1)].tolist()
    all_drawn = not p_all and len(chosen) == count
    return None if all_drawn and rng.random() < P_ALL_OF_ALL_DRAWN else chosen


def _draw_wording(
    style: str,
    label: str,
    chosen: Sequence[int] | None,
    settings: FormatterSettings,
    rng: np.random.RandomState,
) -> str:
    """Half of the prompts to point in all images are worded as for a single image."""
    first = settings.debug
    if chosen is None and style == "multi_image_pointing" and rng.random() < P_SINGLE_IMAGE_WORDING:
        return draw_prompt("pointing", {"label": label}, rng, first=first)
    images = ALL_IMAGES
    if chosen is not None:
        images = ", ".join(f"image_{index + 1}" for index in chosen)
    values = {"selected_label": label, "selected_images": images}
    return draw_prompt(style, values, rng, first=first)


def _images_with(
    annotation: Annotation, kinds: Sequence[str], kind: str, candidates: Sequence[int]
) -> list[int]:
    """Those of the candidates that hold points of `kind`, in their order."""
    found = required(annotation, "points")
    return [index for index in candidates if kinds[index] == kind and len(found[index])]
