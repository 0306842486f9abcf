"""Runs `train.py` with an update that compiles quickly, for tests of what surrounds the updates.

It takes the arguments of `train.py`. All but the update and the first parameters is the command's.
"""

from __future__ import annotations

import runpy
from typing import Any

from goldens_folder import REPOSITORY
from training_process import toy_step

from stts_jax.training import loop, start


def arbitrary_state(*arguments: Any) -> Any:
    # Imported when it is called: it makes an array, which no process may before all have joined.
    from training_cases import random_state

    return random_state(*arguments)


if __name__ == "__main__":
    loop.make_train_step, start.init_state = toy_step, arbitrary_state
    runpy.run_path(str(REPOSITORY / "train.py"), run_name="__main__")
