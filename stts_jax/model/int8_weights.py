"""Models with int8 weights: ViT and LLM are quantised, scorer, connector and norms are not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from flax import nnx

from stts_jax.layers.int8_linear import Int8Linear, quantized_parameter
from stts_jax.layers.replace_linears import replace_linears
from stts_jax.model.llm import LanguageModel

M = TypeVar("M", bound=nnx.Module)
_KERNEL, _EMBEDDING, _HEAD = ".kernel", "llm.embedding", "llm.head"
_QUANTIZED = ("vit.", "llm.")


def in_int8(model: M) -> M:
    """Returns a model with int8 weights in ViT and LLM.

    The scorer decides what is kept, and stays whole; so do the connector, which is small, norms,
    biases, positions and the embedding of new tokens.

    Args:
      model: with a ViT and, perhaps, an LLM, of arrays or abstract arrays; it isn't changed.
    """

    def replace(name: str, layer: Any) -> Any:
        return Int8Linear.of(layer) if name.startswith(_QUANTIZED) else layer

    model = replace_linears(model, replace)
    llm: LanguageModel | None = getattr(model, "llm", None)
    if llm is not None:
        llm.embedding, llm.embedding_scale = quantized_parameter(llm.embedding, -1)
        if llm.head is not None:
            llm.head, llm.head_scale = quantized_parameter(llm.head, -2)
    return model


def is_int8(model: Any) -> bool:
    """Returns whether a model has int8 weights."""
    return isinstance(model.vit.patch_embedding, Int8Linear)


def scales_of(names: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """Returns the name of the scale of each parameter of int8, and the axis of its channels.

    Args:
      names: parameters by name, abstract or not, those of scales among them.
    """
    return {
        name: (_scale_name(name), -1 if name == _EMBEDDING else -2)
        for name, leaf in names.items()
        if leaf.dtype == "int8"
    }


def without_scales(names: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parameters that a checkpoint stores: all but the scales of those of int8."""
    scales = {scale for scale, _ in scales_of(names).values()}
    return {name: leaf for name, leaf in names.items() if name not in scales}


def _scale_name(name: str) -> str:
    if name.endswith(_KERNEL):
        return name.removesuffix("kernel") + "scale"
    return f"{name}_scale"
