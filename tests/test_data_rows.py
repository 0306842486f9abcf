"""Patches, token layout of an example, and rows filled to a budget."""

import numpy as np
import pytest

from stts_jax import config as config_lib
from stts_jax.budget import Budget, batch_arrays, row_budget, tokens_to_prune, video_budget
from stts_jax.data.examples import Question
from stts_jax.data.image import pooling_index, resize, to_patches
from stts_jax.data.preprocess import SHARED, Frames, Preprocessor
from stts_jax.data.rows import BudgetError, example_sizes, pack_row, stack_rows
from stts_jax.data.tokenizer import Tokenizer

# 64 patches and 16 tokens a frame.
MODEL = config_lib.load_config("tiny", ["model.vit.image_size=64", "model.vit.positions=64"]).model
TOKENIZER = Tokenizer.load("tiny", 512)
PREPROCESSOR = Preprocessor(MODEL, TOKENIZER)
EOS = TOKENIZER.eos_id
PATCH, START, END = (
    TOKENIZER.special_ids[x] for x in ("<im_patch>", "<frame_start>", "<frame_end>")
)
QUESTIONS = [Question("What colour?", "red"), Question("Where?", "top left"), Question("Who?", "a")]


class InOrder:
    def permutation(self, count):
        return np.arange(count)


def frames(count, seed=0):
    patches = np.random.default_rng(seed).integers(1, 256, (count, 64, 192), dtype=np.uint8)
    return Frames(patches, np.arange(count) * 0.5)


def test_patches_are_row_by_row_with_channels_last():
    image = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    patches = to_patches(image, 2)
    assert patches.shape == (2, 6, 12)
    np.testing.assert_array_equal(patches[1, 4], image[1, 2:4, 2:4].ravel())


def test_resize_leaves_the_right_size_alone_and_does_not_antialias():
    image = np.zeros((8, 8, 3), np.uint8)
    assert resize(image, 8) is image
    image[:, ::2] = 100
    assert np.unique(resize(image, 4)).tolist() == [50]
    wide = np.array([[[0], [3]]], np.uint8).repeat(3, -1)
    assert resize(wide, 4)[0, :, 0].tolist() == [0, 1, 2, 3]  # 0.75 and 2.25 are rounded


def test_pooling_index_pads_the_end_first():
    assert pooling_index(27, 3).shape == (81, 9)
    index = pooling_index(27, 2)
    assert index.shape == (196, 4) and index.dtype == np.int32
    assert index[0].tolist() == [0, 1, 27, 28] and index[-1].tolist() == [728, -1, -1, -1]
    assert pooling_index(4, 3)[0].tolist() == [-1, -1, -1, -1, 0, 1, -1, 4, 5]


def test_a_prompt_is_bos_video_question():
    arrays = PREPROCESSOR.prompt(frames(2), QUESTIONS[0])
    prompt = TOKENIZER.encode("<|im_start|>user\nWhat colour?<|im_end|>\n<|im_start|>assistant\n")
    first, second = TOKENIZER.encode("0.0 "), TOKENIZER.encode(" 0.5 ")
    expected = [EOS, START, *first, *[PATCH] * 16, *second, *[PATCH] * 16, END, *prompt]
    assert arrays["input_ids"].tolist() == expected
    assert (arrays["labels"] == -1).all() and not arrays["loss_masks"].any()
    assert arrays["token_pooling"].shape == (32, 4)
    assert arrays["token_pooling"][16].tolist() == [64, 65, 72, 73]
    framed = Preprocessor(MODEL, TOKENIZER, "frame").vision_ids(np.array([0.0, 0.5]))
    block = [START, *[PATCH] * 16, END]
    assert framed == [*first, *block, *second, *block]


def test_one_answer_ends_with_eos_and_bears_the_loss():
    arrays = PREPROCESSOR.training(frames(2), QUESTIONS[1:2], np.random.default_rng(0))
    answer = [*TOKENIZER.encode("top left"), EOS]
    scored = arrays["loss_masks"] > 0
    assert arrays["labels"][scored].tolist() == answer
    np.testing.assert_allclose(arrays["loss_masks"][scored], 2 / np.sqrt(len(answer)), rtol=1e-6)
    np.testing.assert_array_equal(arrays["input_ids"][1:], arrays["labels"][:-1])
    assert (arrays["subsegment_ids"] == 0).all()


def test_questions_are_branches_that_restart_after_the_video():
    arrays = PREPROCESSOR.training(frames(2), QUESTIONS, InOrder())
    ids, segments = arrays["input_ids"], arrays["subsegment_ids"]
    trunk = int((segments == SHARED).sum())
    assert ids[trunk - 1] == END and (segments[:trunk] == SHARED).all()
    for k, question in enumerate(QUESTIONS):
        branch = segments == k
        answer = TOKENIZER.encode(question.answer)
        tokens = [*PREPROCESSOR.prompt_ids(question), *answer]
        assert ids[branch].tolist() == tokens
        assert arrays["position_ids"][branch].tolist() == list(range(trunk, trunk + len(tokens)))
        scored = branch & (arrays["loss_masks"] > 0)
        assert arrays["labels"][scored].tolist() == [*answer, EOS]
        weight = 2 / np.sqrt(len(answer)) / np.sqrt(3)
        np.testing.assert_allclose(arrays["loss_masks"][scored], weight, rtol=1e-6)


def example(count, questions=1, seed=0):
    rng = np.random.default_rng(seed)
    return PREPROCESSOR.training(frames(count, seed), QUESTIONS[:questions], rng)


def test_two_videos_share_a_row():
    first, second = example(3, 2), example(5, 3, seed=1)
    budget = video_budget(MODEL, frames=5, videos=2, text_tokens=200)
    row = pack_row([first, second], budget, MODEL)
    for name, (shape, dtype) in batch_arrays(budget, MODEL, 1).items():
        assert row[name].shape == shape[1:] and row[name].dtype == dtype, name
    assert row["num_images"].tolist() == [3, 5] and row["multimodal_type"].tolist() == [2, 2]
    np.testing.assert_array_equal(row["images"][3:8], second["images"])
    assert not row["images"][8:].any()
    pooling = second["token_pooling"] + 3 * 64
    np.testing.assert_array_equal(row["token_pooling"][48:128], pooling)
    assert (row["token_pooling"][128:] == -1).all()
    a, b = len(first["input_ids"]), len(second["input_ids"])
    np.testing.assert_array_equal(
        row["subsegment_ids"][a : a + b], second["subsegment_ids"] + 100000
    )
    np.testing.assert_array_equal(row["position_ids"][a : a + b], second["position_ids"])
    assert (row["input_ids"][a + b :] == -1).all() and not row["loss_masks"][a + b :].any()
    assert (row["input_ids"] == PATCH).sum() == 8 * 16
    batch = stack_rows([row, pack_row([], budget, MODEL)])
    assert batch["images"].shape[0] == 2 and (batch["num_images"][1] == -1).all()


@pytest.mark.parametrize("topk", [0.0, 0.3, 0.7])
def test_what_an_example_takes_is_counted_after_the_prune(topk):
    model = config_lib.replace(MODEL, {"prune.topk": topk})
    sizes = example_sizes(example(5), model)
    count = np.array([5], np.int32)
    gone = int(tokens_to_prune(count, np.array([2], np.int32), model.prune, 16)[0])
    assert sizes["visual"] == 80 - gone == sizes["patches"] // 4
    assert sizes["tokens"] == sizes["tokens_before"] - gone


def test_an_example_that_cannot_fit_says_by_how_much():
    budget = video_budget(MODEL, frames=4, videos=1, text_tokens=200)
    with pytest.raises(
        BudgetError, match=r"5 frames, 1 more than a row holds; raise data.row_frames"
    ):
        pack_row([example(5)], budget, MODEL)
    small = Budget(**{**vars(budget), "tokens": 40})
    with pytest.raises(BudgetError, match=r"more than a row holds; raise data.row_text_tokens"):
        pack_row([example(4)], small, MODEL)


def test_any_split_of_the_frames_fits_the_training_budget():
    data = config_lib.replace(
        config_lib.load_config("tiny").data, {"row_frames": 16, "row_examples": 3}
    )
    for topk in (0.1, 0.5, 0.77):
        model = config_lib.replace(MODEL, {"prune.topk": topk})
        for split in ([8, 8], [8, 7, 1], [6, 5, 5], [1, 1, 8], [4]):
            pack_row([example(n, seed=n) for n in split], row_budget(model, data), model)
