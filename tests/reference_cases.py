"""Recorded cases of the reference, in our terms: listing, configurations, weights, batches."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from float32_encoding import encode
from goldens_folder import goldens_dir
from native_arrays import from_native
from safetensors.numpy import load_file

from convert.fields import Fields
from convert.names import Name, name_table
from convert.reference_config import prune_config, vit_config
from stts_jax.batch import TEXT_FIELDS, Batch
from stts_jax.budget import Budget, tokens_to_prune
from stts_jax.config import ModelConfig, replace
from stts_jax.model.video_language_model import FusedRows, VideoLanguageModel, token_scorer
from stts_jax.model.vision import VisionOutput
from stts_jax.model.vit import VisionTransformer

KEY = jax.random.key(0)
NOT_CARRIED = pytest.mark.skip("these goldens are not carried here: the choice is at 6 MB")


def cases(pattern: str) -> list[Path]:
    """Files of the folder in use that match; no pattern may go without a case."""
    found = sorted(goldens_dir().glob(pattern))
    if not found:
        raise FileNotFoundError(f"{goldens_dir()} has no {pattern}; the folder is not complete")
    return found


@cache
def load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


@cache
def weights(name: str) -> dict[str, np.ndarray]:
    return load_file(goldens_dir() / f"{name}.safetensors")


def table(case: Mapping[str, np.ndarray], key: str = "config_json") -> Any:
    """The JSON that a recorded string holds."""
    return json.loads(str(case[key]))


def under(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names start with `prefix`, without it."""
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def worst(actual: Any, expected: Any) -> float:
    """Largest distance, in units of the largest expected value (at least 1)."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    if expected.size == 0:
        return 0.0
    distance = np.nan_to_num(np.abs(actual - expected), nan=np.inf)
    return float(distance.max() / max(1.0, np.abs(expected).max()))


# -------------------------------------------------------------------------------- vision cases


def vision_config(
    vit: Mapping[str, Any], layers: tuple[int, ...], topk: float | None, **prune: Any
) -> ModelConfig:
    """Our configuration of a recorded ViT whose `layers` are to be the features.

    Args:
      vit: the recorded `TemporalVitConfig`.
      layers: 0-based layers to look at; all recorded layers are built.
      topk: the recorded `topk` (counted in 81sts), or None for that of `vit`.
      prune: further fields of `PruneConfig`.
    """
    topk = vit.get("topk") if topk is None else float(topk)
    fields = {**vit, "topk": topk, "prune": vit.get("prune", True)}
    config = ModelConfig(
        vit=vit_config(Fields(vit), tuple(layers)), prune=prune_config(Fields(fields))
    )
    return replace(config, {f"prune.{key}": value for key, value in prune.items()})


def vision_names(scorer: bool) -> tuple[Name, ...]:
    """Rows of the table of names that belong to the ViT, without its prefix."""
    config = ModelConfig()
    if scorer:
        config = replace(config, {"prune.method": "scorer", "prune.topk": 0.5})
    prefix = "vision_backbone.image_vit."
    return tuple(
        Name(n.ours, n.native.removeprefix(prefix), n.transpose, n.rows)
        for n in name_table(config)
        if n.native.startswith(prefix)
    )


def build_vision(config: ModelConfig, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """ViT and scorer with recorded weights; blocks past the ones that are built are left out."""
    scored = config.prune.method == "scorer"

    def make() -> dict[str, Any]:
        module: dict[str, Any] = {"vit": VisionTransformer(config.vit, key=KEY)}
        return module | ({"scorer": token_scorer(config, key=KEY)} if scored else {})

    def needed(name: str) -> bool:
        head, _, rest = name.partition("resblocks.")
        in_use = not rest or int(rest.split(".")[0]) < config.vit.depth
        return in_use and (scored or "temporal_token_scorer" not in head)

    used = {name: array for name, array in arrays.items() if needed(name)}
    return from_native(jax.eval_shape(make), used, vision_names(scored))


def exact_budget(case: Mapping[str, np.ndarray], config: ModelConfig) -> Budget:
    """The smallest sizes that hold the recorded rows."""
    frames = case["images"].shape[1]
    counts, kinds = case["num_images"].astype(np.int32), case["multimodal_type"]
    k = tokens_to_prune(counts, kinds, config.prune, config.tokens_per_frame)
    per_cell = config.prune.pooling**2
    used = np.maximum(counts, 0).sum(1) * config.tokens_per_frame
    visual = case["token_pooling"].shape[1] if "token_pooling" in case else int(used.max())
    left = int((used - k.sum(1)).max())
    tokens = case["input_ids"].shape[1] if "input_ids" in case else 0
    return Budget(
        frames=frames,
        examples=counts.shape[1],
        patches=max(left, 1) * per_cell,
        visual=visual,
        visual_before=visual,
        tokens=tokens,
        tokens_before=tokens,
    )


def recorded_batch(arrays: Mapping[str, np.ndarray]) -> Batch:
    """The batch of a recorded case; the fields that it lacks hold nothing."""
    rows = len(arrays["images"])
    nothing = dict.fromkeys(TEXT_FIELDS, np.zeros((rows, 0), np.int32))
    nothing["loss_masks"] = np.zeros((rows, 0), np.float32)
    nothing["token_pooling"] = np.zeros((rows, 0, 1), np.int32)
    found = {**nothing, **arrays}
    found["loss_masks"] = found["loss_masks"].astype(np.float32)
    return jax.tree.map(jnp.asarray, Batch.from_arrays(found))


PADDING = {"num_images": -1, "multimodal_type": -1, "token_pooling": -1, "input_ids": -1}


def same_sizes(
    case: Mapping[str, np.ndarray],
    names: Iterable[str],
    others: Iterable[Path],
    config: ModelConfig,
) -> tuple[Batch, Budget]:
    """Pads a case to sizes that hold all of `others` too, so that one program serves them all.

    Returns:
      The batch of its arrays of these names, and the budget of all.
    """
    loaded = [case, *map(load, others)]
    budgets = [exact_budget(other, config) for other in loaded]
    sizes = {f.name: max(getattr(b, f.name) for b in budgets) for f in fields(Budget)}

    def padded(name: str) -> np.ndarray:
        shapes = [other[name].shape for other in loaded if name in other]
        widths = [(0, max(n) - own) for own, *n in zip(case[name].shape, *shapes, strict=True)]
        return np.pad(case[name], widths, constant_values=PADDING.get(name, 0))

    return recorded_batch({name: padded(name) for name in names if name in case}), Budget(**sizes)


@partial(jax.jit, static_argnums=(2, 3))
def _encode(
    module: dict[str, Any], batch: Batch, budget: Budget, config: ModelConfig
) -> tuple[VisionOutput, jax.Array]:
    output = encode(module["vit"], module.get("scorer"), batch, budget, config, KEY)
    rows, frames, patches = output.plan.keep_patches.shape
    everything = jnp.broadcast_to(jnp.arange(frames * patches), (rows, 1, frames * patches))
    features = output.plan.layout.lookup(output.features, everything)
    hidden = features.reshape(rows * frames, patches, -1, config.vit.width)
    return output, jnp.moveaxis(hidden, 2, 0)


def run_vision(
    case: Mapping[str, np.ndarray],
    config: ModelConfig,
    arrays: Mapping[str, np.ndarray],
    others: Iterable[Path] = (),
) -> tuple[Any, np.ndarray]:
    """Our ViT on a recorded case: its output, and the hidden states of the configured layers.

    Hidden states are (layers, B * T, N, D), zeros at patches that are not kept. The case is padded
    to sizes that hold `others` too; output and hidden states are without the padding.
    """
    batch, budget = same_sizes(case, ("images", "num_images", "multimodal_type"), others, config)
    output, hidden = _encode(build_vision(config, arrays), batch, budget, config)
    rows, frames = case["images"].shape[:2]
    shape = output.plan.keep_patches.shape
    hidden = np.asarray(hidden).reshape(-1, *shape, config.vit.width)[:, :rows, :frames]
    hidden = hidden.reshape(len(hidden), rows * frames, *hidden.shape[3:])
    return _without_padding(output, rows, frames), hidden


def _without_padding(output: VisionOutput, rows: int, frames: int) -> Any:
    """The parts of an output that are compared, of the recorded rows and frames."""

    def cut(array: jax.Array) -> np.ndarray:
        return np.asarray(array)[:rows, :frames]

    layout = output.plan.layout
    bins = (
        {}
        if not hasattr(layout, "refilled")
        else {
            "used_bins": layout.used_bins,
            "refilled": cut(layout.refilled),
        }
    )
    table = {name: cut(getattr(output.frames, name)) for name in ("real", "prunable", "first")}
    return SimpleNamespace(
        scores=None if output.scores is None else cut(output.scores),
        frames=SimpleNamespace(**table),
        plan=SimpleNamespace(
            keep_patches=cut(output.plan.keep_patches), layout=SimpleNamespace(**bins)
        ),
    )


def visual_features(model: VideoLanguageModel, rows: FusedRows) -> np.ndarray:
    """(kept, d) of all rows in order: what was added to the embeddings of visual tokens."""
    ids, token = rows.text.input_ids, model.config.llm.special_token("<im_patch>")
    added = rows.embeddings - model.llm.embed(ids, model.dtype)
    return np.asarray(added)[np.asarray(ids) == token]


def worst_gradient(
    ours: Mapping[str, np.ndarray],
    recorded: Mapping[str, np.ndarray],
    norms: Mapping[str, float | None],
) -> tuple[float, float]:
    """Worst error of recorded gradients, and of the recorded norms of all.

    Relative to the largest entry of each, but to no less than 1e-4 of the largest norm: some
    gradients are zero but for rounding (a bias on all keys changes no softmax). Two norms of such a
    bias aren't compared where float32 couldn't tell either from zero beside the largest: in eight
    recorded cases 0, the right answer, would be too far from what the reference's rounding left.
    """
    largest = max((norm for norm in norms.values() if norm), default=1.0)
    rounding = float(np.finfo(np.float32).eps) * largest

    def relative(difference: np.ndarray, size: float) -> float:
        distance = np.nan_to_num(np.abs(difference), nan=np.inf)
        return float(distance.max() / max(size, 1e-4 * largest))

    entries = [relative(ours[n] - g, np.abs(g).max()) for n, g in recorded.items()]

    def size_error(name: str, recorded: float) -> float:
        size = np.linalg.norm(ours[name])
        if name.endswith("wk.bias") and max(size, recorded) < rounding:
            return 0.0
        return relative(size - recorded, recorded)

    sizes = [size_error(name, norm or 0.0) for name, norm in norms.items()]
    return max(entries, default=0.0), max(sizes, default=0.0)


# ------------------------------------------------------------------------------- ties at the cut

TIE = "a tie, where the reference's order is arbitrary"
RETRY = "retries, which start afresh here and where the last one ended there"


def cut_is_tied(
    ratings: np.ndarray, num_images: np.ndarray, k: np.ndarray, first_is_safe: bool = True
) -> bool:
    """Whether two tokens at the cut of some video have the same rating, so that order decides.

    Args:
      ratings: (B, T, P).
      num_images: (B, M).
      k: (B, M) tokens to drop.
      first_is_safe: whether first frames are rated above all others.
    """
    for row, (counts, drops) in enumerate(zip(num_images, k, strict=True)):
        start = 0
        for count, drop in zip(np.maximum(counts, 0), drops, strict=True):
            own = ratings[row, start : start + count].copy()
            start += count
            if first_is_safe and count:
                own[0] = 100.0
            ordered = np.sort(own.ravel())
            if 0 < drop < ordered.size and ordered[drop - 1] == ordered[drop]:
                return True
    return False
