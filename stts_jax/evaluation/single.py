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
from stts_jax.data.example_chain import ExampleChain, example_rng
from stts_jax.data.images.image import from_patches
from stts_jax.data.media import video_overrides
from stts_jax.data.text.formatting import Formatter
from stts_jax.data.video.reading import Video, read_sampled
from stts_jax.evaluation.asked import Asked
from stts_jax.evaluation.overlay import looked_at
from stts_jax.evaluation.runner import answer
from stts_jax.inference.cpu_programs import jit_to_answer
from stts_jax.inference.likelihood import log_likelihoods
from stts_jax.model.video_language_model import (
    VideoLanguageModel,
    reconfigure,
    vision_encoder,
)
from stts_jax.model.vision import VisionEncoder
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


@dataclass(frozen=True)
class Prepared:
    """A question with its media, known to be readable before a model is loaded to answer it.

    Attributes:
      asked: the question.
      source: its example.
      batches: the prompt, one row.
      frames_scale: times `data.max_frames` frames are taken.
    """

    asked: Asked
    source: SourceExample
    batches: PromptBatches
    frames_scale: float


def prepare(config: Config, asked: Asked | Path, frames_scale: float = 1.0) -> Prepared:
    """Reads media, subtitles and question, and makes the prompt.

    Raises:
      VideoError, ImageError: if a file can't be read.
      OwnDataError: see `Asked.example`.
      ExampleChainError, MessageError, FormatterError: if the question can't be asked.
    """
    asked = asked if isinstance(asked, Asked) else Asked(asked)
    source = asked.example(config)
    batches = batches_of_prompts(config, [(0, source)], rows=1, frames_scale=frames_scale)
    batches.chain.prompt(source, 0)  # says what is wrong with it, where a set would leave it out
    return Prepared(asked, source, batches, frames_scale)


def kept_tokens(
    model: VideoLanguageModel, config: Config, asked: Asked | Path, frames_scale: float = 1.0
) -> Kept:
    """Score the tokens of a video, or of images, and select; errors are those of `prepare`."""
    return kept_of(vision_encoder(model), config, prepare(config, asked, frames_scale))


def kept_of(encoder: VisionEncoder, config: Config, prepared: Prepared) -> Kept:
    """Scores the tokens of what is prepared, and selects; of images, the crops are shown."""
    batch, _, budget = next(iter(prepared.batches))
    mesh = mesh_of(encoder)
    encoder = VisionEncoder(encoder.vit, encoder.scorer, prepared.batches.model)
    with on_mesh(mesh):
        keep, scores = _keep_and_scores(encoder, put_whole_batch(batch, mesh), budget)
    video = shown(config, prepared.source, batch, prepared.frames_scale)
    count = len(video.frames)
    return Kept(video, np.asarray(keep)[0, :count], np.asarray(scores)[0, :count])


def shown(config: Config, source: SourceExample, batch: Batch, frames_scale: float) -> Video:
    """Returns the frames of an example in the size that they are looked at, or the crops of images.

    Args:
      config: of the run.
      source: the example.
      batch: of it alone, of NumPy arrays.
      frames_scale: times `data.max_frames` frames are taken.
    """
    if source.video is not None and source.stored is None:
        settings = video_settings(config.data, scaled_frames(config.data, frames_scale))
        return read_sampled(
            source.video, settings.sampler(), video_overrides(source), transform=looked_at
        )
    count = int(batch.num_images.max())
    crops = from_patches(batch.images[0][:count], config.model.vit.patch_size)
    return Video(crops, np.arange(count, dtype=np.float64))


def ask(
    model: VideoLanguageModel,
    config: Config,
    asked: Asked | Path,
    question: str = "",
    options: tuple[str, ...] = (),
    frames_scale: float = 1.0,
) -> str:
    """Returns the model's answer to a question; errors are those of `prepare`.

    With options it is the text of the one that is most likely, worded as the run's prompts want it.

    Args:
      model: as trained.
      config: of the run.
      asked: all that is asked, or only the video.
      question, options: of the video, if `asked` is one.
      frames_scale: times `data.max_frames` frames are taken.
    """
    asked = asked if isinstance(asked, Asked) else Asked(asked, question, options)
    return answer_of(model, config, prepare(config, asked, frames_scale))


def answer_of(model: VideoLanguageModel, config: Config, prepared: Prepared) -> str:
    """Returns the model's answer to a prepared question; see `ask`."""
    asked, batches = prepared.asked, prepared.batches
    if not asked.options:
        return answer(model, config, batches).said[0][1]
    tokens = [
        answer_tokens(batches.chain, asked.example(config, option)) for option in asked.options
    ]
    batch, _, budget = next(iter(batches))
    arrays = put_whole_batch(batch, mesh_of(model))
    model = reconfigure(model, batches.model)
    likely = log_likelihoods(model, arrays, budget, tokens, jax.random.key(config.train.seed))
    return asked.options[int(likely.argmax())]


def answer_tokens(chain: ExampleChain, source: SourceExample) -> list[int]:
    """Returns the token ids of the answer of an example as the run words it, and of its end.

    Raises:
      FormatterError: if the option has no label left.
    """
    formatter = Formatter(chain.settings.formatter)
    annotation = chain.tokenizer.literal(source.annotations[0])
    worded = formatter.format(annotation, mode="eval", rng=example_rng(0, 0))
    answer = cast(str, worded.messages[-1])  # of one conversation
    return [*chain.tokenizer.encode(answer), chain.tokenizer.eos_id]


@partial(jit_to_answer, static_argnums=(2,))
def _keep_and_scores(
    encoder: VisionEncoder, batch: Batch, budget: Budget
) -> tuple[jax.Array, jax.Array]:
    # Of the key that `VideoLanguageModel.fuse` takes, which method `random` draws with.
    vision = encoder(batch, budget, key=jax.random.key(0))
    return vision.plan.keep, vision.scores
