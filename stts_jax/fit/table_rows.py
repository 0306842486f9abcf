"""The rows of docs/fit.md: what people ask before they pay for a machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One question.

    Attributes:
      topology: what to compile for.
      config: which setup.
      size: options for frames, videos and text.
      more: other options.
    """

    topology: str
    config: str
    size: tuple[str, ...]
    more: tuple[str, ...] = ()

    @property
    def arguments(self) -> list[str]:
        """Returns the arguments of `python -m stts_jax.fit`."""
        return ["--config", self.config, "--topology", self.topology, *self.size, *self.more]

    @property
    def is_for_tpus(self) -> bool:
        """Returns whether the row is for TPUs, whose compiler can stop at its plan."""
        return not self.topology.startswith(("h100", "gpu", "cpu"))

    @property
    def key(self) -> str:
        """Returns the key of the row."""
        return " ".join(self.arguments)


# The paper's: two videos of 64 frames in a row whose length after the prune is 9,686 at 50 %.
PAPER = ("--frames", "64", "--videos", "2", "--set", "data.row_text_tokens=4502")
ONE_64 = ("--frames", "64", "--videos", "1")
TWO_64 = ("--frames", "64", "--videos", "2")
# One row at once, as the setups of one device take them.
AT_ONCE = (*ONE_64, "--set", "train.accumulate=1")
ONE_128 = ("--frames", "128", "--videos", "1")
ONE_256 = ("--frames", "256", "--videos", "1")
ONE_384 = ("--frames", "384", "--videos", "1")
V5E_16, V5E_256, V5P_8 = "v5e:4x4", "v5e:16x16", "v5p:2x2x2"
V6E_8, V6E_256, H100_8 = "v6e:2x4", "v6e:16x16", "h100:8"
V5P_1, H100_1, V5E_1, V6E_1 = "v5p:1x1x1", "h100:1", "v5e:1x1", "v6e:1x1"
# What most people have: one GPU, or none.
GPU_24, CPU_24 = "gpu:24GiB", "cpu:24GiB"
ONE_8 = ("--frames", "8", "--videos", "1")
BFLOAT16 = ("--set", "model.compute_dtype=bfloat16")

# The most asked first, as each takes minutes.
ROWS = (
    Row(H100_8, "molmo2_4b_stts_50", PAPER),
    Row(H100_8, "molmo2_4b_stts_50", (*PAPER, "train.accumulate=8"), ("--rows-per-device", "8")),
    Row(V5E_256, "molmo2_4b_stts_50", TWO_64),
    Row(V5P_8, "molmo2_4b_stts_50", ONE_384),
    Row(H100_8, "molmo2_4b_stts_50", ONE_384),
    Row(V5P_8, "molmo2_4b_stts_50", TWO_64),
    Row(V6E_8, "molmo2_4b_stts_50", TWO_64),
    Row(V5E_16, "molmo2_4b_stts_50", ONE_64),
    Row(H100_8, "molmo2_4b", PAPER),
    Row(V6E_256, "molmo2_4b_stts_50", TWO_64),
    Row(H100_8, "molmo2_8b_stts_50", TWO_64),
    Row(H100_8, "molmo2_o_7b_stts_50", TWO_64),
    Row(V5P_8, "molmo2_8b_stts_50", TWO_64),
    Row(V5P_8, "molmo2_o_7b_stts_50", TWO_64),
    Row(V5P_8, "molmo2_4b_stts_50", ONE_384, ("--prefill",)),
    Row(H100_8, "molmo2_4b_stts_50", ONE_384, ("--prefill",)),
    Row(V5P_1, "molmo2_4b_stts_50", ONE_384, ("--prefill",)),
    Row(H100_1, "molmo2_4b_stts_50", ONE_384, ("--prefill",)),
    Row(V5P_8, "molmo2_4b_stts_50", ONE_384, ("--decode",)),
    Row(H100_8, "molmo2_4b_stts_50", ONE_384, ("--decode",)),
    Row(V5E_16, "molmo2_4b", ONE_64),
    Row(V5E_16, "molmo2_4b_stts_50", ONE_128),
    Row(V5E_16, "molmo2_8b_stts_50", ONE_64),
    Row(V5E_256, "molmo2_4b", TWO_64),
    Row(V5E_256, "molmo2_4b_stts_30", TWO_64),
    Row(V5E_256, "molmo2_4b_stts_50", ONE_384),
    Row(V5E_256, "molmo2_8b_stts_50", TWO_64),
    Row(V5P_8, "molmo2_4b", TWO_64),
    Row(V5P_8, "molmo2_4b_stts_30", TWO_64),
    Row(V5P_8, "molmo2_4b", ONE_384),
    Row(V6E_8, "molmo2_4b", TWO_64),
    Row(V6E_8, "molmo2_4b_stts_50", ONE_256),
    Row(V6E_8, "molmo2_8b_stts_50", ONE_64),
    Row(V6E_256, "molmo2_4b_stts_50", ONE_384),
    Row(V6E_256, "molmo2_8b_stts_50", TWO_64),
    Row(H100_8, "molmo2_4b_stts_30", PAPER),
    Row(H100_8, "molmo2_4b_stts_50", ONE_256),
    # One program for each ratio of a run.
    Row(V5E_16, "molmo2_4b_stts_any", ONE_64),
    Row(V5E_256, "molmo2_4b_stts_any", TWO_64),
    Row(V6E_8, "molmo2_4b_stts_any", TWO_64),
    Row(V5P_8, "molmo2_8b_stts_any", TWO_64),
    Row(V5P_8, "molmo2_o_7b_stts_any", TWO_64),
    # Adapters on one device.
    *(
        Row(topology, f"molmo2_{size}_{kind}", AT_ONCE)
        for size in ("4b", "8b")
        for kind in ("lora", "qlora")
        for topology in (V5E_1, V6E_1, H100_1, GPU_24)
    ),
    *(
        Row(topology, "molmo2_4b_stts_50", (*frames, *BFLOAT16), (program,))
        for topology in (GPU_24, CPU_24)
        for frames in (ONE_8, ONE_64)
        for program in ("--prefill", "--decode")
    ),
)
