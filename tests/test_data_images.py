"""Images: reading files, resizing, tilings, and the tokens of one image or several."""

import dataclasses
import errno
import os
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from largest_sizes import largest_group_sizes, largest_sizes

from stts_jax.budget import MultimodalType
from stts_jax.config import ConfigError
from stts_jax.data.images.image import (
    ImageError,
    load_image,
    normalize,
    resize,
    resize_and_pad,
    resize_bicubic,
    to_patches,
)
from stts_jax.data.images.tiling import CropLayout, all_tilings, select_tiling
from stts_jax.data.images.tokens import (
    ImageSettings,
    join_images,
    tokenize_image,
    tokenize_images,
)
from stts_jax.data.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.load("tiny", 512)
IDS = TOKENIZER.special_ids
# Crops of 8 x 8 patches, 4 x 4 tokens; 6 x 6 patches from one crop to the next.
SMALL = ImageSettings(image_size=32, patch_size=4, margins=(1, 1), max_crops=6, max_group_crops=2)
LAYOUT = SMALL.layout


def noise(height, width, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


# ------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "LA"])
def test_any_kind_of_picture_is_read_as_rgb(tmp_path, mode):
    PIL.Image.new("RGB", (6, 4), (255, 255, 255)).convert(mode).save(tmp_path / "a.png")
    image = load_image(tmp_path / "a.png")
    assert image.shape == (4, 6, 3) and image.dtype == np.uint8 and (image == 255).all()


def test_the_orientation_that_a_camera_noted_is_undone(tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[:, :3] = 255  # left, which will be above
    PIL.Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    image = load_image(tmp_path / "a.png")
    assert image.shape == (6, 4, 3)
    assert (image[:3] == 255).all() and not image[3:].any()


def test_the_first_picture_of_a_telephone_file_is_read(tmp_path):
    first, second = PIL.Image.new("RGB", (8, 8), "white"), PIL.Image.new("RGB", (8, 8), "black")
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    assert (load_image(tmp_path / "a.jpg") > 250).all()


def cut_off(path, picture):
    picture.save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_unreadable_files_are_named_with_the_reason(tmp_path):
    picture = PIL.Image.fromarray(noise(64, 64))
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("hello\n" * 100)
    cut_off(tmp_path / "half.jpg", picture)
    cut_off(tmp_path / "half.png", picture)
    picture.save(tmp_path / "moving.gif", save_all=True, append_images=[picture.rotate(90)])
    (tmp_path / "vast.ppm").write_bytes(b"P6 30000 20000 255\n" + bytes(100))
    PIL.Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    cases = {
        "missing.png": "does not exist",
        "long" * 100: "cannot be looked at: File name too long; check its name",
        "empty.png": "is empty",
        ".": "is a folder",
        "text.png": "is not a picture file",
        "half.jpg": "is not a readable picture file",
        "half.png": "is not a readable picture file",
        "moving.gif": "holds several pictures",
        "deep.png": "more than 8 bits",
        "vast.ppm": "too large.*more than 50,000,000",
    }
    for name, reason in cases.items():
        with pytest.raises(ImageError, match=reason) as raised:
            load_image(tmp_path / name)
        assert str(tmp_path / name) in str(raised.value)


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE, errno.EIO])
def test_a_disk_or_share_that_fails_costs_one_picture(tmp_path, monkeypatch, number):
    def fail(path):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "is_dir", fail)
    with pytest.raises(ImageError, match=f"a.png' cannot be looked at: {os.strerror(number)}"):
        load_image(tmp_path / "a.png")


# ----------------------------------------------------------------------------- pixels


def test_an_image_is_squashed_to_height_and_width():
    image = np.zeros((3, 5, 3), np.uint8)
    image[0] = 90
    squashed = resize(image, (6, 2))
    assert squashed.shape == (6, 2, 3)
    # Centres of the samples are at rows -0.25 (held to 0), 0.25, 0.75, ...
    assert squashed[:, 0, 0].tolist() == [90, 68, 22, 0, 0, 0]


def pillow(image, size, method):
    """Pillow in float32, by channel."""
    bands = [PIL.Image.fromarray(band.astype(np.float32)) for band in np.moveaxis(image, -1, 0)]
    return np.stack([np.asarray(band.resize(size[::-1], method)) for band in bands], -1)


@pytest.mark.parametrize("size", [(20, 30), (7, 64), (45, 6)])
def test_bicubic_is_that_of_pillow(size):
    image = noise(31, 23)
    expected = pillow(image, size, PIL.Image.Resampling.BICUBIC).clip(0, 255)
    # Rounding apart: at most half a level, measured 0.5.
    np.testing.assert_allclose(resize_bicubic(image, size), expected, atol=0.501)


@pytest.mark.parametrize(
    ("size", "top", "left", "fitted"),
    [((14, 30), 0, 10, (14, 10)), ((65, 24), 16, 0, (32, 24)), ((62, 46), 0, 0, (62, 46))],
)
def test_fitting_is_bilinear_as_in_pillow_and_centred(size, top, left, fitted, report_error):
    image = noise(31, 23)
    pixels, mask = resize_and_pad(image, size)
    inside = np.s_[top : top + fitted[0], left : left + fitted[1]]
    expected = pillow(image, fitted, PIL.Image.Resampling.BILINEAR) / 255
    error = np.abs(pixels[inside] - expected).max()
    report_error("fitted values", error, 1e-5)
    assert error < 1e-5  # measured: 1.1e-6
    assert mask[inside].all() and mask.sum() == fitted[0] * fitted[1]
    assert not pixels[~mask].any()


def test_an_image_too_long_to_be_fitted_is_refused():
    with pytest.raises(ImageError, match="2000 x 1 pixels is too long"):
        resize_and_pad(noise(2000, 1), (378, 378))


def test_colours_are_normalised_as_each_vit_was_trained():
    pixels = np.array([[0.0, 0.5, 1.0]], np.float32)
    assert normalize(pixels, "siglip").tolist() == [[-1, 0, 1]]
    np.testing.assert_allclose(
        normalize(pixels, "openai"), [[-1.792263, 0.161393, 2.145897]], rtol=1e-5
    )
    np.testing.assert_allclose(normalize(pixels, "dino"), [[-2.117904, 0.196429, 2.64]], rtol=1e-5)


# ----------------------------------------------------------------------------- tilings


@pytest.mark.parametrize(
    ("height", "width", "tiling"),
    [
        (1, 1, (1, 1)),
        (266, 266, (1, 1)),
        (267, 266, (2, 1)),  # enlarged least that is enlarged at all
        (50, 5000, (1, 8)),  # must shrink in each: where it shrinks least
        (9000, 9000, (2, 2)),  # as little as in 2 x 3 and 2 x 4, with fewer crops
        (0, 500, (1, 2)),
    ],
)
def test_tiling_follows_the_shape(height, width, tiling):
    assert select_tiling(height, width, 266, 8) == tiling


@pytest.mark.parametrize("layout", [LAYOUT, CropLayout(32, 4, (2, 1)), CropLayout(32, 4, (0, 0))])
@pytest.mark.parametrize("tiling", all_tilings(6))
def test_stitched_crops_are_the_image_again(layout, tiling):
    canvas = noise(*layout.canvas_size(tiling))
    patches = to_patches(layout.cut(canvas, tiling), layout.patch_size)
    stitched = patches.reshape(-1, patches.shape[-1])[layout.patch_grid(tiling).ravel()]
    np.testing.assert_array_equal(stitched, to_patches(canvas[None], layout.patch_size)[0])


def test_patches_at_the_edge_between_crops_come_from_the_crop_that_sees_around_them():
    tiling = (2, 3)
    crop, patch = np.divmod(LAYOUT.patch_grid(tiling), LAYOUT.side**2)
    column = patch % LAYOUT.side
    inner = np.isin(crop % tiling[1], [0, 1])  # crops with another one on the right
    assert column[inner].max() == LAYOUT.side - 2
    assert column[~inner].max() == LAYOUT.side - 1


# ---------------------------------------------------------------------------- one image


def test_the_global_crop_comes_first_then_rows_of_the_tiles():
    image = noise(32, 56)
    actual = tokenize_image(image, SMALL, TOKENIZER)
    patch, end = IDS["<im_patch>"], IDS["<im_end>"]
    row = [*[patch] * 7, IDS["<im_col>"]]
    expected = [IDS["<low_res_im_start>"], *[patch] * 16, end, IDS["<im_start>"], *row * 4, end]
    assert actual.tokens.tolist() == expected and actual.tokens.dtype == np.int32
    np.testing.assert_array_equal(actual.patches[0], to_patches(resize(image, 32)[None], 4)[0])
    np.testing.assert_array_equal(actual.patches[1], to_patches(image[None, :, :32], 4)[0])
    assert actual.patches.shape == (3, 64, 48) and actual.patches.dtype == np.uint8


def test_every_token_pools_its_square_of_the_image():
    image = noise(32, 56)
    actual = tokenize_image(image, SMALL, TOKENIZER)
    flat = actual.patches.reshape(-1, 4 * 4 * 3)
    tiles = flat[actual.token_pooling[16:]].reshape(4, 7, 2, 2, 4, 4, 3)
    squares = tiles.transpose(0, 2, 4, 1, 3, 5, 6).reshape(32, 56, 3)
    np.testing.assert_array_equal(squares, image)
    assert actual.token_pooling.dtype == np.int32


def test_the_model_gets_one_image():
    made = join_images([tokenize_image(noise(32, 32), SMALL, TOKENIZER)], MultimodalType.IMAGE)
    assert made.kind == MultimodalType.IMAGE
    assert np.count_nonzero(made.tokens == IDS["<im_patch>"]) == len(made.token_pooling)
    assert made.patches.shape == (2, 64, 48) and made.token_pooling.shape == (32, 4)


def test_a_mask_says_how_much_of_a_patch_is_image():
    settings = dataclasses.replace(
        SMALL,
        resize="default",
        normalize_in_model=False,
        padding_mask=True,
        crop_mode="resize",
    )
    actual = tokenize_image(noise(32, 12), settings, TOKENIZER)  # 10 pixels of padding each side
    assert actual.patch_mask.reshape(8, 8)[3].tolist() == [0, 0, 0.5, 1, 1, 0.5, 0, 0]
    assert actual.patches.dtype == np.float32 and actual.patches.min() == -1


def test_high_resolution_is_drawn_in_training_only():
    settings = dataclasses.replace(SMALL, max_crops=1, high_res_max_crops=6, p_high_res=0.5)
    image = noise(80, 56)

    def crops(rng):
        return len(tokenize_image(image, settings, TOKENIZER, rng).patches) - 1

    rng, draws = np.random.RandomState(0), np.random.RandomState(0).random(8)
    assert [crops(rng) for _ in draws] == [6 if draw < 0.5 else 1 for draw in draws]
    assert crops(None) == 1


def test_without_a_share_of_high_resolution_nothing_is_drawn():
    rng = np.random.RandomState(0)
    tokenize_image(noise(32, 32), SMALL, TOKENIZER, rng)
    assert rng.random() == np.random.RandomState(0).random()


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
    ids=["grey", "alpha", "float", "empty"],
)
def test_what_is_no_image_is_refused(image):
    with pytest.raises(ImageError, match=r"give \(height, width, 3\) uint8"):
        tokenize_image(image, SMALL, TOKENIZER)


@pytest.mark.parametrize("crop_mode", ["overlap-and-resize-c2", "overlap-and-resize", "resize"])
def test_no_image_is_larger_than_the_largest_sizes(crop_mode):
    settings = dataclasses.replace(SMALL, crop_mode=crop_mode, p_high_res=1, high_res_max_crops=7)
    rng = np.random.RandomState(0)
    shapes = [(8 + 24 * rows, 8 + 24 * columns) for rows, columns in all_tilings(7)]
    made = [tokenize_image(noise(*shape), settings, TOKENIZER, rng) for shape in shapes]
    sizes = [(len(x.tokens), len(x.patches), len(x.token_pooling)) for x in made]
    largest = largest_sizes(settings, TOKENIZER)
    assert tuple(np.max(sizes, 0)) == (largest.tokens, largest.crops, largest.pooled)


# ------------------------------------------------------------------------------ several images


def test_images_of_a_group_are_numbered_in_words():
    images = [noise(32, 32, 0), noise(56, 32, 1)]
    pieces = tokenize_images(images, SMALL, TOKENIZER)
    for number, (piece, image) in enumerate(zip(pieces, images, strict=True), 1):
        alone = tokenize_image(image, SMALL, TOKENIZER)
        prefix = TOKENIZER.encode(f"Image {number}")
        assert piece.tokens.tolist() == [*prefix, *alone.tokens]
        np.testing.assert_array_equal(piece.token_pooling, alone.token_pooling)


def test_a_group_of_one_image_has_no_number():
    (piece,) = tokenize_images([noise(32, 32)], SMALL, TOKENIZER)
    assert piece.tokens[0] == IDS["<low_res_im_start>"]


def test_a_group_has_its_own_crops_and_pooling():
    settings = dataclasses.replace(SMALL, max_group_crops=1, group_pooling=(4, 4), p_high_res=1)
    (piece,) = tokenize_images([noise(80, 56)], settings, TOKENIZER)
    assert piece.patches.shape[0] == 2 and piece.token_pooling.shape == (8, 16)


def test_patches_of_a_group_are_numbered_on():
    images = [noise(32, 30, 0), noise(56, 32, 1)]
    settings = dataclasses.replace(SMALL, group_pooling=(3, 3))  # which leaves gaps
    pieces = tokenize_images(images, settings, TOKENIZER)
    made = join_images(pieces, MultimodalType.MULTI_IMAGE)
    first, second = pieces[0].token_pooling, pieces[1].token_pooling
    shifted = np.where(second < 0, -1, second + 2 * 64)
    np.testing.assert_array_equal(made.token_pooling, np.concatenate([first, shifted]))
    np.testing.assert_array_equal(made.patches[2:], pieces[1].patches)
    assert made.tokens.tolist() == [*pieces[0].tokens, *pieces[1].tokens]
    assert made.kind == MultimodalType.MULTI_IMAGE and made.token_pooling.dtype == np.int32


def test_more_images_than_allowed_are_refused_unless_dropping_is_asked_for():
    images = [noise(16, 16, seed) for seed in range(3)]
    settings = dataclasses.replace(SMALL, max_images=2)
    with pytest.raises(ImageError, match="has 3 images, more than"):
        tokenize_images(images, settings, TOKENIZER)
    assert len(tokenize_images(images, settings, TOKENIZER, too_many="drop")) == 2


def test_an_empty_group_is_refused():
    with pytest.raises(ImageError, match="empty"):
        tokenize_images([], SMALL, TOKENIZER)


def test_a_full_group_reaches_the_largest_sizes():
    settings = dataclasses.replace(SMALL, max_images=3)
    pieces = tokenize_images([noise(56, 32)] * 3, settings, TOKENIZER)
    made = join_images(pieces, MultimodalType.MULTI_IMAGE)
    largest = largest_group_sizes(settings, TOKENIZER)
    sizes = (len(made.tokens), len(made.patches), len(made.token_pooling))
    assert sizes == (largest.tokens, largest.crops, largest.pooled)


# ------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"resize": "nearest"}, "resize is 'nearest'; use one of siglip, default"),
        ({"normalize": "none"}, "normalize is 'none'"),
        ({"crop_mode": "all"}, "crop_mode is 'all'"),
        ({"max_crops": 0}, "max_crops is 0"),
        ({"pooling": (2, 0)}, r"pooling is \(2, 0\)"),
        ({"image_size": 33}, "multiple of ImageSettings.patch_size"),
        ({"p_high_res": 1.5}, "p_high_res is 1.5"),
        ({"margins": (4, 4)}, "leaves nothing of a crop of 8 x 8 patches"),
        ({"margins": (-1, 1)}, r"margins is \(-1, 1\)"),
        ({"resize": "dino"}, "normalize_in_model is set"),
    ],
)
def test_wrong_settings_are_refused(change, reason):
    with pytest.raises(ConfigError, match=reason):
        dataclasses.replace(SMALL, **change)
