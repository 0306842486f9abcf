"""The stages of `bench.full_size` that no other command runs, each in a process of its own.

`python -m stts_jax.bench.full_size_parts STAGE DIR ...`
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from stts_jax.bench.full_size_folder import of_width, write_clip, write_random_folder
from stts_jax.command_line import run
from stts_jax.config import ConfigError, load_config, override
from stts_jax.evaluation.asked import Asked
from stts_jax.evaluation.single import prepare
from stts_jax.inference.cpu_programs import jit_to_answer
from stts_jax.inference.decoding import program_to_answer
from stts_jax.inference.prefill import prefill
from stts_jax.inference.sampling import Sampling
from stts_jax.parallel.mesh import mesh_of, on_mesh, put_whole_batch
from stts_jax.training.checkpointing.load import load_to_answer
from stts_jax.training.checkpointing.run_folder import config_of

QUESTION = "What colour does the triangle turn?"
# Folders and files below DIR.
THEIRS, OURS, EXPORTED, ADAPTED = "hugging_face", "ours", "exported", "adapted"
CLIP, LINES = "clip.mp4", "lines.jsonl"
# Tokens that are decoded after the first, to time one.
_MORE_TOKENS = 4


def write(folder: Path, setup: str, width: float, tokenizer: Path | None) -> None:
    """Writes the random Hugging Face folder, the clip, and a question about it to train on."""
    write_clip(folder / CLIP)
    line = {"video": CLIP, "question": QUESTION, "answer": "red"}
    (folder / LINES).write_text(json.dumps(line) + "\n")
    write_random_folder(folder / THEIRS, of_width(load_config(setup).model, width), tokenizer)


def answer(folder: Path, dtype: str, frames: int) -> None:
    """Answers with the converted model: saves the last logits, and what a prefill and a token take.

    The inputs are saved too, for `answer_of_transformers`.
    """
    config = override(
        config_of(folder / OURS), [f"model.compute_dtype={dtype}", f"data.max_frames={frames}"]
    )
    prepared = prepare(config, Asked(folder / CLIP, QUESTION))
    batch, budget = prepared.batch, prepared.budget
    length = int((batch.text.input_ids[0] >= 0).sum())
    np.savez(
        folder / "inputs.npz",
        input_ids=batch.text.input_ids[:, :length],
        images=batch.images[0],
        token_pooling=batch.token_pooling[0],
        sizes=[config.model.vit.grid // config.model.prune.pooling, config.model.llm.vocab_size],
    )
    loaded = _timed(lambda: load_to_answer(folder / OURS, config)[0])
    model, key = loaded.pop("result"), jax.random.key(0)
    mesh = mesh_of(model)
    rows = put_whole_batch(batch, mesh)

    def last_logits(model: Any, batch: Any) -> jax.Array:
        with on_mesh(mesh):
            return prefill(model, batch, budget, 1, key).logits

    # No token has the id -1, so no answer ends early.
    several = (budget, 1 + _MORE_TOKENS, -1, Sampling(), mesh)
    compiled = _timed(
        lambda: (
            jit_to_answer(last_logits, ()).program_for(model).lower(model, rows).compile(),
            program_to_answer(model).lower(model, rows, *several, key).compile(),
        )
    )
    logits_of, tokens_of = compiled.pop("result")
    logits = jax.block_until_ready(logits_of(model, rows))  # a warm-up, as parameters are mapped
    first = _timed(lambda: logits_of(model, rows))
    many = _timed(lambda: tokens_of(model, rows, key))
    _save(folder, f"ours_{dtype}", logits, loaded, first, many, compile_s=compiled["seconds"])


def answer_of_transformers(folder: Path, dtype: str) -> None:
    """Answers the saved inputs with transformers, and saves the same."""
    try:
        import torch
        from transformers import AutoModelForImageTextToText
    except ImportError as error:
        raise ConfigError(
            f"'{error.name}' is missing, so there is nothing to compare with; pip install -e "
            "'.[parity]' brings torch and transformers"
        ) from error
    torch.set_grad_enabled(False)
    kind = getattr(torch, dtype)
    loaded = _timed(
        lambda: AutoModelForImageTextToText.from_pretrained(folder / THEIRS, dtype=kind).eval()
    )
    model = loaded.pop("result")
    saved = np.load(folder / "inputs.npz")
    side, vocabulary = (int(size) for size in saved["sizes"])
    ids = torch.tensor(saved["input_ids"], dtype=torch.long)
    images = saved["images"].astype(np.float32) / 255.0 * 2.0 - 1.0
    inputs = {
        "input_ids": ids,
        "pixel_values_videos": torch.tensor(images).to(kind),
        "video_token_pooling": torch.tensor(saved["token_pooling"], dtype=torch.long),
        "video_grids": torch.tensor([[len(images), side, side]]),
        "mm_token_type_ids": (ids >= vocabulary).long(),
    }

    def last_logits() -> Any:
        return model(**inputs, logits_to_keep=1).logits[:, -1].float().numpy()

    logits = last_logits()  # a warm-up, as weights are mapped
    first = _timed(last_logits)
    count = 1 + _MORE_TOKENS
    exactly = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False}
    many = _timed(lambda: model.generate(**inputs, **exactly, pad_token_id=0))
    _save(folder, f"transformers_{dtype}", logits, loaded, first, many)


def compare(folder: Path) -> None:
    """Compares the last logits of transformers with ours, of each type that both computed."""
    found: dict[str, Any] = {}
    for theirs in sorted(folder.glob("transformers_*.npy")):
        wanted = np.load(theirs).ravel()
        for ours in sorted(folder.glob("ours_*.npy")):
            logits = np.load(ours).ravel()
            error = np.abs(logits - wanted[: len(logits)]).max() / np.abs(wanted).max()
            same = int(logits.argmax() == wanted[: len(logits)].argmax())
            found |= {f"{ours.stem} of {theirs.stem}": float(error), f"{ours.stem} top 1": same}
    _write(folder, "compare", found)


def _save(
    folder: Path,
    name: str,
    logits: Any,
    loaded: dict[str, Any],
    first: dict[str, Any],
    many: dict[str, Any],
    **more: float,
) -> None:
    """Saves logits and figures.

    Args:
      folder: for both.
      name: of the files.
      logits: at the last position.
      loaded, first, many: time of loading, of a prefill, and of a prefill and more tokens.
      more: figures.
    """
    np.save(folder / f"{name}.npy", np.asarray(logits, np.float32))
    figures = {
        "load_s": loaded["seconds"],
        "prefill_s": first["seconds"],
        "prefill_core_s": first["core_seconds"],
        "token_s": (many["seconds"] - first["seconds"]) / _MORE_TOKENS,
        "token_core_s": (many["core_seconds"] - first["core_seconds"]) / _MORE_TOKENS,
    }
    _write(folder, name, figures | more)


def _write(folder: Path, name: str, figures: dict[str, Any]) -> None:
    (folder / f"{name}.json").write_text(json.dumps(figures, indent=2) + "\n")


def _timed(work: Callable[[], Any]) -> dict[str, Any]:
    wall, core = time.perf_counter(), time.process_time()
    result = jax.block_until_ready(work())
    return {
        "result": result,
        "seconds": time.perf_counter() - wall,
        "core_seconds": time.process_time() - core,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one stage; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m stts_jax.bench.full_size_parts")
    parser.add_argument("stage", choices=("write", "answer", "transformers", "compare"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--setup", default="molmo2_4b")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--frames", type=int, default=8)
    options = parser.parse_args(arguments)
    folder = options.folder
    stages = {
        "write": partial(write, folder, options.setup, options.width, options.tokenizer),
        "answer": partial(answer, folder, options.dtype, options.frames),
        "transformers": partial(answer_of_transformers, folder, options.dtype),
        "compare": partial(compare, folder),
    }
    return run("full_size", stages[options.stage])


if __name__ == "__main__":
    sys.exit(main())
