"""Makes the arrays of an example of a dataset: media, prompts, tokens.

    file(s) - frames or images - patches and vision tokens -+
    annotations - messages --------------------------------- text with vision - arrays

What is random is drawn from the example's own generator, in this order: frames, prompts, order of
the branches, high-resolution crops. It is made of the number of the example and the epoch alone,
so an example looks the same whatever is read before it.
Source: olmo/preprocessing/multimodal_preprocessor.py (docs/reference.md#pipeline and
#messages-and-arrays).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from stts_jax.budget import MultimodalType
from stts_jax.config import ConfigError, ModelConfig
from stts_jax.data.datasets.base import SourceExample
from stts_jax.data.images.settings import ImageSettings
from stts_jax.data.images.tokens import join_images, tokenize_image, tokenize_images
from stts_jax.data.media import Media, MediaCache, read_media
from stts_jax.data.text.formatting import Formatted, Formatter, FormatterSettings, Mode
from stts_jax.data.text.message_arrays import Learnt, MessageArrays, TextSettings, Weight
from stts_jax.data.text.message_weight import LOSS_WEIGHTS
from stts_jax.data.text.positions import warn_of_positions
from stts_jax.data.text.tokenizer import Tokenizer, without_marks
from stts_jax.data.text.weighted_tokens import VisionBlock
from stts_jax.data.video.settings import VideoSettings
from stts_jax.data.video.tokens import VideoPreprocessor
from stts_jax.data.vision import ExampleArrays, VisionInput


class ExampleChainError(ValueError):
    """An example that has no arrays; the message is one sentence with the remedy."""


@dataclass(frozen=True)
class ExampleSettings:
    """Settings of the chain; the defaults are those that the models were tuned with.

    Attributes:
      images: crops and tokens of images.
      video: frames and tokens of videos.
      formatter: wording of prompts and answers.
      text: lengths, and loss weights of answers.
      several_images: take examples with several images.
      too_many_images: of images above `images.max_images`, `drop` the last as the reference does,
        or `raise` an error.
    """

    images: ImageSettings = field(default_factory=ImageSettings)
    video: VideoSettings = field(default_factory=VideoSettings)
    formatter: FormatterSettings = field(default_factory=FormatterSettings)
    text: TextSettings = field(
        default_factory=lambda: TextSettings(LOSS_WEIGHTS["root_subsegments_root_tokens"])
    )
    several_images: bool = True
    too_many_images: Literal["drop", "raise"] = "drop"


@dataclass(frozen=True)
class PreparedExample:
    """An example for the model.

    Attributes:
      arrays: the fields of a `Batch` by name, for this example alone: no row axis, no padding,
        `num_images` and `multimodal_type` have shape (1,).
      messages: as they were worded; of a tree a list for each branch.
      metadata: of the source, and what metrics need of its annotation. `image_size` is the width
        and height in pixels; of several images it is `image_group_size`, a list of them.
    """

    arrays: ExampleArrays
    messages: Sequence[Any]
    metadata: dict[str, Any]


def example_rng(index: int, epoch: int, seed: int | None = None) -> np.random.RandomState:
    """The generator of example `index` of a dataset.

    In the reference the run's seed is no part of it (docs/reference.md#order); that is what None
    gives.
    """
    spawn_key = (epoch,) if seed is None else (epoch, seed)
    sequence = np.random.SeedSequence(index, spawn_key=spawn_key)
    return np.random.RandomState(np.random.MT19937(sequence))


@dataclass(frozen=True)
class ExampleChain:
    """Makes arrays of examples.

    Attributes:
      model: sizes.
      tokenizer: for all text.
      settings: all the rest.
      cache: of decoded videos.
    """

    model: ModelConfig
    tokenizer: Tokenizer
    settings: ExampleSettings = field(default_factory=ExampleSettings)
    cache: MediaCache | None = None

    def __post_init__(self) -> None:
        images, vit = self.settings.images, self.model.vit
        if (images.image_size, images.patch_size) != (vit.image_size, vit.patch_size):
            raise ConfigError(
                f"ImageSettings makes crops of {images.image_size} and patches of "
                f"{images.patch_size} pixels, but model.vit takes {vit.image_size} and "
                f"{vit.patch_size}; set both alike"
            )
        if not images.normalize_in_model:
            raise ConfigError(
                "ImageSettings.normalize_in_model is False, but the model takes uint8 patches; "
                "set it to True"
            )
        for name in ("pooling", "group_pooling"):
            if np.prod(getattr(images, name)) > self._pooling_slots:
                raise ConfigError(
                    f"ImageSettings.{name} is {getattr(images, name)}, more than the "
                    f"{self._pooling_slots} patches that a token of the model pools; lower it, or "
                    "raise model.connector.image_pooling"
                )

    def training(
        self, source: SourceExample, index: int, epoch: int, weight: Weight = None
    ) -> PreparedExample:
        """An example with its answers, prompts and crops drawn at random.

        Args:
          source: the example.
          index: its number in the dataset.
          epoch: how often the dataset was seen before.
          weight: of its dataset, overrides that of the settings.

        Raises:
          ValueError: if its files cannot be read, or it lacks what its style needs; all errors of
            the parts are kinds of this.
        """
        rng = example_rng(index, epoch)
        return self.prepare(source, self.load(source, rng), "train", rng, weight)

    def evaluation(
        self, source: SourceExample, index: int, weight: Weight = None
    ) -> PreparedExample:
        """An example with its answers as it is in evaluation, to measure the loss on.

        Prompts of captions and short answers, and the order of branches, are drawn here as well.
        """
        return self.prepare(source, self.load(source), "eval", example_rng(index, 0), weight)

    def prompt(
        self, source: SourceExample, index: int, media: Media | None = None
    ) -> PreparedExample:
        """An example up to where its answer begins.

        Where the last message of a conversation of several turns is an answer, it is left out.

        Args:
          source: the example.
          index: its number in the dataset.
          media: its files, if they were read before.

        Raises:
          ExampleChainError: if there are several conversations: give one at a time.
        """
        source = dataclasses.replace(
            source, annotations=tuple(_without_last_answer(a) for a in source.annotations)
        )
        media = self.load(source) if media is None else media
        return self.prepare(source, media, "inference", example_rng(index, 0))

    def before_questions(self, source: SourceExample, media: Media) -> ExampleArrays:
        """Returns the arrays of what the prompts of all questions about the same media begin with.

        Args:
          source: the example; its annotations are not read.
          media: its loaded files.
        """
        if source.literal:
            source = self._marked(source)
        vision, blocks = self._vision(source, media, None)
        text = MessageArrays(self.tokenizer, self.settings.text).before_questions(blocks)
        return {**self._visual(vision), **text}

    def questions(self, source: SourceExample, index: int, media: Media) -> list[list[int]]:
        """Returns the token ids of each message of a prompt, after `before_questions`.

        Args:
          source: the example, of one conversation; see `prompt`.
          index: its number in the dataset.
          media: its loaded files.

        Raises:
          ExampleChainError, MessageError: if this can't be asked.
        """
        annotations = tuple(_without_last_answer(a) for a in source.annotations)
        source = dataclasses.replace(source, annotations=annotations)
        if source.literal:
            source = self._marked(source)
        formatted = self._formatted(source, media, "inference", example_rng(index, 0))
        conversations: Any = formatted.messages if formatted.is_tree else [formatted.messages]
        if len(conversations) > 1:
            raise ExampleChainError(f"a prompt of {len(conversations)} conversations; ask one")
        make = MessageArrays(self.tokenizer, self.settings.text)
        return make.after_media(conversations[0])

    def load(self, source: SourceExample, rng: np.random.RandomState | None = None) -> Media:
        """Read the files of an example, with `rng` in training; see `read_media`."""
        read = read_media if self.cache is None else self.cache.read
        return read(source, self.settings.video, self.model.vit.image_size, rng)

    def prepare(
        self,
        source: SourceExample,
        media: Media,
        mode: Mode,
        rng: np.random.RandomState,
        weight: Weight | Sequence[Weight] = None,
    ) -> PreparedExample:
        """Arrays of an example whose files are loaded.

        Args:
          source: the example.
          media: its loaded files.
          mode: `train`, `eval` or `inference`. Where messages end with an answer, the arrays are to
            train with, also in `inference`.
          rng: the example's generator.
          weight: overrides that of the settings. A list has one for each annotation, in the order
            that they are shuffled into, as in the reference.

        Raises:
          ValueError: see `training`.
        """
        if source.literal:
            source = self._marked(source)
        formatted = self._formatted(source, media, mode, rng)
        messages: list[Any] = formatted.messages
        learnt: list[Learnt] | None = None
        if formatted.is_tree:
            answers = map(_learnt, source.annotations)
            branches: Any = list(zip(messages, answers, strict=False))
            rng.shuffle(branches)
            messages, learnt = [list(part) for part in zip(*branches, strict=True)]
        vision, blocks = self._vision(source, media, rng if mode == "train" else None)
        arrays = {**self._visual(vision), **self._text(messages, blocks, mode, weight, learnt)}
        self._require_match(arrays)
        warn_of_positions(arrays["position_ids"], self.model.llm.max_positions)
        metadata = {**source.metadata, **formatted.metadata, **media.sizes()}
        if source.literal:
            messages, metadata = without_marks(messages), without_marks(metadata)
        return PreparedExample(arrays, messages, metadata)

    # -------------------------------------------------------------------------------- messages

    def _marked(self, source: SourceExample) -> SourceExample:
        """The example with special tokens in its texts marked, see `Tokenizer.literal`."""
        return dataclasses.replace(
            source,
            annotations=tuple(map(self.tokenizer.literal, source.annotations)),
            subtitle=self.tokenizer.literal(source.subtitle),
        )

    def _formatted(
        self, source: SourceExample, media: Media, mode: Mode, rng: np.random.RandomState
    ) -> Formatted:
        """Messages; only those of a single annotation come with metadata."""
        if not source.annotations:
            raise ExampleChainError("an example has no annotations; give at least one")
        shown: dict[str, Any] = {}
        if media.video is not None:
            shown["video"] = media.video
        elif media.images:
            shown["image"] = media.images[0] if len(media.images) == 1 else list(media.images)
        first = source.annotations[0]
        in_turns = "multi_turn_messages" in first
        # Ready-made messages at the top of an example have no style, as the formatter sees them.
        if len(source.annotations) > 1 or "messages" in first or in_turns:
            example = {"message_list": list(source.annotations), **shown}
        else:
            example = {**first, **shown}
        formatter = Formatter(self.settings.formatter)
        if mode != "inference" or not in_turns:
            return formatter.format(example, mode=mode, rng=rng)
        # Turns are only worded together with all their answers; the last is to be the model's.
        worded = formatter.format(example, mode="eval", rng=rng)
        conversations = cast(list[list[str]], worded.messages)
        return Formatted([messages[:-1] for messages in conversations])

    def _text(
        self,
        messages: Sequence[Any],
        blocks: Sequence[VisionBlock],
        mode: Mode,
        weight: Weight | Sequence[Weight],
        learnt: Sequence[Learnt] | None,
    ) -> ExampleArrays:
        make = MessageArrays(self.tokenizer, self.settings.text)
        tree = messages if not isinstance(messages[0], str) else [messages]
        if mode != "inference" or len(tree[0]) % 2 == 0:
            return make.tree(tree, blocks, weight, learnt)
        if len(tree) > 1:
            raise ExampleChainError(f"a prompt of {len(tree)} conversations; ask one at a time")
        return make.prompt(tree[0], blocks)

    # ---------------------------------------------------------------------------------- vision

    def _vision(
        self, source: SourceExample, media: Media, rng: np.random.RandomState | None
    ) -> tuple[VisionInput | None, list[VisionBlock]]:
        """Patches and vision tokens together, and the tokens of each image apart."""
        if media.video is not None:
            frames, times = media.video.frames, media.video.timestamps
            assert not isinstance(source.subtitle, Path)  # its lines have been read
            vision = self._videos.vision_input(frames, times, source.subtitle)
            return vision, [VisionBlock(vision.tokens)]
        if not media.images:
            return None, []
        settings = self.settings.images
        if len(media.images) == 1:
            pieces = [tokenize_image(media.images[0], settings, self.tokenizer, rng)]
            kind = MultimodalType.IMAGE
        elif self.settings.several_images:
            too_many = self.settings.too_many_images
            pieces = tokenize_images(media.images, settings, self.tokenizer, too_many)
            kind = MultimodalType.MULTI_IMAGE
        else:
            raise ExampleChainError(
                f"an example has {len(media.images)} images; set ExampleSettings.several_images, "
                "or leave such examples out"
            )
        return join_images(pieces, kind), [VisionBlock(piece.tokens) for piece in pieces]

    @cached_property
    def _videos(self) -> VideoPreprocessor:
        return VideoPreprocessor(
            self.settings.video, self.model.vit, self.model.prune.pooling, self.tokenizer
        )

    @property
    def _pooling_slots(self) -> int:
        return max(self.model.prune.pooling, self.model.connector.image_pooling) ** 2

    def _visual(self, vision: VisionInput | None) -> ExampleArrays:
        vit = self.model.vit
        patches = np.zeros((0, vit.patches, vit.patch_dim), np.uint8)
        pooling, kind = np.zeros((0, self._pooling_slots), np.int32), MultimodalType.TEXT
        if vision is not None:
            patches, pooling, kind = vision.patches, vision.token_pooling, vision.kind
        empty = self._pooling_slots - pooling.shape[1]
        return {
            "images": patches,
            "num_images": np.array([len(patches)], np.int32),
            "multimodal_type": np.array([kind], np.int32),
            "token_pooling": np.pad(pooling, ((0, 0), (0, empty)), constant_values=-1),
        }

    def _require_match(self, arrays: ExampleArrays) -> None:
        """Refuse text that would shift the features of all images after it in a row."""
        placed = np.count_nonzero(arrays["input_ids"] == self.tokenizer.special_ids["<im_patch>"])
        pooled = len(arrays["token_pooling"])
        if placed != pooled:
            raise ExampleChainError(
                f"the text has {placed} '<im_patch>' for {pooled} visual tokens; write no "
                "'<im_patch>', and as many '<|image|>' as there are images, or none"
            )


def _without_last_answer(annotation: Mapping[str, Any]) -> Mapping[str, Any]:
    messages = annotation.get("messages", ())
    if len(messages) % 2:
        return annotation
    return {**annotation, "messages": list(messages[:-1])} if len(messages) else annotation


def _learnt(annotation: Any) -> Learnt:
    """Which answers of an annotation are learnt: those of turns that have no weight of 0."""
    turns = annotation.get("multi_turn_messages", ()) if isinstance(annotation, Mapping) else ()
    if all(turn.get("weight", 1) for turn in turns):
        return None
    return [bool(turn.get("weight", 1)) for turn in turns]
