"""One video at a time: what is kept of it, and answers about it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import jax
import numpy as np

from stts_jax.batch import Batch
from stts_jax.budget import Budget
from stts_jax.config import Config
from stts_jax.data.chains import video_settings
from stts_jax.data.datasets.base import SourceExample
from stts_jax.data.evaluation_batches import PromptBatches, batches_of_prompts, scaled_frames
from stts_jax.data.example_chain import example_rng
from stts_jax.data.images.image import from_patches
from stts_jax.data.media import video_overrides
from stts_jax.data.text.formatting import Formatter
from stts_jax.data.video.reading import Video, read_sampled
from stts_jax.evaluation.asked import Asked
from stts_jax.evaluation.overlay import looked_at
from stts_jax.evaluation.runner import answer
from stts_jax.inference.likelihood import log_likelihoods
from stts_jax.model.video_language_model import VideoLanguageModel
from stts_jax.parallel.mesh import mesh_of, on_mesh, put_whole_batch


@dataclass(frozen=True)
class Kept:
    """The tokens of a video, or of images, that stay.

    Attributes:
      video: sampled frames in the size that they are looked at; of images their crops, numbered
        for timestamps.
      keep: (T, P) bool.
      scores: (T, P) float32.
    """

    video: Video
    keep: np.ndarray
    scores: np.ndarray


def kept_tokens(
    model: VideoLanguageModel, config: Config, asked: Asked | Path, frames_scale: float = 1.0
) -> Kept:
    """Score the tokens of a video, or of images, and select.

    Of images, the crops are shown that the model sees.

    Raises:
      VideoError, ImageError: if a file can't be read.
      OwnDataError: see `Asked.example`.
    """
    asked = asked if isinstance(asked, Asked) else Asked(asked)
    source = asked.example(config)
    batches = _prompts(config, source, frames_scale)
    video = None
    if source.video is not None:
        settings = video_settings(config.data, scaled_frames(config.data, frames_scale))
        video = read_sampled(
            source.video, settings.sampler(), video_overrides(source), transform=looked_at
        )
    batches.chain.prompt(source, 0)  # says what is wrong with it
    batch, _, budget = next(iter(batches))
    arrays = put_whole_batch(batch, mesh_of(model))
    with on_mesh(mesh_of(model)):
        keep, scores = _keep_and_scores(model, arrays, budget)
    if video is None:
        count = int(batch.num_images.max())
        crops = from_patches(batch.images[0][:count], model.config.vit.patch_size)
        video = Video(crops, np.arange(count, dtype=np.float64))
    count = len(video.frames)
    return Kept(video, np.asarray(keep)[0, :count], np.asarray(scores)[0, :count])


def ask(
    model: VideoLanguageModel,
    config: Config,
    asked: Asked | Path,
    question: str = "",
    options: tuple[str, ...] = (),
    frames_scale: float = 1.0,
) -> str:
    """Returns the model's answer to a question.

    With options it is the text of the one that is most likely, worded as the run's prompts want it.

    Args:
      model: as trained.
      config: of the run.
      asked: all that is asked, or only the video.
      question, options: of the video, if `asked` is one.
      frames_scale: times `data.max_frames` frames are taken.

    Raises:
      VideoError, ImageError: if a file can't be read.
      OwnDataError: see `Asked.example`.
      ExampleChainError, MessageError, FormatterError: if the question can't be asked.
    """
    asked = asked if isinstance(asked, Asked) else Asked(asked, question, options)
    source = asked.example(config)
    batches = _prompts(config, source, frames_scale)
    batches.chain.prompt(source, 0)  # says what is wrong with it, where a set would leave it out
    if not asked.options:
        return answer(model, config, batches).said[0][1]
    tokens = [_answer_tokens(batches, asked.example(config, option)) for option in asked.options]
    batch, _, budget = next(iter(batches))
    arrays = put_whole_batch(batch, mesh_of(model))
    likely = log_likelihoods(model, arrays, budget, tokens, jax.random.key(config.train.seed))
    return asked.options[int(likely.argmax())]


def _answer_tokens(batches: PromptBatches, source: SourceExample) -> list[int]:
    """Token ids of the answer of an example as the run words it, and of its end.

    Raises:
      FormatterError: if the option has no label left.
    """
    formatter = Formatter(batches.chain.settings.formatter)
    annotation = batches.tokenizer.literal(source.annotations[0])
    worded = formatter.format(annotation, mode="eval", rng=example_rng(0, 0))
    answer = cast(str, worded.messages[-1])  # of one conversation
    return [*batches.tokenizer.encode(answer), batches.tokenizer.eos_id]


def _prompts(config: Config, source: SourceExample, frames_scale: float) -> PromptBatches:
    return batches_of_prompts(config, [(0, source)], rows=1, frames_scale=frames_scale)


@partial(jax.jit, static_argnums=2)
def _keep_and_scores(
    model: VideoLanguageModel, batch: Batch, budget: Budget
) -> tuple[jax.Array, jax.Array]:
    vision = model.fuse(batch, budget, jax.random.key(0)).vision
    return vision.plan.keep, vision.scores
