"""Patches, token layout of an example, and rows filled to a budget."""

import jax
import numpy as np
import pytest

from stts_jax import config as config_lib
from stts_jax.budget import (
    Budget,
    MultimodalType,
    batch_arrays,
    row_budget,
    tokens_to_prune,
    video_budget,
)
from stts_jax.data.chains import chain_of
from stts_jax.data.datasets.base import SourceExample
from stts_jax.data.images.image import pooling_index, resize, to_patches
from stts_jax.data.media import Media
from stts_jax.data.packing.rows import (
    SIZES,
    BudgetError,
    example_sizes,
    pack_row,
    row_sizes,
    stack_rows,
)
from stts_jax.data.text.message_arrays import SHARED
from stts_jax.data.video.reading import Video

# 64 patches and 16 tokens a frame.
CONFIG = config_lib.load_config("tiny", ["model.vit.image_size=64", "model.vit.positions=64"])
MODEL = CONFIG.model
CHAIN = chain_of(CONFIG)
TOKENIZER = CHAIN.tokenizer
EOS = TOKENIZER.eos_id
PATCH, START, END = (
    TOKENIZER.special_ids[x] for x in ("<im_patch>", "<frame_start>", "<frame_end>")
)
QUESTIONS = {"What colour?": "red", "Where?": "top left", "Who?": "a"}


class InOrder:
    def shuffle(self, branches):
        pass


def media(count, seed=0):
    pixels = np.random.default_rng(seed).integers(1, 256, (count, 64, 64, 3), dtype=np.uint8)
    return Media(video=Video(pixels, np.arange(count) * 0.5))


def asked(*questions):
    return SourceExample(
        tuple({"style": "user_qa", "question": q, "answer": QUESTIONS[q]} for q in questions)
    )


def prompt_of(question):
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


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


@pytest.mark.parametrize("frame_tokens", ["video", "frame"])
def test_a_prompt_is_bos_video_question(frame_tokens):
    chain = chain_of(config_lib.replace(CONFIG, {"data.frame_tokens": frame_tokens}))
    source = asked("What colour?")
    arrays = chain.prepare(source, media(2), "inference", InOrder()).arrays
    prompt = TOKENIZER.encode(prompt_of("What colour?"))
    first, second = TOKENIZER.encode("0.0 "), TOKENIZER.encode(" 0.5 ")
    block = [PATCH] * 16 if frame_tokens == "video" else [START, *[PATCH] * 16, END]
    video = [*first, *block, *second, *block]
    video = [START, *video, END] if frame_tokens == "video" else video
    assert arrays["input_ids"].tolist() == [EOS, *video, *prompt]
    assert not arrays["loss_masks"].any()
    assert arrays["token_pooling"].shape == (32, 4)
    assert arrays["token_pooling"][16].tolist() == [64, 65, 72, 73]


def test_one_answer_ends_with_eos_and_bears_the_loss():
    arrays = CHAIN.prepare(asked("Where?"), media(2), "train", InOrder()).arrays
    answer = [*TOKENIZER.encode("top left"), EOS]
    scored = arrays["loss_masks"] > 0
    assert arrays["labels"][scored].tolist() == answer
    np.testing.assert_allclose(arrays["loss_masks"][scored], 2 / np.sqrt(len(answer)), rtol=1e-6)
    np.testing.assert_array_equal(arrays["input_ids"][1:], arrays["labels"][:-1])
    assert (arrays["subsegment_ids"] == 0).all()


def test_questions_are_branches_that_restart_after_the_video():
    arrays = CHAIN.prepare(asked(*QUESTIONS), media(2), "train", InOrder()).arrays
    ids, segments = arrays["input_ids"], arrays["subsegment_ids"]
    trunk = int((segments == SHARED).sum())
    assert ids[trunk - 1] == END and (segments[:trunk] == SHARED).all()
    for k, (question, said) in enumerate(QUESTIONS.items()):
        branch = segments == k
        answer = TOKENIZER.encode(said)
        tokens = [*TOKENIZER.encode(prompt_of(question)), *answer]
        assert ids[branch].tolist() == tokens
        assert arrays["position_ids"][branch].tolist() == list(range(trunk, trunk + len(tokens)))
        scored = branch & (arrays["loss_masks"] > 0)
        assert arrays["labels"][scored].tolist() == [*answer, EOS]
        weight = 2 / np.sqrt(len(answer)) / np.sqrt(3)
        np.testing.assert_allclose(arrays["loss_masks"][scored], weight, rtol=1e-6)


def example(count, questions=1, seed=0):
    source = asked(*list(QUESTIONS)[:questions])
    return CHAIN.prepare(source, media(count, seed), "train", np.random.RandomState(seed)).arrays


def test_two_videos_share_a_row():
    first, second = example(3, 2), example(5, 3, seed=1)
    budget = video_budget(MODEL, frames=5, videos=2, text_tokens=200)
    row = pack_row([first, second], budget, MODEL)
    contract = {k: (s[1:], d) for k, (s, d) in batch_arrays(budget, MODEL, 1).items()}
    assert {k: (v.shape, v.dtype) for k, v in row.to_arrays().items()} == contract
    assert row.num_images.tolist() == [3, 5] and row.multimodal_type.tolist() == [2, 2]
    np.testing.assert_array_equal(row.images[3:8], second["images"])
    assert not row.images[8:].any()
    pooling = second["token_pooling"] + 3 * 64
    np.testing.assert_array_equal(row.token_pooling[48:128], pooling)
    assert (row.token_pooling[128:] == -1).all()
    a, b = len(first["input_ids"]), len(second["input_ids"])
    np.testing.assert_array_equal(
        row.text.subsegment_ids[a : a + b], second["subsegment_ids"] + 100000
    )
    np.testing.assert_array_equal(row.text.position_ids[a : a + b], second["position_ids"])
    assert (row.text.input_ids[a + b :] == -1).all() and not row.text.loss_masks[a + b :].any()
    assert (row.text.input_ids == PATCH).sum() == 8 * 16
    batch = stack_rows([row, pack_row([], budget, MODEL)])
    assert batch.images.shape[0] == 2 and (batch.num_images[1] == -1).all()


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


# ---------------------------------------------------------------------------- images and texts

# 81 patches a frame: a video pools 9 of them into a token, an image 4.
MIXED = config_lib.replace(
    CONFIG,
    {
        "model.vit.image_size": 72,
        "model.vit.positions": 81,
        "model.prune.pooling": 3,
        "model.prune.method": "random",
        "model.prune.topk": 0.5,
    },
)
MIXED_CHAIN = chain_of(MIXED)
KINDS = {
    "text": Media(),
    "image": Media(images=(np.full((100, 150, 3), 200, np.uint8),)),
    "video": Media(video=Video(np.full((4, 72, 72, 3), 100, np.uint8), np.arange(4) * 0.5)),
    "two images": Media(images=(np.full((80, 80, 3), 50, np.uint8),) * 2),
}
ROOMY = Budget(
    frames=40, examples=6, patches=3240, visual=900, visual_before=900, tokens=1800,
    tokens_before=1800,
)  # fmt: skip


def mixed(kind):
    source = asked("What colour?", "Who?")
    return MIXED_CHAIN.prepare(source, KINDS[kind], "train", np.random.RandomState(0)).arrays


def test_texts_images_and_videos_share_a_row():
    examples = [mixed(kind) for kind in KINDS]
    row = pack_row(examples, ROOMY, MIXED.model)
    frames = [len(e["images"]) for e in examples]
    assert frames[0] == 0 and frames[2] == 4 and frames[1] > 1 and frames[3] > 2
    assert row.num_images.tolist() == [*frames, -1, -1]
    kinds = MultimodalType
    expected = [kinds.TEXT, kinds.IMAGE, kinds.VIDEO, kinds.MULTI_IMAGE, -1, -1]
    assert row.multimodal_type.tolist() == expected
    visual = [len(e["token_pooling"]) for e in examples]
    video = row.token_pooling[visual[1] : visual[1] + visual[2]]
    assert (video >= frames[1] * 81).all() and (video < (frames[1] + 4) * 81).all()
    assert (row.token_pooling[: visual[1], 4:] == -1).all()
    assert (row.token_pooling[sum(visual) :] == -1).all()
    assert (row.text.input_ids == PATCH).sum() == sum(visual)
    of_example = row.text.subsegment_ids[row.text.input_ids >= 0] // 100000
    assert np.bincount(of_example).tolist() == [len(e["input_ids"]) for e in examples]


@pytest.mark.parametrize("kind", KINDS)
def test_only_videos_are_pruned(kind):
    sizes, arrays = example_sizes(mixed(kind), MIXED.model), mixed(kind)
    gone = sizes["tokens_before"] - sizes["tokens"]
    assert gone == sizes["visual_before"] - sizes["visual"] == (18 if kind == "video" else 0)
    assert sizes["frames"] == len(arrays["images"])
    assert sizes["patches"] == sizes["frames"] * 81 - gone * 9


def test_a_text_needs_no_visual_arrays():
    arrays = mixed("text")
    bare = {k: v for k, v in arrays.items() if k not in ("images", "token_pooling", "num_images")}
    assert example_sizes(bare, MIXED.model) == example_sizes(arrays, MIXED.model)
    found, wanted = (pack_row([example], ROOMY, MIXED.model) for example in (bare, arrays))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_wider_pooling_than_the_model_has_is_an_error():
    arrays = {**mixed("image"), "token_pooling": np.zeros((3, 16), np.int32)}
    with pytest.raises(BudgetError, match="pools 16 patches into a token, more than the 9"):
        pack_row([arrays], ROOMY, MIXED.model)


def test_what_rows_hold_can_be_counted_in_a_batch():
    examples = [mixed(kind) for kind in KINDS]
    rows = [examples, examples[:2], []]
    batch = stack_rows([pack_row(row, ROOMY, MIXED.model) for row in rows])
    found = row_sizes(batch, MIXED.model)
    assert found["examples"].tolist() == [4, 2, 0]
    for key in SIZES:
        expected = [sum(example_sizes(e, MIXED.model)[key] for e in row) for row in rows]
        assert found[key].tolist() == expected, key


def test_an_example_may_not_come_with_more_than_a_row_has_places_for():
    with pytest.raises(BudgetError, match="7 examples are more than the 6 that a row holds; raise"):
        pack_row([mixed("text")] * 7, ROOMY, MIXED.model)
