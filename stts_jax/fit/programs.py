"""The compiled programs: those of training and inference, with abstract sharded arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from stts_jax.batch import Batch
from stts_jax.budget import batch_arrays
from stts_jax.fit.setting import Setting, abstract_key
from stts_jax.fit.topologies import tracing_for
from stts_jax.inference.cpu_programs import jit_to_answer
from stts_jax.inference.decoding import DecodingState, decode_step, start_decoding
from stts_jax.inference.sampling import Sampling
from stts_jax.model.video_language_model import (
    VideoLanguageModel,
    abstract_model,
    to_answer,
)
from stts_jax.parallel.memory import bytes_per_device
from stts_jax.parallel.mesh import (
    BATCH_AXES,
    LOGICAL_AXES,
    batch_sharding,
    on_mesh,
    parameter_shardings,
    replicated,
    sharded_shapes,
)
from stts_jax.parallel.parameters import named_parameters
from stts_jax.training.step import abstract_state, make_train_step

END_TOKEN = 0


@dataclass(frozen=True)
class LoweredProgram:
    """A program ready to be compiled.

    Attributes:
      lowered: of `jax.stages`.
      argument_bytes: of one device, by kind, as the arrays' own sizes.
      output_bytes: likewise, of results that reuse no argument's buffer, but for a few scalars.
    """

    lowered: jax.stages.Lowered
    argument_bytes: dict[str, int]
    output_bytes: int = 0


def lower(setting: Setting) -> LoweredProgram:
    """Traces the program of a setting for its devices; nothing is allocated."""
    with tracing_for(setting.topology.chip.platform):
        return {"train": _train, "prefill": _prefill, "decode": _decode}[setting.program](setting)


def _train(setting: Setting) -> LoweredProgram:
    mesh, config = setting.mesh, setting.config
    state, batch = abstract_state(config, mesh), _abstract_batch(setting)
    step: Any = make_train_step(config, setting.budget, mesh)
    parameters = bytes_per_device(state.model)
    return LoweredProgram(
        step.lower(state, batch, abstract_key(replicated(mesh))),
        {
            "parameters": parameters,
            # Step counts and the like are part of it.
            "optimizer": bytes_per_device(state) - parameters,
            "batch": bytes_per_device(batch),
        },
    )


def _prefill(setting: Setting) -> LoweredProgram:
    model, batch = answering_shapes(setting), _abstract_batch(setting)
    prefill = _prefill_function(setting)
    key = abstract_key(replicated(setting.mesh))
    state = _abstract_decoding(setting, model, batch, key)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    return LoweredProgram(
        jit_to_answer(prefill, out_shardings=shardings).program_for(model).lower(model, batch, key),
        {"parameters": bytes_per_device(model), "batch": bytes_per_device(batch)},
        output_bytes=bytes_per_device(state),
    )


def _decode(setting: Setting) -> LoweredProgram:
    model = answering_shapes(setting)
    key = abstract_key(replicated(setting.mesh))
    state = _abstract_decoding(setting, model, _abstract_batch(setting), key)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)

    def step(model: VideoLanguageModel, state: DecodingState) -> DecodingState:
        with on_mesh(setting.mesh):
            return decode_step(model, state, END_TOKEN, Sampling())

    jitted = jit_to_answer(step, donate_argnums=1, out_shardings=shardings)
    return LoweredProgram(
        jitted.program_for(model).lower(model, state),
        {
            "parameters": bytes_per_device(model),
            "cache": bytes_per_device(state.cache),
            "batch": bytes_per_device(state) - bytes_per_device(state.cache),
        },
    )


def _prefill_function(setting: Setting) -> Any:
    answers = setting.config.eval.max_new_tokens

    def prefill(model: VideoLanguageModel, batch: Batch, key: jax.Array) -> DecodingState:
        budget = setting.budget
        with on_mesh(setting.mesh):
            return start_decoding(model, batch, budget, answers, END_TOKEN, Sampling(), key)

    return prefill


def answering_shapes(setting: Setting) -> VideoLanguageModel:
    """Returns the sharded shapes of the model that answers, of a checkpoint in bfloat16.

    That is what the published ones store, and what a CPU keeps also where it computes in float32.
    """
    model = abstract_model(setting.config.model)
    stored = dict.fromkeys(named_parameters(model), jnp.dtype(jnp.bfloat16))
    model = to_answer(model, setting.weights, stored)
    return sharded_shapes(model, parameter_shardings(model, setting.mesh))


def _abstract_batch(setting: Setting) -> Batch:
    arrays = batch_arrays(setting.budget, setting.config.model, setting.rows)
    sharding = batch_sharding(setting.mesh)
    return Batch.from_arrays(
        {
            name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
            for name, (shape, dtype) in arrays.items()
        }
    )


def _abstract_decoding(setting: Setting, model: Any, batch: Any, key: Any) -> DecodingState:
    """Returns the decoding state: rows over `data` and `fsdp`, heads of the cache over `tensor`."""
    state = jax.eval_shape(_prefill_function(setting), model, batch, key)
    mesh, rows = setting.mesh, setting.rows

    def sharding_of(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        if path[0] == jax.tree_util.GetAttrKey("cache"):
            return _cache_sharding(leaf.shape, mesh)
        return batch_sharding(mesh) if leaf.shape[:1] == (rows,) else replicated(mesh)

    return sharded_shapes(state, jax.tree_util.tree_map_with_path(sharding_of, state))


def _cache_sharding(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """Returns the sharding of keys or values, (layers, B, C, K, head_dim)."""
    axis = LOGICAL_AXES["kv_heads"]
    heads = axis if axis is not None and shape[3] % mesh.shape[axis] == 0 else None
    return NamedSharding(mesh, PartitionSpec(None, BATCH_AXES, None, heads))
