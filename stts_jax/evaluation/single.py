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
from stts_jax.config import Config, ModelConfig
from stts_jax.data.chains import chain_of
from stts_jax.data.datasets.base import SourceExample
from stts_jax.data.evaluation_batches import (
    batch_of,
    budget_alone,
    least_budget,
    scaled_frames,
)
from stts_jax.data.example_chain import ExampleChain, example_rng
from stts_jax.data.images.image import from_patches
from stts_jax.data.media import Media, read_frames
from stts_jax.data.packing.batch_memory import require_batch_fits
from stts_jax.data.stored_media import StoredFrames
from stts_jax.data.text.formatting import Formatter
from stts_jax.data.video.reading import Video
from stts_jax.evaluation.asked import Asked
from stts_jax.evaluation.overlay import looked_at
from stts_jax.evaluation.runner import answer_batch
from stts_jax.inference.cpu_programs import jit_to_answer
from stts_jax.inference.likelihood import log_likelihoods
from stts_jax.model.video_language_model import (
    VideoLanguageModel,
    reconfigure,
    vision_encoder,
)
from stts_jax.model.vision import VisionEncoder
from stts_jax.parallel.mesh import mesh_of, on_mesh, put_whole_batch
from stts_jax.size_buckets import at_bucket


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
      chain: has made its arrays.
      batch: the prompt, one row.
      budget: of the row.
    """

    asked: Asked
    source: SourceExample
    chain: ExampleChain
    batch: Batch
    budget: Budget

    @property
    def model(self) -> ModelConfig:
        """Returns the configuration that the answering model is compiled in."""
        return at_bucket(self.chain.model)


def prepare(
    config: Config,
    asked: Asked | Path,
    frames_scale: float = 1.0,
    *,
    chain: ExampleChain | None = None,
    media: Media | None = None,
) -> Prepared:
    """Reads media, subtitles and question, and makes the prompt.

    Args:
      config: of the run.
      asked: the question, or a video alone.
      frames_scale: times `data.max_frames` frames are taken.
      chain: of the configuration, if it was made before.
      media: what `asked` shows, if it was read before.

    Raises:
      VideoError, ImageError: if a file can't be read.
      OwnDataError: see `Asked.example`.
      ExampleChainError, MessageError, FormatterError: if the question can't be asked.
    """
    asked = asked if isinstance(asked, Asked) else Asked(asked)
    source = asked.example(config)
    require_batch_fits(least_budget(config, frames_scale), config.model, 1, "lower --frames")
    chain = chain or chain_of(config, max_frames=scaled_frames(config.data, frames_scale))
    arrays = chain.prompt(source, 0, media).arrays
    budget = budget_alone(arrays, config, chain.model, frames_scale)
    batch, budget = batch_of([arrays], budget, chain.model, 1)
    return Prepared(asked, source, chain, batch, budget)


def kept_tokens(
    model: VideoLanguageModel, config: Config, asked: Asked | Path, frames_scale: float = 1.0
) -> Kept:
    """Score the tokens of a video, or of images, and select; errors are those of `prepare`."""
    return kept_of(vision_encoder(model), prepare(config, asked, frames_scale))


def kept_of(encoder: VisionEncoder, prepared: Prepared) -> Kept:
    """Scores the tokens of what is prepared, and selects; of images, the crops are shown."""
    batch, mesh = prepared.batch, mesh_of(encoder)
    encoder = VisionEncoder(encoder.vit, encoder.scorer, prepared.model)
    with on_mesh(mesh):
        keep, scores = _keep_and_scores(encoder, put_whole_batch(batch, mesh), prepared.budget)
    video = shown(prepared.chain, prepared.source, batch)
    count = len(video.frames)
    return Kept(video, np.asarray(keep)[0, :count], np.asarray(scores)[0, :count])


def shown(chain: ExampleChain, source: SourceExample, batch: Batch) -> Video:
    """Returns the frames of an example in the size that they are looked at, or the crops of images.

    Args:
      chain: of the example.
      source: the example.
      batch: of it alone, of NumPy arrays.
    """
    if source.video is not None and not isinstance(source.stored, StoredFrames):
        return read_frames(source, chain.settings.video, looked_at)
    count = int(batch.num_images.max())
    crops = from_patches(batch.images[0][:count], chain.model.vit.patch_size)
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
    asked, budget, tokenizer = prepared.asked, prepared.budget, prepared.chain.tokenizer
    model = reconfigure(model, prepared.model)
    if not asked.options:
        tokens, _ = answer_batch(model, config, prepared.batch, budget, tokenizer.eos_id)
        return tokenizer.decode(tokens[0].tolist())
    choices = [answer_tokens(prepared.chain, asked.example(config, o)) for o in asked.options]
    arrays = put_whole_batch(prepared.batch, mesh_of(model))
    likely = log_likelihoods(model, arrays, budget, choices, jax.random.key(config.train.seed))
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
