"""The compiled training steps of a run: one, or one for each ratio that it trains over.

Ratios are static, so each has a program of its own. On an accelerator the others are compiled in a
background thread while the first ones train; on a CPU, where that would take the cores from the
steps, each is compiled at its first use.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import jax
from jax.sharding import Mesh

from stts_jax.batch import Batch
from stts_jax.budget import Budget
from stts_jax.config import Config
from stts_jax.train_ratios import RatioDraw, at_ratio, step_budget
from stts_jax.training.step import Metrics, TrainState, TrainStep, abstract_state
from stts_jax.training.stop import in_background

Say = Callable[[str], None]


class StepProgram:
    """The training step at one ratio.

    Attributes:
      ratio: of the step.
      ready: whether it can be called without compiling.
    """

    def __init__(self, step: TrainStep, ratio: float, structure: Any = None) -> None:
        """Wraps a step.

        Args:
          step: for the configuration at the ratio.
          ratio: of the step.
          structure: of the model in that configuration, None where it is the run's own.
        """
        self.ratio, self.ready = ratio, not hasattr(step, "lower")
        self._step, self._structure = step, structure
        self._lock = threading.Lock()

    def compile(self, state: TrainState, batch: Batch, key: jax.Array) -> bool:
        """Compiles the step unless that was done; returns whether it did.

        Args:
          state, batch, key: arguments of the step, or their shapes and shardings.
        """
        with self._lock:
            if self.ready:
                return False
            lower: Any = getattr(self._step, "lower")  # noqa: B009
            lower(self._as_own(state), batch, key).compile()
            self.ready = True
            return True

    def __call__(
        self, state: TrainState, batch: Batch, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        """Makes the step; the state's model is in the configuration of the run."""
        new, metrics = self._step(self._as_own(state), batch, key)
        return self._labelled(new, jax.tree.structure(state.model)), metrics

    def _as_own(self, state: TrainState) -> TrainState:
        return self._labelled(state, self._structure)

    def _labelled(self, state: TrainState, structure: Any) -> TrainState:
        """Returns the state with its model in another configuration; arrays stay what they are."""
        if self._structure is None:
            return state
        model = jax.tree.unflatten(structure, jax.tree.leaves(state.model))
        return dataclasses.replace(state, model=model)


class StepPrograms:
    """Chooses the program of each step, and compiles programs ahead of their first use.

    Attributes:
      compiled: number of programs that were compiled, or read from the cache.
    """

    def __init__(self, programs: Sequence[StepProgram], draw: RatioDraw, *, ahead: bool) -> None:
        """Takes the programs of a run.

        Args:
          programs: one for each ratio of the draw.
          draw: of the ratio of each step.
          ahead: whether to compile in the background what later steps need.
        """
        self._programs = {program.ratio: program for program in programs}
        self._draw, self._ahead = draw, ahead and len(programs) > 1
        self._coming: dict[float, Future[None]] = {}
        self.compiled = 0

    @staticmethod
    def of(
        config: Config, mesh: Mesh, make_step: Callable[[Config, Budget, Mesh], TrainStep]
    ) -> StepPrograms:
        """Returns the programs of a run; none is compiled yet.

        Args:
          config: of the run.
          mesh: that it is trained on.
          make_step: makes the step of a setup.
        """
        draw, programs = RatioDraw.of(config), []
        for ratio in draw.ratios:
            own = at_ratio(config, ratio)
            alike = own.model == config.model
            structure = None if alike else jax.tree.structure(abstract_state(own, mesh).model)
            step = make_step(config if alike else own, step_budget(config, ratio), mesh)
            programs.append(StepProgram(step, ratio, structure))
        return StepPrograms(programs, draw, ahead=mesh.devices.flat[0].platform != "cpu")

    @property
    def several(self) -> bool:
        """Returns whether the run trains over several ratios."""
        return len(self._programs) > 1

    @property
    def compiling(self) -> bool:
        """Returns whether the background thread is still compiling."""
        return not all(future.done() for future in self._coming.values())

    def at(self, step: int) -> StepProgram:
        """Returns the program of a step, 0 for the first."""
        return self._programs[self._draw.ratio_of(step)]

    def title(self, program: StepProgram) -> str:
        """Returns what to call the compilation of a program in the log."""
        if not self.several:
            return "compiling the training step"
        number = f"{self.compiled + 1} of {len(self._programs)}"
        return f"compiling the training step at {100 * program.ratio:g} % ({number})"

    def compile(
        self, program: StepProgram, state: TrainState, batch: Batch, key: jax.Array
    ) -> None:
        """Compiles a program, or waits until the background thread has.

        Args:
          program: of the next step.
          state, batch, key: arguments of the step.
        """
        if program.ratio in self._coming:
            self._coming[program.ratio].result()
        elif program.compile(state, batch, key):
            self.compiled += 1

    def compile_ahead(
        self, steps: range, state: TrainState, batch: Batch, key: jax.Array, say: Say
    ) -> None:
        """Starts to compile what later steps need, in the order of their first use.

        Args:
          steps: that are left of the run.
          state, batch, key: arguments of a step; only shapes and shardings are used.
          say: prints a line, from another thread.
        """
        if not self._ahead or self._coming:
            return
        order = [self._programs[r] for r in self._draw.by_first_use(steps.start, steps.stop)]
        waiting = [program for program in order if not program.ready]
        self._coming = {program.ratio: Future() for program in waiting}
        state, batch = jax.tree.map(_shape, (state, batch))

        def compile_all() -> None:
            for program in waiting:
                title, started = self.title(program), time.monotonic()
                future = self._coming[program.ratio]
                try:
                    self.compiled += program.compile(state, batch, key)
                    say(f"{title} in the background: {time.monotonic() - started:.1f} s")
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(None)

        in_background(compile_all)


def _shape(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
