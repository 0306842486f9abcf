"""Makes `tiny_tokenizer.json`, the embedded byte-level BPE tokenizer for the procedural set.

    python -m stts_jax.data.text.tiny_tokenizer

All 256 bytes are in it, so any text survives; the rest of the 512 entries are merges learned from
the set's questions, so that its words and time stamps are a token or two. The embedded file was
made of the set as it first was, and stays: checkpoints of tiny models hold embeddings of its ids.
"""

from __future__ import annotations

import re

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from stts_jax.data.scene_questions import SceneQuestion
from stts_jax.data.scenes import SceneConfig
from stts_jax.data.synthetic import plan_video
from stts_jax.data.text.formatting.chat import wrap_messages
from stts_jax.data.text.formatting.settings import FormatterSettings
from stts_jax.data.text.prompts import OPTION_INSTRUCTION, question_text
from stts_jax.data.text.tokenizer import TINY_FILE
from stts_jax.data.video.tokens import frame_prefix

VOCAB_SIZE = 512
QWEN_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VIDEOS = 300
SAMPLED = (8, 16)  # frames whose time stamps are learned
# What every prompt says is one piece; so is a time stamp with its spaces, and a word or a mark with
# the space before it. Line ends and other spaces are tokens of their own.
PIECES = (
    rf"user\n|assistant\n|{re.escape(OPTION_INSTRUCTION)}\n"
    r"| ?\d+\.\d | ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\n|\s"
)


def make() -> tokenizers.Tokenizer:
    """Train the tokenizer; the result is the same every time."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(QWEN_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return tokenizer


def _corpus() -> list[str]:
    config = SceneConfig()
    questions = []
    for index in range(VIDEOS):
        _, asked = plan_video(index, 0, config)
        questions += asked
    texts = [text for question in questions for text in _texts(question)]
    for frames in SAMPLED:
        for k in range(frames):
            time = config.seconds * k / (frames - 1)
            texts.extend([frame_prefix(time, k, "per-frame-compact")] * (VIDEOS // 10))
    return texts


def _texts(question: SceneQuestion) -> list[str]:
    text = question_text(question.question, question.options)
    asked = wrap_messages([text], FormatterSettings())[0]
    return [asked.replace("<|im_start|>", "").replace("<|im_end|>", ""), question.answer]


if __name__ == "__main__":
    make().save(str(TINY_FILE))
