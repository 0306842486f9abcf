"""Turns conversations about images or a video into the arrays of a training example.

A conversation is a list of messages in turn, the user's first. Its text begins with BOS; every
answer ends with EOS, which has loss like the rest of it. The tokens of the images or video go where
`<|image|>` stands in the text, or else right after BOS.

Several conversations about the same images share them: they are branches of a tree whose trunk is
BOS and the images. Every branch starts at the position after the trunk, and sees the trunk and
itself only. Source: olmo/preprocessing/text_preprocessor.py
(docs/reference.md#messages-and-arrays).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from stts_jax.data.text.message_weight import MessageWeight
from stts_jax.data.text.tokenizer import Tokenizer
from stts_jax.data.text.weighted_tokens import (
    NO_TOKENS,
    TokenLine,
    VisionBlock,
    WeightedTokens,
    interleave,
    join,
    positions_within_segments,
)

SHARED = 10000  # subsegment id of what every branch sees
PLACEHOLDER = "<|image|>"
# An answer that holds one of these would be taken for an image. The marks of frames are not among
# them in the reference, so answers that hold those pass.
NEVER_PREDICTED = ("<im_end>", "<im_start>", "<im_col>", "<im_patch>", "<im_low>")
Conversation = Sequence[str]
# Whether each answer of a conversation is learnt; None where all are.
Learnt = Sequence[bool] | None
Weight = MessageWeight | float | None
TextArrays = dict[str, np.ndarray]


class MessageError(ValueError):
    """Messages that cannot be used; the message is one sentence with the remedy."""


@dataclass(frozen=True)
class TextSettings:
    """Settings of lengths and weights.

    Attributes:
      weight: loss weight of answers, unless an example has its own.
      max_answer_tokens: answers are cut to so many tokens, EOS included.
      last_answer_only: only the last answer of a conversation has loss.
      max_text_tokens: no further branch is added to a tree that has so many tokens of text.
      max_sequence_length: a further branch is added to a tree only if its first answer begins
        within so many tokens. Nothing is cut here, neither a branch nor a plain conversation.
    """

    weight: MessageWeight = field(default_factory=MessageWeight)
    max_answer_tokens: int | None = None
    last_answer_only: bool = False
    max_text_tokens: int | None = None
    max_sequence_length: int | None = None


@dataclass(frozen=True)
class MessageArrays:
    """Makes arrays of messages.

    All methods return `input_ids`, `labels`, `position_ids` and `subsegment_ids`, (L,) int32, and
    `loss_masks`, (L,) float32 weights. `labels` are the next tokens; to train, the last token is
    only a label. Subsegment ids of a plain conversation are 0.

    Attributes:
      tokenizer: for all text.
      settings: lengths and weights.
    """

    tokenizer: Tokenizer
    settings: TextSettings = field(default_factory=TextSettings)

    def conversation(
        self,
        messages: Conversation,
        blocks: Sequence[VisionBlock] = (),
        weight: Weight = None,
        learnt: Learnt = None,
    ) -> TextArrays:
        """Arrays of one conversation with its answers, to train with.

        Where some blocks have a placeholder and others not, the others are left out, as in the
        reference.

        Args:
          messages: of user and assistant in turn.
          blocks: images in order, or the video.
          weight: overrides that of the settings.
          learnt: which answers have loss; the last one has.

        Raises:
          MessageError: if the last message is no answer or has no loss, an answer holds a visual
            token, or there are more placeholders than blocks.
        """
        if not messages or len(messages) % 2:
            raise MessageError(
                f"a conversation of {len(messages)} messages does not end with an answer; give "
                "questions and answers in turn"
            )
        weight = self.settings.weight.overridden_by(weight)
        text = self._text(messages, weight, closed=True, learnt=learnt)
        line = self._with_vision(text, blocks)
        arrays = {
            "input_ids": line.ids[:-1],
            "labels": line.ids[1:],
            "loss_masks": line.weights[1:],
            "position_ids": line.positions[:-1],
            "subsegment_ids": np.zeros(len(line.ids) - 1, np.int32),
        }
        _require_loss(arrays["loss_masks"][-1:])
        return self._without_visual_loss(arrays)

    def tree(
        self,
        conversations: Sequence[Conversation],
        blocks: Sequence[VisionBlock] = (),
        weight: Weight | Sequence[Weight] = None,
        learnt: Sequence[Learnt] | None = None,
    ) -> TextArrays:
        """Arrays of conversations about the same images, to train with.

        One conversation alone makes a plain one. Otherwise subsegment ids are `SHARED` in the
        trunk and k in branch k. The text before a branch's placeholder becomes part of the trunk.
        The label of a branch's last token is EOS, with the weight of the token before it; other
        than in a plain conversation it doesn't count in the length that `root_length` divides by.
        Without blocks branches start at position 0, which BOS has as well. All as in the reference.

        Args:
          conversations: in the order of the branches, which decides on those that are left out.
          blocks: images in order, or the video.
          weight: overrides that of the settings; a list has one for each conversation.
          learnt: for each conversation, which answers have loss; by default all of them.

        Raises:
          MessageError: as for `conversation`, and if a branch has several placeholders, or doesn't
            go on with a question after the images.
        """
        weights = self._weights(weight, len(conversations))
        learnt = [None] * len(conversations) if learnt is None else learnt
        if len(conversations) == 1:
            return self.conversation(conversations[0], blocks, weights[0], learnt[0])
        vision = sum(len(block.tokens) for block in blocks)
        branches = self._branches(conversations, weights, learnt, vision)
        hoisted = join([self._bos(), *(branch.before for branch in branches)])
        trunk = interleave([hoisted] + [NO_TOKENS] * len(blocks), blocks)
        text = join(
            [WeightedTokens(trunk.ids, trunk.weights), *(branch.after for branch in branches)]
        )
        lengths = [len(branch.after.ids) for branch in branches]
        segments = np.repeat(np.arange(len(branches), dtype=np.int32), lengths)
        positions = positions_within_segments(segments) + np.int32(trunk.end if blocks else 0)
        ends = len(trunk.ids) - 1 + np.cumsum(lengths)
        labels, loss = np.append(text.ids[1:], 0), np.append(text.weights[1:], 0.0)
        labels[ends], loss[ends] = self.tokenizer.eos_id, text.weights[ends]
        _require_loss(loss[ends])
        return self._without_visual_loss(
            {
                "input_ids": text.ids,
                "labels": labels.astype(np.int32),
                "loss_masks": loss.astype(np.float32),
                "position_ids": np.concatenate([trunk.positions, positions]),
                "subsegment_ids": np.concatenate([np.full_like(trunk.ids, SHARED), segments]),
            }
        )

    def prompt(
        self, messages: Conversation, blocks: Sequence[VisionBlock] = (), weight: Weight = None
    ) -> TextArrays:
        """Arrays of a conversation up to where the next answer begins.

        Every token is an input here; the last label is 0. Earlier answers keep their weights, each
        at the token itself and not at the one before it, as in the reference.

        Args:
          messages: of user and assistant in turn, the last one a question.
          blocks: images in order, or the video.
          weight: of earlier answers, overrides that of the settings.

        Raises:
          MessageError: if the last message is no question, or there are more placeholders than
            blocks.
        """
        if len(messages) % 2 == 0:
            raise MessageError(
                f"a prompt of {len(messages)} messages does not end with a question; leave the "
                "last answer out"
            )
        text = self._text(messages, self.settings.weight.overridden_by(weight), closed=True)
        if not len(text.ids) or text.ids[-1] == self.tokenizer.eos_id:
            raise MessageError(
                f"the prompt {messages[-1]!r} is empty or ends with EOS; end it with a question"
            )
        line = self._with_vision(text, blocks)
        return self._without_visual_loss(
            {
                "input_ids": line.ids,
                "labels": np.append(line.ids[1:], np.int32(0)),
                "loss_masks": line.weights,
                "position_ids": line.positions,
                "subsegment_ids": np.zeros_like(line.ids),
            }
        )

    def before_questions(self, blocks: Sequence[VisionBlock]) -> TextArrays:
        """Arrays of BOS and the blocks: what the prompts of all questions about them begin with.

        Args:
          blocks: images in order, or the video.
        """
        line = self._with_vision(NO_TOKENS, blocks)
        return {
            "input_ids": line.ids,
            "labels": np.append(line.ids[1:], np.int32(0)),
            "loss_masks": line.weights,
            "position_ids": line.positions,
            "subsegment_ids": np.zeros_like(line.ids),
        }

    def after_media(self, messages: Conversation) -> list[list[int]]:
        """Token ids of each message, which follow `before_questions` one after the other.

        Args:
          messages: see `prompt`; the last one is the question.

        Raises:
          MessageError: see `prompt`, and if a message says where an image goes.
        """
        tokens = self.prompt(messages)["input_ids"]
        if self.tokenizer.special_ids[PLACEHOLDER] in tokens:
            raise MessageError(
                f"a message holds '{PLACEHOLDER}', and these images come before all text; remove it"
            )
        weight = self.settings.weight
        ends = [
            len(self._text(messages[: k + 1], weight, closed=True).ids)
            for k in range(len(messages))
        ]
        starts = [0, *ends[:-1]]
        return [tokens[1 + i : 1 + j].tolist() for i, j in zip(starts, ends, strict=True)]

    # ----------------------------------------------------------------------------------- text

    def _bos(self) -> WeightedTokens:
        return WeightedTokens(np.array([self.tokenizer.bos_id], np.int32), np.zeros(1, np.float32))

    def _text(
        self,
        messages: Conversation,
        weight: MessageWeight,
        closed: bool,
        learnt: Learnt = None,
    ) -> WeightedTokens:
        """Tokens of messages without BOS; only if `closed`, the last answer ends with EOS."""
        ids: list[int] = []
        has_loss: list[bool] = []
        last = len(messages) - 1
        for k, message in enumerate(messages):
            is_answer = k % 2 == 1
            tokens = self.tokenizer.encode(message)
            if is_answer and (closed or k != last):
                tokens.append(self.tokenizer.eos_id)
            if is_answer and self.settings.max_answer_tokens:
                tokens = tokens[: self.settings.max_answer_tokens]
            counts = is_answer and (k == last or not self.settings.last_answer_only)
            counts = counts and (learnt is None or learnt[k // 2])
            ids += tokens
            has_loss += [counts] * len(tokens)
        return WeightedTokens(np.array(ids, np.int32), weight.of_answers(np.array(has_loss, bool)))

    def _weights(self, weight: Weight | Sequence[Weight], count: int) -> list[MessageWeight]:
        each = list(weight) if isinstance(weight, Sequence) else [weight] * count
        if count == 0 or len(each) != count:
            raise MessageError(
                f"{count} conversations with {len(each)} weights; give at least one conversation, "
                "and a weight for each or one for all"
            )
        return [self.settings.weight.overridden_by(own) for own in each]

    def _branches(
        self,
        conversations: Sequence[Conversation],
        weights: list[MessageWeight],
        learnt: Sequence[Learnt],
        vision: int,
    ) -> list[_Branch]:
        """The branches that stay within the lengths, beside `vision` visual tokens."""
        limit, enough = self.settings.max_sequence_length, self.settings.max_text_tokens
        branches: list[_Branch] = []
        tokens = 1  # BOS
        for messages, weight, counts in zip(conversations, weights, learnt, strict=True):
            text = self._text(messages, weight, closed=False, learnt=counts)
            branch = self._branch(text, messages)
            answer_at = vision + tokens + int(np.argmax(text.weights != 0))
            if branches and limit and answer_at >= limit:
                break
            branches.append(branch)
            tokens += len(text.ids)
            if enough and tokens >= enough:
                break
        shared = zip(branches, weights, strict=False)
        return [branch.weighted(weight, len(branches)) for branch, weight in shared]

    def _branch(self, text: WeightedTokens, messages: Conversation) -> _Branch:
        positions = np.flatnonzero(text.ids == self.tokenizer.special_ids[PLACEHOLDER])
        if len(positions) > 1:
            raise MessageError(
                f"a branch has {len(positions)} '{PLACEHOLDER}', {messages[0]!r}; give each "
                "conversation one or none"
            )
        start, stop = (positions[0], positions[0] + 1) if len(positions) else (0, 0)
        branch = _Branch(text.part(0, start), text.part(stop, None))
        if not len(branch.after.ids) or branch.after.weights[0] != 0:
            raise MessageError(
                f"a branch of a tree, {list(messages)!r}, does not go on with a question after the "
                "images; add one"
            )
        return branch

    def _with_vision(self, text: WeightedTokens, blocks: Sequence[VisionBlock]) -> TokenLine:
        """BOS, text, and the blocks at their placeholders."""
        text = join([self._bos(), text])
        positions = np.flatnonzero(text.ids == self.tokenizer.special_ids[PLACEHOLDER])
        if not blocks:  # without blocks a placeholder stays as a token
            return interleave([text], [])
        if len(positions) > len(blocks):
            raise MessageError(
                f"the text has {len(positions)} '{PLACEHOLDER}' for {len(blocks)} images; "
                "remove some"
            )
        if not len(positions):
            pieces = [text.part(0, 1), *[NO_TOKENS] * (len(blocks) - 1), text.part(1, None)]
            return interleave(pieces, blocks)
        starts, stops = [0, *(positions + 1)], [*positions, None]
        pieces = [text.part(*piece) for piece in zip(starts, stops, strict=True)]
        return interleave(pieces, blocks[: len(positions)])

    def _without_visual_loss(self, arrays: TextArrays) -> TextArrays:
        ids = self.tokenizer.special_ids
        labels = arrays["labels"][arrays["loss_masks"] != 0]
        for name in NEVER_PREDICTED:
            if ids[name] in labels:
                raise MessageError(
                    f"an answer holds '{name}', which stands for visual input; remove it"
                )
        return arrays


@dataclass(frozen=True)
class _Branch:
    """A conversation of a tree: its part in the trunk, and the rest."""

    before: WeightedTokens
    after: WeightedTokens

    def weighted(self, weight: MessageWeight, branches: int) -> _Branch:
        before, after = (
            replace(text, weights=weight.of_branch(text.weights, branches))
            for text in (self.before, self.after)
        )
        return _Branch(before, after)


def _require_loss(weights: np.ndarray) -> None:
    if not weights.all():
        raise MessageError(
            "the end of an answer has no loss; give every conversation an answer and a weight "
            "above 0"
        )
