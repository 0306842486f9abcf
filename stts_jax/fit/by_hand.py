"""The estimate by hand that commands check before they read anything, for a setting of `fit`."""

from __future__ import annotations

from stts_jax.fit.programs import answering_shapes
from stts_jax.fit.setting import Setting
from stts_jax.fit.topologies import tracing_for
from stts_jax.inference.memory_estimate import MemoryEstimate, memory_to_answer
from stts_jax.training.run_memory import TrainingMemory, memory_to_train
from stts_jax.training.step import abstract_state


def estimate_by_hand(setting: Setting) -> MemoryEstimate | TrainingMemory:
    """Returns what `train.py`, or `ask` and `eval.py`, would estimate on these devices."""
    config, mesh, budget = setting.config, setting.mesh, setting.budget
    with tracing_for(setting.topology.chip.platform):
        if setting.program == "train":
            return memory_to_train(abstract_state(config, mesh), config, mesh, budget)
        return memory_to_answer(
            answering_shapes(setting), config, mesh, budget, setting.rows_per_device
        )
