"""One video at a time: what is kept of it, and answers about it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np

from stts_jax.budget import Budget
from stts_jax.config import Config
from stts_jax.data.datasets.base import SourceExample
from stts_jax.data.evaluation_batches import PromptBatches, batches_of_prompts, scaled_frames
from stts_jax.data.prompts import plainly_worded
from stts_jax.data.video import Video, read_video
from stts_jax.evaluation.runner import answer
from stts_jax.model.video_language_model import VideoLanguageModel
from stts_jax.parallel.mesh import mesh_of, on_mesh, place_whole_batch


@dataclass(frozen=True)
class Kept:
    """What is left of a video.

    Attributes:
      video: sampled frames in their own size.
      keep: (T, P) bool.
      scores: (T, P) float32.
    """

    video: Video
    keep: np.ndarray
    scores: np.ndarray


def kept_tokens(
    model: VideoLanguageModel, config: Config, path: Path, frames_scale: float = 1.0
) -> Kept:
    """Score a video's tokens and select.

    Raises:
      VideoError: if the video can't be read.
    """
    frames = scaled_frames(config.data, frames_scale)
    video = read_video(path, frames, config.data.fps)
    batches = _prompts(config, path, "", (), frames_scale)
    batch, _, budget = next(iter(batches))
    arrays = place_whole_batch(batch, mesh_of(model))
    with on_mesh(mesh_of(model)):
        keep, scores = _keep_and_scores(model, arrays, budget)
    count = len(video.frames)
    return Kept(video, np.asarray(keep)[0, :count], np.asarray(scores)[0, :count])


def ask(
    model: VideoLanguageModel,
    config: Config,
    path: Path,
    question: str,
    options: tuple[str, ...] = (),
    frames_scale: float = 1.0,
) -> str:
    """The model's answer to a question about a video.

    Raises:
      VideoError: if the video can't be read.
      ExampleChainError, MessageError, FormatterError: if the question can't be asked.
    """
    batches = _prompts(config, path, question, options, frames_scale)
    # Says what is wrong with it, where a set would only leave it out.
    batches.chain.prompt(batches.examples[0][1], 0)
    return answer(model, config, batches).said[0][1]


def _prompts(
    config: Config, path: Path, question: str, options: tuple[str, ...], frames_scale: float
) -> PromptBatches:
    annotation = {"style": "user_qa", "question": question}
    if options:
        annotation = {"style": "video_multiple_choice", "question": question} | {
            "options": list(options),
            "answer_idx": 0,  # which isn't shown
        }
    source = SourceExample((annotation,), video=path, literal=True)
    if config.data.wording == "plain":
        source = plainly_worded(source)
    return batches_of_prompts(config, [(0, source)], rows=1, frames_scale=frames_scale)


@partial(jax.jit, static_argnums=2)
def _keep_and_scores(
    model: VideoLanguageModel, batch: dict[str, jax.Array], budget: Budget
) -> tuple[jax.Array, jax.Array]:
    vision = model.fuse(batch, budget, jax.random.key(0)).vision
    return vision.keep, vision.scores
