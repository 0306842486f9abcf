"""Runs `train.py` with an update that compiles quickly, for tests of what surrounds the updates.

It takes the arguments of `train.py`. All but the update and the first parameters is the command's.
"""

from __future__ import annotations

from typing import Any

from training_process import toy_step

import train
from stts_jax.command_line import end_program
from stts_jax.training import run
from stts_jax.training.run import RunParts


def arbitrary_state(*arguments: Any) -> Any:
    # Imported when it is called: it makes an array, which no process may before all have joined.
    from training_cases import random_state

    return random_state(*arguments)


def with_toy_step(*arguments: Any, **options: Any) -> Any:
    parts = RunParts(make_step=toy_step, init_state=arbitrary_state)
    return run.train(*arguments, parts=parts, **options)


if __name__ == "__main__":
    train.train = with_toy_step
    end_program(train.main())
