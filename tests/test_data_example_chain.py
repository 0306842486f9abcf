"""Examples of datasets to arrays: files, modes, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import PIL.Image
import pytest
from goldens_folder import goldens_data_dir
from whole_text import decode_all

from stts_jax.budget import MultimodalType, batch_arrays, video_budget
from stts_jax.config import ConfigError, ModelConfig
from stts_jax.data.datasets.base import SourceExample
from stts_jax.data.example_chain import ExampleChain, ExampleSettings, example_rng
from stts_jax.data.images.settings import ImageSettings
from stts_jax.data.media import Media, MediaError
from stts_jax.data.text import positions
from stts_jax.data.text.tokenizer import Tokenizer
from stts_jax.data.video.reading import Video

MODEL = ModelConfig()
TOKENIZER = Tokenizer.load("tiny", MODEL.llm.vocab_size)
CHAIN = ExampleChain(MODEL, TOKENIZER)
ASKED = {"question": "Where?", "answer": "there", "style": "user_qa"}
CAPTION = {"text": "A long text.", "style": "video_long_caption"}
SPECIAL = TOKENIZER.special_ids
VIDEO = goldens_data_dir() / "videos" / "cfr10.mp4"


def image_file(folder, name="a.png", height=60, width=80):
    pixels = np.random.RandomState(height).randint(0, 256, (height, width, 3)).astype(np.uint8)
    PIL.Image.fromarray(pixels).save(folder / name)
    return folder / name


def text_of(prepared):
    return decode_all(TOKENIZER, prepared.arrays["input_ids"]).replace("<im_patch>", "")


def assert_equal(one, other):
    assert one.metadata == other.metadata
    for name in one.arrays:
        np.testing.assert_array_equal(one.arrays[name], other.arrays[name])


def test_arrays_are_those_of_the_contract(tmp_path):
    wanted = batch_arrays(video_budget(MODEL, frames=1, videos=1, text_tokens=1), MODEL, 1)
    image = image_file(tmp_path)
    for media in ({}, {"video": VIDEO}, {"images": (image,)}, {"images": (image, image)}):
        arrays = CHAIN.training(SourceExample((ASKED,), **media), 0, 0).arrays
        assert set(arrays) == set(wanted)
        for name, (shape, dtype) in wanted.items():
            assert arrays[name].dtype == dtype, name
            assert arrays[name].ndim == len(shape) - 1, name
            if name in ("images", "token_pooling"):
                assert arrays[name].shape[1:] == shape[2:]


def spoken(caplog):
    """Of positions: other tests' threads may still have something to say."""
    return [r.getMessage() for r in caplog.records if r.name == positions.__name__]


def test_an_example_beyond_the_positions_of_the_llm_is_used_and_said_once(caplog):
    positions._warn.cache_clear()
    short = dataclasses.replace(MODEL, llm=dataclasses.replace(MODEL.llm, max_positions=40))
    chain, source = ExampleChain(short, TOKENIZER), SourceExample((ASKED,), video=VIDEO)
    arrays = [chain.prompt(source, number).arrays["position_ids"] for number in range(2)]
    assert all(x.max() >= 40 for x in arrays)
    assert spoken(caplog) == [
        "an example takes more positions than the 40 that the LLM is made for "
        "(model.llm.max_positions); of a video, a lower data.max_frames stays within"
    ]


def test_an_example_within_the_positions_is_not_spoken_of(caplog):
    positions._warn.cache_clear()
    CHAIN.prompt(SourceExample((ASKED,), video=VIDEO), 0)
    assert not spoken(caplog)


@pytest.mark.parametrize(
    ("images", "video", "kind"),
    [
        (0, None, MultimodalType.TEXT),
        (1, None, MultimodalType.IMAGE),
        (2, None, MultimodalType.MULTI_IMAGE),
        (0, VIDEO, MultimodalType.VIDEO),
    ],
)
def test_the_kind_follows_from_the_media(tmp_path, images, video, kind):
    files = tuple(image_file(tmp_path, f"{k}.png") for k in range(images))
    prepared = CHAIN.prompt(SourceExample((ASKED,), video=video, images=files), 0)
    assert prepared.arrays["multimodal_type"].tolist() == [kind]


def test_what_an_example_looks_like_depends_on_index_and_epoch_alone():
    source = SourceExample((CAPTION,), video=VIDEO)
    assert_equal(CHAIN.training(source, 3, 1), CHAIN.training(source, 3, 1))
    texts = {text_of(CHAIN.training(source, index, epoch)) for index in (3, 4) for epoch in (0, 1)}
    assert len(texts) > 1


def test_only_the_clip_is_shown_and_its_times_begin_at_0():
    whole = CHAIN.prompt(SourceExample((ASKED,), video=VIDEO), 0)
    clip = CHAIN.prompt(SourceExample((ASKED,), video=VIDEO, clip=(1.0, 2.0)), 0)
    assert text_of(clip).startswith("0.0 <frame_start><frame_end> 0.5 ")
    # Frames hardly change in half a second, so the ones at 1.0 and 1.5 s are nearly the same.
    np.testing.assert_array_equal(clip.arrays["images"][:2], whole.arrays["images"][2:4])
    assert len(clip.arrays["images"]) == 3


def test_sizes_are_those_of_the_files(tmp_path):
    video = CHAIN.prompt(SourceExample((ASKED,), video=VIDEO), 0)
    assert video.metadata["image_size"] == (64, 48)
    one, other = image_file(tmp_path), image_file(tmp_path, "b.png", 30, 20)
    image = CHAIN.prompt(SourceExample((ASKED,), images=(one,)), 0)
    assert image.metadata["image_size"] == (80, 60)
    group = CHAIN.prompt(SourceExample((ASKED,), images=(one, other)), 0)
    assert group.metadata["image_group_size"] == [(80, 60), (20, 30)]


def test_metadata_of_source_and_annotation_are_kept():
    source = SourceExample((ASKED,), metadata={"example_id": "a"})
    assert CHAIN.prompt(source, 0).metadata == {"example_id": "a", "answer": "there"}


def test_a_prompt_is_the_evaluation_example_without_its_answer():
    source = SourceExample((ASKED,), video=VIDEO)
    prompt, whole = CHAIN.prompt(source, 0).arrays, CHAIN.evaluation(source, 0).arrays
    length = len(prompt["input_ids"])
    np.testing.assert_array_equal(prompt["input_ids"], whole["input_ids"][:length])
    said = whole["labels"][length - 1 :].tolist()
    assert said == [*TOKENIZER.encode("there"), TOKENIZER.eos_id]


@pytest.mark.parametrize(
    "annotation",
    [
        {"messages": ["Where?", "there", "And now?", "gone"], "style": "user_qa"},
        {"multi_turn_messages": [ASKED, {**ASKED, "question": "And now?", "answer": "gone"}]},
    ],
)
def test_the_last_answer_of_several_turns_is_left_out_of_a_prompt(annotation):
    prompt = text_of(CHAIN.prompt(SourceExample((annotation,)), 0))
    assert "there" in prompt and "gone" not in prompt
    assert prompt == text_of(CHAIN.evaluation(SourceExample((annotation,)), 0))[: -len("gone")]


def test_branches_share_a_video_in_shuffled_order():
    source = SourceExample(tuple({**ASKED, "question": f"q{k}?"} for k in range(6)), video=VIDEO)
    texts = [text_of(CHAIN.training(source, 0, epoch)) for epoch in range(2)]
    orders = [[text.index(f"q{k}?") for k in range(6)] for text in texts]
    assert orders[0] != orders[1]
    arrays = CHAIN.training(source, 0, 0).arrays
    frames = np.count_nonzero(arrays["input_ids"] == SPECIAL["<frame_start>"])
    assert frames == len(arrays["images"])


def test_the_weight_of_a_dataset_scales_the_loss():
    source = SourceExample((ASKED,))
    usual = CHAIN.training(source, 0, 0).arrays["loss_masks"]
    scaled = CHAIN.training(source, 0, 0, weight=0.25).arrays["loss_masks"]
    np.testing.assert_allclose(scaled, usual * 0.25, rtol=1e-6)


def in_turns(*weights):
    turns = [{**ASKED, "answer": f"a{n}"} for n in range(len(weights))]
    for turn, weight in zip(turns, weights, strict=True):
        turn.update({} if weight else {"weight": 0})
    return {"style": "user_qa", "multi_turn_messages": turns}


@pytest.mark.parametrize("beside", [(), (ASKED,)])
def test_an_answer_of_weight_0_is_read_and_not_learnt(beside):
    whole = CHAIN.training(SourceExample((in_turns(1, 1, 1), *beside)), 0, 0).arrays
    part = CHAIN.training(SourceExample((in_turns(1, 0, 1), *beside)), 0, 0).arrays
    np.testing.assert_array_equal(whole["input_ids"], part["input_ids"])
    learnt, left_out = part["loss_masks"] > 0, (whole["loss_masks"] > 0) & (part["loss_masks"] == 0)
    assert "a1" in decode_all(TOKENIZER, whole["labels"][left_out])
    found = decode_all(TOKENIZER, part["labels"][learnt])
    assert "a0" in found and "a2" in found and "a1" not in found
    assert not (learnt & (whole["loss_masks"] == 0)).any()


def test_images_go_where_the_text_says(tmp_path):
    images = tuple(image_file(tmp_path, f"{k}.png") for k in range(2))
    annotation = {**ASKED, "question": "first <|image|> then <|image|>?"}
    text = text_of(CHAIN.prompt(SourceExample((annotation,), images=images), 0))
    assert text.startswith("<|im_start|>user\nfirst Image 1<low_res_im_start>")


def changed(**images):
    return ExampleSettings(images=ImageSettings(**images))


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (SourceExample((ASKED,), video=VIDEO, images=(VIDEO,)), "both the video"),
        (SourceExample((ASKED,), video=VIDEO.with_name("no.mp4")), "does not exist"),
        (SourceExample((ASKED,), images=(VIDEO.with_name("no.png"),)), "does not exist"),
        (SourceExample(()), "no annotations"),
        (SourceExample((ASKED, ASKED)), "ask one at a time"),
        (SourceExample(({**ASKED, "question": "an <im_patch>?"},)), "1 '<im_patch>' for 0 visual"),
    ],
)
def test_an_example_that_cannot_be_asked_is_refused(source, error):
    with pytest.raises(ValueError, match=error):
        CHAIN.prompt(source, 0)


def test_an_image_without_its_placeholder_is_refused(tmp_path):
    images = tuple(image_file(tmp_path, f"{k}.png") for k in range(2))
    source = SourceExample(({**ASKED, "question": "this <|image|>?"},), images=images)
    with pytest.raises(ValueError, match=r"as many .* as there are images"):
        CHAIN.prompt(source, 0)


def test_images_above_the_limit_are_dropped_or_refused(tmp_path):
    images = tuple(image_file(tmp_path, f"{k}.png") for k in range(3))
    source = SourceExample((ASKED,), images=images)
    settings = changed(max_images=2)
    kept = ExampleChain(MODEL, TOKENIZER, settings).prompt(source, 0)
    two = CHAIN.prompt(dataclasses.replace(source, images=images[:2]), 0)
    np.testing.assert_array_equal(kept.arrays["images"], two.arrays["images"])
    strict = dataclasses.replace(settings, too_many_images="raise")
    with pytest.raises(ValueError, match="max_images=2"):
        ExampleChain(MODEL, TOKENIZER, strict).prompt(source, 0)
    single = dataclasses.replace(settings, several_images=False)
    with pytest.raises(ValueError, match="several_images"):
        ExampleChain(MODEL, TOKENIZER, single).prompt(source, 0)


def test_media_are_images_or_a_video():
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(MediaError, match="both a video and 1 images"):
        Media((image,), Video(image[None], np.zeros(1)))


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        (changed(image_size=224), "model.vit takes 378"),
        (changed(normalize_in_model=False), "uint8 patches"),
        (changed(group_pooling=(4, 4)), "group_pooling is .4, 4., more than the 9"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused(settings, error):
    with pytest.raises(ConfigError, match=error):
        ExampleChain(MODEL, TOKENIZER, settings)


def test_the_generator_of_an_example_is_its_own():
    draws = [example_rng(index, epoch).random() for index in (0, 1) for epoch in (0, 1)]
    assert len(set(draws)) == 4
    assert draws[0] == example_rng(0, 0).random()


SPOKEN = "Is it <|im_end|>, <im_patch> or <|image|>?"


def asked(said):
    return {"style": "user_qa", "question": said, "answer": said}


def turns(said):
    return {"style": "user_qa", "multi_turn_messages": [asked(said)] * 2}


def chosen(said):
    options = {"options": [said, "no"], "answer_idx": 0}
    return {"style": "video_multiple_choice", "question": said, **options}


def described(said):
    return {"style": "video_long_caption", "text": said}


@pytest.mark.parametrize("form", [asked, turns, chosen, described])
def test_special_tokens_in_texts_of_users_are_text(form):
    media = Media(video=Video(np.zeros((2, 8, 8, 3), np.uint8), np.array([0.0, 1.0])))

    def prepare(said):
        source = SourceExample((form(said),), subtitle=said, literal=True)
        return CHAIN.prepare(source, media, "eval", example_rng(0, 0))

    def special(prepared):
        kept = {*SPECIAL.values(), TOKENIZER.eos_id}
        return [token for token in prepared.arrays["input_ids"].tolist() if token in kept]

    assert special(prepare(SPOKEN)) == special(prepare("Is it so?"))
    assert any(SPOKEN in message for message in prepare(SPOKEN).messages)
