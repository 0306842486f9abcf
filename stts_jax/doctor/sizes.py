"""The sizes that the doctor checks and times at: the 4B's, or tiny ones for `--quick`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from stts_jax.budget import Budget, video_budget
from stts_jax.config import ModelConfig, load_config

CONFIG = "molmo2_4b_stts_50"
# Text of a prompt, and marks of each frame.
TEXT, MARKS = 256, 2
GIB = 2**30
# Bytes of a device from which on it is given more.
_LARGE_DEVICE = 12 * GIB


@dataclass(frozen=True)
class Sizes:
    """Sizes of all checks.

    Attributes:
      model: widths, heads and the share of tokens that is dropped.
      frames: of the video that ViT and LLM read; half of them in each of two rows of attention.
      products: n of the (n, n) matrices that are multiplied.
      copied_bytes: of the array whose reading and writing is timed.
      rounds: turns of each program that is timed.
      alone: whether attention without gradients is compiled too, not only with them.
    """

    model: ModelConfig
    frames: int
    products: int
    copied_bytes: int
    rounds: int
    alone: bool = True

    @property
    def budget(self) -> Budget:
        """The budget of one row with the video."""
        return self._budget(self.model)

    @property
    def whole_budget(self) -> Budget:
        """The budget of the same row where nothing is dropped."""
        none = replace(self.model.prune, method="none", topk=0.0)
        return self._budget(replace(self.model, prune=none))

    def _budget(self, model: ModelConfig) -> Budget:
        text = TEXT + MARKS * self.frames
        return video_budget(model, frames=self.frames, videos=1, text_tokens=text)

    def as_dict(self) -> dict[str, Any]:
        """Returns the sizes as plain values, for the report."""
        vit, llm, budget = self.model.vit, self.model.llm, self.budget
        return {
            "frames": self.frames,
            "dropped": self.model.prune.topk,
            "patches_of_a_frame": vit.patches,
            "patches_kept": budget.patches,
            "vit": {"width": vit.width, "heads": vit.heads, "head_dim": vit.head_dim},
            "vit_mlp_width": vit.mlp_width,
            "llm": {"width": llm.width, "heads": llm.heads, "head_dim": llm.head_dim},
            "llm_kv_heads": llm.kv_heads,
            "llm_mlp_width": llm.mlp_width,
            "tokens": budget.tokens,
            "tokens_unpruned": budget.tokens_before,
            "products": self.products,
            "copied_bytes": self.copied_bytes,
            "rounds": self.rounds,
        }


def full_sizes(platform: str, memory: int | None) -> Sizes:
    """Returns the 4B's sizes, with as many frames as the device computes within the time.

    Args:
      platform: `cpu`, `gpu` or `tpu`.
      memory: bytes of the device, None if unknown.
    """
    model = load_config(CONFIG).model
    if platform == "cpu":
        return Sizes(model, frames=8, products=2048, copied_bytes=GIB // 4, rounds=3)
    frames = 64 if memory is None or memory >= _LARGE_DEVICE else 16
    return Sizes(model, frames, products=8192, copied_bytes=GIB, rounds=10)


def quick_sizes() -> Sizes:
    """Returns tiny sizes with the 4B's widths of heads, to see that everything runs."""
    model = load_config(CONFIG).model
    # 15 x 15 patches: TPU kernels take segments of 128 tokens and more, and windows of 9 patches
    # don't fill the static sizes of segments that there are on a CPU.
    vit = replace(
        model.vit,
        image_size=210,
        positions=225,
        width=64,
        heads=2,
        mlp_width=96,
    )
    llm = replace(
        model.llm, vocab_size=64, extra_vocab_size=16, width=64, heads=2, kv_heads=1, mlp_width=96
    )
    model = replace(model, vit=vit, llm=llm)
    return Sizes(model, frames=4, products=128, copied_bytes=2**20, rounds=1, alone=False)
