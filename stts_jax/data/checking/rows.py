"""Finds examples that fit no row of a setup: made as in training, with black videos."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stts_jax.config import Config
from stts_jax.data.bad_examples import Unreadable
from stts_jax.data.chains import chain_of
from stts_jax.data.datasets.base import Dataset, SourceExample
from stts_jax.data.example_chain import ExampleChain
from stts_jax.data.media import Media, MediaCache, read_media, video_overrides
from stts_jax.data.mixture_order import Draw
from stts_jax.data.reader import Reader
from stts_jax.data.sources.own_data import OwnData
from stts_jax.data.sources.source import Source
from stts_jax.data.video.pyav import open_pyav
from stts_jax.data.video.reading import sampled_from
from stts_jax.data.video.settings import VideoSettings
from stts_jax.train_ratios import StepSizes, at_ratio


@dataclass(frozen=True)
class RowCheck:
    """Whether examples fit a row, as they are in the first epoch of training.

    Attributes:
      config: of the setup.
      chain: makes arrays of examples.
    """

    config: Config
    chain: ExampleChain

    @classmethod
    def of(cls, config: Config) -> RowCheck:
        """Returns the check of a setup.

        Raises:
          TokenizerError: see `Tokenizer.load`.
        """
        tightest = at_ratio(config, max(StepSizes.of(config).models))
        chain = replace(chain_of(tightest), cache=_BlackVideos(keep=False))
        return cls(config, chain)

    def problems(
        self, dataset: Dataset, indices: Iterable[int]
    ) -> Iterator[tuple[int, Unreadable]]:
        """Returns the examples, or lines of them, that training would skip; their files are there.

        Each comes with the number of the example.
        """
        plain = isinstance(dataset, OwnData) and self.config.data.wording == "plain"
        source = Source(dataset, plain=plain)
        data, models = self.config.data, tuple(StepSizes.of(self.config).models.values())
        read = Reader((source,), (self.chain,), data, data.seed, models)
        for index in indices:
            found = read(Draw(source=0, index=index, epoch=0))
            bad = (found,) if isinstance(found, Unreadable) else found["left_out"]
            yield from ((index, one) for one in bad)


class _BlackVideos(MediaCache):
    """Videos of the right number of frames at the right times, none of which is decoded."""

    def read(
        self,
        source: SourceExample,
        settings: VideoSettings,
        frame_size: int,
        rng: np.random.RandomState | None = None,
    ) -> Media:
        """See `read_media`."""
        if source.video is None or source.images:
            return read_media(source, settings, frame_size, rng)
        with open_pyav(source.video) as found:
            frame = np.zeros((frame_size, frame_size, 3), np.uint8)
            black = _Black(found.begin, found.end, found.frame_count, frame)
            overrides = video_overrides(source)
            video = sampled_from(black, source.video, settings.sampler(), overrides, rng=rng)
            return Media(video=video, video_size=(found.width, found.height))


@dataclass
class _Black:
    """The `VideoDecoder` of a video that shows the same frame all the time."""

    begin: float
    end: float
    frame_count: int
    frame: np.ndarray

    def frames_shown_at(self, seconds: Sequence[float]) -> Iterator[np.ndarray]:
        return itertools.repeat(self.frame, len(seconds))

    def frames_numbered(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        return itertools.repeat(self.frame, len(numbers))
