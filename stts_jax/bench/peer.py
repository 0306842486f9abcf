"""Races transformers' Molmo2 with the same weights and inputs: `make bench PEER=1`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from stts_jax.batch import Batch
from stts_jax.bench.decode import Steps
from stts_jax.bench.model import bench_batch, bench_budget
from stts_jax.bench.programs import Programs
from stts_jax.bench.race import Times, race, ratios, speedup, spread
from stts_jax.config import Config, ConfigError
from stts_jax.model.video_language_model import VideoLanguageModel

# Of our speed over the peer's, by part and share dropped.
REQUIRED = {
    ("forward", 0.0): 0.9,
    ("forward", 0.5): 1.4,
    ("step", 0.0): 0.9,
    ("step", 0.5): 1.4,
    ("decode", 0.0): 1.0,
}
DROPPED = 0.5


class Peer:
    """transformers' Molmo2 with a model's parameters, and one row for it."""

    def __init__(self, model: VideoLanguageModel, config: Config, batch: Batch) -> None:
        import torch

        self._model = exported(model, config)
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=1e-5)
        grid, patches = config.model.vit.grid, config.model.vit.patches
        side = grid // config.model.prune.pooling
        images = batch.images[0].reshape(-1, patches, batch.images.shape[-1])
        ids = torch.tensor(batch.text.input_ids, dtype=torch.long)
        self._inputs = {
            "input_ids": ids,
            "pixel_values_videos": torch.tensor(images.astype(np.float32) / 255.0 * 2.0 - 1.0),
            "video_token_pooling": torch.tensor(batch.token_pooling[0], dtype=torch.long),
            "video_grids": torch.tensor([[len(images), side, side]]),
            "mm_token_type_ids": (ids >= config.model.llm.vocab_size).long(),
        }
        # transformers shifts labels by itself; -100 has no loss.
        has_loss = np.roll(batch.text.loss_masks > 0, 1, axis=1)
        labels = np.where(has_loss, batch.text.input_ids, -100)
        self._labels = torch.tensor(labels, dtype=torch.long)

    def logits(self) -> np.ndarray:
        """Returns the logits (1, L, V) of the row."""
        import torch

        self._model.eval()
        with torch.no_grad():
            return self._model(**self._inputs).logits.numpy()

    def forward(self) -> None:
        """Computes logits and loss."""
        import torch

        self._model.eval()
        with torch.no_grad():
            self._model(**self._inputs, labels=self._labels)

    def step(self) -> None:
        """Runs a training step: loss, gradients, AdamW."""
        self._model.train()
        self._optimizer.zero_grad()
        self._model(**self._inputs, labels=self._labels).loss.backward()
        self._optimizer.step()

    def decode(self, count: int) -> None:
        """Decodes that many tokens greedily, prefill included."""
        import torch

        self._model.eval()
        with torch.no_grad():
            self._model.generate(
                **self._inputs, max_new_tokens=count, min_new_tokens=count, do_sample=False
            )


def exported(model: VideoLanguageModel, config: Config) -> Any:
    """Returns the model in transformers, through the converter.

    Raises:
      ConfigError: without torch and transformers.
    """
    try:
        from transformers import Molmo2ForConditionalGeneration
    except ImportError as error:
        raise ConfigError(
            f"the peer needs torch and transformers, and '{error.name}' is missing; "
            "pip install -e '.[parity]' brings both"
        ) from error
    from convert.__main__ import main as convert
    from stts_jax.training.checkpointing.load import save_model

    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / "ours", Path(folder) / "theirs"
        save_model(model, config, ours)
        convert([str(ours), str(theirs), "--to", "hf"])
        return Molmo2ForConditionalGeneration.from_pretrained(theirs).eval()


def race_with_peer(
    make: Callable[[float], Config], frames: int, rounds: int, tokens: int
) -> list[dict[str, Any]]:
    """Times our model unpruned and at 50 %, and the peer, in turns; rows for `peer_table`.

    Args:
      make: the configuration of a share dropped.
      frames: of the video.
      rounds: turns of each.
      tokens: that decoding makes.
    """
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    configs = {ratio: make(ratio) for ratio in (0.0, DROPPED)}
    whole = configs[0.0]
    budget = bench_budget(whole, frames)
    batch = bench_batch(whole, budget)
    model = jax.jit(lambda key: VideoLanguageModel(whole.model, key=key))(jax.random.key(0))
    peer = Peer(model, whole, batch)
    ours = {
        ratio: Programs(config, bench_budget(config, frames), ("forward", "step"))
        for ratio, config in configs.items()
    }
    times: dict[tuple[str, float | str], Times] = {}
    for part in ("forward", "step"):
        programs: dict[Any, Callable[[], None]] = {
            ratio: partial(run.run, part) for ratio, run in ours.items()
        }
        programs["peer"] = getattr(peer, part)
        programs["peer"]()
        times |= {(part, who): own for who, own in race(programs, rounds).items()}
    steps = Steps(model, budget, batch, tokens)
    peer.decode(2)
    decoding = {
        "ours": steps.run,
        "peer's first": lambda: peer.decode(1),
        "peer's": lambda: peer.decode(tokens),
    }
    raced = race(decoding, rounds)
    times["decode", 0.0] = raced["ours"]
    # The time of the first token is subtracted, so that only steps are left.
    times["decode", "peer"] = raced["peer's"].minus(raced["peer's first"])
    return peer_rows(times)


def peer_rows(times: Mapping[tuple[str, Any], Times]) -> list[dict[str, Any]]:
    """Returns a row for each part and share dropped, with the peer's time and our speed-up."""
    return [
        {
            "part": part,
            "ratio": who,
            "seconds": own.median(),
            "peer_seconds": times[part, "peer"].median(),
            "times_the_peer": speedup(times[part, "peer"], own),
            "times_the_peer_in_rounds": ratios(times[part, "peer"], own),
            "required": REQUIRED.get((part, who)),
        }
        for (part, who), own in times.items()
        if who != "peer"
    ]


def peer_table(rows: list[dict[str, Any]]) -> str:
    """Formats the rows as a Markdown table."""
    lines = [
        "| part | dropped | seconds | transformers | ours is faster | wanted |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        wanted = "-" if row["required"] is None else f"{row['required']:.1f}x"
        lines.append(
            f"| {row['part']} | {row['ratio']:.0%} | {row['seconds']:.2f} "
            f"| {row['peer_seconds']:.2f} "
            f"| {row['times_the_peer']:.2f}x {spread(row['times_the_peer_in_rounds'])} "
            f"| {wanted} |"
        )
    return "\n".join(lines)
