"""A setting to compile: a setup, devices, their mesh, and the program."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import jax
from jax.sharding import Mesh

from stts_jax.budget import Budget, video_budget
from stts_jax.config import Config, ConfigError, load_config, override, replace
from stts_jax.fit.topologies import Topology
from stts_jax.model.video_language_model import Weights
from stts_jax.parallel.mesh import BATCH_AXES, make_mesh, slices_of
from stts_jax.quoting import shorten
from stts_jax.train_ratios import step_budget
from stts_jax.training.run_mesh import answering_shape, mesh_shape, require_even_shares

Program = Literal["train", "prefill", "decode"]

# Frame marks and time of one frame, in tokens. With the published setups' room for text this gives
# the token counts of the paper's Table 6: 15,670 for 2 x 64 frames, 25,307 for 256.
TEXT_TOKENS_PER_FRAME = 10


@dataclass(frozen=True)
class Setting:
    """One thing to compile.

    Attributes:
      config: resolved; `data.batch_rows` is that of all devices together.
      budget: static sizes of a row.
      mesh: of abstract devices.
      topology: that they come from.
      program: the training step, reading a batch of prompts, or one more token of each.
      rows_per_device: rows of each of the parts that `data` and `fsdp` cut the batch into; a part
        is one device where `tensor` is 1.
      weights: their type, in the programs that answer.
    """

    config: Config
    budget: Budget
    mesh: Mesh
    topology: Topology
    program: Program
    rows_per_device: int
    weights: Weights = "compute"

    @property
    def rows(self) -> int:
        """Returns the rows of the batch, over all devices."""
        return self.config.data.batch_rows


def make_setting(
    config: Config,
    topology: Topology,
    *,
    program: Program = "train",
    shape: Mapping[str, int] | None = None,
    rows_per_device: int = 1,
    weights: Weights = "compute",
) -> Setting:
    """Makes a setting with its mesh and budget.

    Args:
      config: of the run; its `data.batch_rows` is replaced.
      topology: devices to compile for.
      program: what to compile.
      shape: see `make_mesh`; if not given, what a run would choose on these devices.
      rows_per_device: see `Setting`.
      weights: see `Setting`.

    Raises:
      ConfigError: where the mesh doesn't take up the devices, or can't share what a run would have
        to share evenly.
    """
    if rows_per_device < 1:
        raise ConfigError(f"--rows-per-device is {rows_per_device}; use 1 or more")
    devices, memory = topology.devices, topology.chip.memory
    if shape is None and program == "train":
        shape = mesh_shape(config, len(devices), memory, slices_of(devices))
    elif shape is None:
        shape = answering_shape(config, len(devices), memory)
    mesh = make_mesh(shape, devices)
    rows = rows_per_device * math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    context = mesh.shape["context"]
    config = replace(config, {"data.batch_rows": rows, "train.mesh.context": context})
    if program == "train":
        require_even_shares(config, mesh)
        budget = step_budget(config, config.model.prune.topk)
    else:
        budget = video_budget(
            config.model,
            frames=config.data.max_frames,
            videos=1,
            text_tokens=_text_tokens(config, config.data.max_frames, videos=1),
        )
    return Setting(config, budget, mesh, topology, program, rows_per_device, weights)


def sized_config(
    name: str, frames: int | None, videos: int | None, overrides: Sequence[str]
) -> Config:
    """Returns a setup for videos of another length.

    Text keeps what the setup gives each video, and `TEXT_TOKENS_PER_FRAME` for each frame.

    Args:
      name: of a setup or a file.
      frames: of each video, None for the setup's.
      videos: in a row, None for the setup's.
      overrides: `section.key=value`, applied last.
    """
    config = load_config(name)
    if frames is not None or videos is not None:
        frames = config.data.max_frames if frames is None else frames
        videos = config.data.row_examples if videos is None else videos
        if min(frames, videos) < 1:
            raise ConfigError(f"--frames is {frames} and --videos {videos}; use 1 or more of each")
        values = {
            "data.max_frames": frames,
            "data.row_frames": videos * frames,
            "data.row_examples": videos,
            "data.row_text_tokens": _text_tokens(config, videos * frames, videos),
        }
        config = replace(config, values)
    return override(config, overrides)


def _text_tokens(config: Config, frames: int, videos: int) -> int:
    data = config.data
    per_video = (data.row_text_tokens - TEXT_TOKENS_PER_FRAME * data.row_frames) / data.row_examples
    return round(videos * max(per_video, 0)) + TEXT_TOKENS_PER_FRAME * frames


def mesh_text(mesh: Mesh) -> str:
    """Formats the axes of more than one device: `data=2,fsdp=128`."""
    return ",".join(f"{axis}={size}" for axis, size in mesh.shape.items() if size > 1) or "data=1"


def parseable_mesh(mesh: Mesh) -> str:
    """Returns the text from which `parse_mesh` makes the same mesh."""
    return ",".join(f"{axis}={size}" for axis, size in mesh.shape.items())


def parse_mesh(text: str) -> dict[str, int]:
    """Parses `data=2,fsdp=128` into sizes by axis.

    Raises:
      ConfigError: for anything else.
    """
    shape = {}
    for part in text.split(","):
        axis, _, size = part.partition("=")
        if not (size.isdecimal() and len(size) < 10):
            raise ConfigError(
                f"--mesh is {shorten(text)}; write axis=devices, as in data=2,fsdp=128"
            )
        axis = axis.strip()
        if axis in shape:
            raise ConfigError(
                f"--mesh is {shorten(text)}, which names {axis} twice; leave out one of them"
            )
        shape[axis] = int(size)
    return shape


def abstract_key(sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    """Returns the abstract value of a random key."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=sharding)
