"""Decoded pictures and videos as the model reads them, kept for further questions."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stts_jax.budget import Budget, video_budget
from stts_jax.config import Config, ModelConfig
from stts_jax.data.datasets.base import SourceExample
from stts_jax.data.example_chain import ExampleArrays, ExampleChain
from stts_jax.data.images.image import from_patches
from stts_jax.data.media import Media
from stts_jax.data.packing.rows import example_sizes, pack_row, stack_rows
from stts_jax.data.video.reading import Video
from stts_jax.inference.engine.requests import MediaRow
from stts_jax.serving.decoding_pool import Decoded
from stts_jax.size_buckets import at_bucket, text_room, with_counts

# Programs are compiled for so many frames, or crops; a video has no more than it has.
FRAMES = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512)


@dataclass(frozen=True)
class PreparedMedia:
    """Pictures or a video before it is known how many tokens are dropped.

    Attributes:
      source: the example, without a question.
      media: as the formatter sees them.
      arrays: of what all questions about them begin with.
      thumbnails: (T, h, w, 3) uint8; of pictures their crops.
      times: (T,) float64 seconds; of pictures the numbers of crops.
    """

    source: SourceExample
    media: Media
    arrays: ExampleArrays
    thumbnails: np.ndarray
    times: np.ndarray

    @property
    def nbytes(self) -> int:
        """Returns the bytes of all pixels."""
        frames = self.media.video.frames.nbytes if self.media.video is not None else 0
        images = sum(image.nbytes for image in self.media.images)
        return frames + images + self.arrays["images"].nbytes + self.thumbnails.nbytes

    def row(self, config: Config) -> MediaRow:
        """Returns the row that a model reads, in its size bucket.

        Args:
          config: of the run; its ratio and threshold decide what stays.
        """
        model = config.model
        budget = self._budget(at_bucket(model))
        packed = stack_rows([pack_row([self.arrays], budget, model)])
        return MediaRow(with_counts(packed, model), budget, at_bucket(model))

    def _budget(self, model: ModelConfig) -> Budget:
        sizes = example_sizes(self.arrays, model)
        frames = _room(sizes["frames"])
        text = sizes["tokens_before"] - sizes["visual_before"]
        # What a video of all the frames would have, so that shorter ones are compiled for with it.
        text = text_room(math.ceil(text / sizes["frames"] * frames))
        if self.media.video is not None:
            return video_budget(model, frames=frames, videos=1, text_tokens=text)
        visual = text_room(sizes["visual_before"])  # nothing is dropped of pictures
        tokens = visual + text
        patches = frames * model.vit.patches
        return Budget(frames, 1, patches, visual, visual, tokens, tokens)


def _room(frames: int) -> int:
    return next((room for room in FRAMES if room >= frames), frames)


def prepare_video(decoded: Decoded, chain: ExampleChain) -> PreparedMedia:
    """Returns a video as the model reads it."""
    video = Video(decoded.frames, decoded.times, decoded.target_fps)
    media = Media(video=video, video_size=decoded.size)
    source = SourceExample((), video=Path("video"), literal=True)
    arrays = chain.before_questions(source, media)
    return PreparedMedia(source, media, arrays, decoded.thumbnails, decoded.times)


def prepare_pictures(decoded: Sequence[Decoded], chain: ExampleChain) -> PreparedMedia:
    """Returns pictures as the model reads them."""
    media = Media(images=tuple(each.frames[0] for each in decoded))
    names = tuple(Path(f"picture {number}") for number in range(1, 1 + len(decoded)))
    source = SourceExample((), images=names, literal=True)
    arrays = chain.before_questions(source, media)
    crops = from_patches(arrays["images"], chain.model.vit.patch_size)
    return PreparedMedia(source, media, arrays, crops, np.arange(len(crops), dtype=np.float64))


def with_frames(chain: ExampleChain, frames: int, fps: float | None) -> ExampleChain:
    """Returns a chain that reads videos at other rates."""
    video = dataclasses.replace(chain.settings.video, max_frames=frames, max_fps=fps)
    return dataclasses.replace(chain, settings=dataclasses.replace(chain.settings, video=video))


class PreparedCache:
    """What was prepared lately; together it has at most so many bytes. Any thread may use it."""

    def __init__(self, limit: int) -> None:
        """Starts empty."""
        self._limit = limit
        self._known: OrderedDict[tuple[object, ...], PreparedMedia] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Returns the bytes of all that is there."""
        with self._lock:
            return sum(each.nbytes for each in self._known.values())

    def get(self, key: tuple[object, ...]) -> PreparedMedia | None:
        """Returns what is there under a key; None if nothing is."""
        with self._lock:
            found = self._known.get(key)
            if found is not None:
                self._known.move_to_end(key)
            return found

    def put(self, key: tuple[object, ...], prepared: PreparedMedia) -> None:
        """Adds it, and lets go of what was used least recently beyond the limit."""
        with self._lock:
            self._known[key] = prepared
            while sum(each.nbytes for each in self._known.values()) > self._limit:
                self._known.popitem(last=False)
