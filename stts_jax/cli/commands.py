"""The subcommands of `stts`, and the programs that they run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """One subcommand.

    Attributes:
      purpose: a line for the list of subcommands.
      module: whose `main` runs it; returns the exit code.
      script: a file of the clone to take `main` from instead.
      name: of a `main` that returns nothing and raises its errors, for their messages.
      ends_at_once: whether the process ends at once after a failure, as threads may still wait.
    """

    purpose: str
    module: str = ""
    script: str = ""
    name: str = ""
    ends_at_once: bool = False


COMMANDS = {
    "train": Command("train or fine-tune a model", script="train.py", ends_at_once=True),
    "eval": Command(
        "answer a split or the benchmarks, and score", script="eval.py", ends_at_once=True
    ),
    "ask": Command("ask a question about a video", "stts_jax.ask"),
    "show": Command("show which tokens of a video are kept", "stts_jax.show"),
    "serve": Command("serve a model over HTTP, with a page", "stts_jax.serving.command"),
    "calibrate": Command(
        "find the score below which tokens are dropped, for a wanted mean", "stts_jax.calibrate"
    ),
    "convert": Command("bring a PyTorch checkpoint, or take one back", "convert.__main__"),
    "data": Command("check, list or time training data", "stts_jax.data.__main__"),
    "fit": Command("compile for hardware that isn't here: does it fit", "stts_jax.fit.__main__"),
    "bench": Command(
        "time pruned against unpruned, and both against the arithmetic",
        "stts_jax.bench.__main__",
        name="bench",
    ),
    "demo": Command(
        "train, prune and compare a tiny model on real videos",
        "stts_jax.demo.__main__",
        ends_at_once=True,
    ),
    "doctor": Command("check and time this machine's kernels", "stts_jax.doctor.__main__"),
}
