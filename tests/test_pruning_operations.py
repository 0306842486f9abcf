"""What selection and packing are made of: no sort over tokens, and nothing done by the host."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import pytest
from jaxprs import equations
from model_cases import BUDGET, KEY, ROWS, rows, small_model, small_model_config

PACKINGS = ("stream", "first_fit")
FRAMES = ROWS * BUDGET.frames
# Parts of the names of what leaves the device, in a jaxpr and in StableHLO.
HOST = ("callback", "debug", "infeed", "outfeed", "io_", "send", "recv")


@cache
def traced_gradient(packing: str) -> Any:
    """Of all that comes before the LLM, videos and images side by side, with what it gives."""
    config = small_model_config(prune__layout=packing)

    @jax.jit
    def gradient(model: Any, batch: Any) -> Any:
        def loss(model: Any) -> tuple[jax.Array, Any]:
            fused = model.fuse(batch, BUDGET, KEY)
            return (fused.embeddings**2).sum() + fused.vision.temporal_loss, fused

        return jax.value_and_grad(loss, has_aux=True)(model)

    return gradient.trace(small_model(config), rows(config))


def primitives(packing: str) -> list[Any]:
    return list(equations(traced_gradient(packing).jaxpr.jaxpr))


@pytest.mark.parametrize("packing", PACKINGS)
def test_nothing_leaves_the_device(packing):
    names = {own.primitive.name for own in primitives(packing)}
    assert len(names) > 30 and not [n for n in names if any(host in n for host in HOST)]
    lowered = traced_gradient(packing).lower().as_text()
    calls = [line for line in lowered.splitlines() if "custom_call" in line]
    assert not [line for line in calls if any(host in line for host in HOST)]
    assert not any(f"stablehlo.{host}" in lowered for host in HOST)


def test_a_stream_is_made_without_a_sort():
    assert not [own for own in primitives("stream") if "sort" in own.primitive.name]
    lowered = traced_gradient("stream").lower().as_text()
    assert "stablehlo.sort" not in lowered and "top_k" not in lowered.lower()


def test_first_fit_sorts_frames_once_and_nothing_else():
    sorts = [own for own in primitives("first_fit") if "sort" in own.primitive.name]
    assert [own.invars[0].aval.shape for own in sorts] == [(FRAMES,)]
    lowered = traced_gradient("first_fit").lower().as_text()
    assert lowered.count('"stablehlo.sort"') == 1 and "top_k" not in lowered.lower()
