"""Picture files as users, cameras and attackers make them."""

import io
import os
import struct

import numpy as np
import PIL.Image
import pytest

from stts_jax.data.images import file as image_file
from stts_jax.data.images.file import ImageError, load_image, require_picture


def noise(height, width):
    return np.random.RandomState(0).randint(0, 256, (height, width, 3)).astype(np.uint8)


def jpeg(pixels, **options):
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels).save(stream, "JPEG", **options)
    return stream.getvalue()


# ----------------------------------------------------------------------------------- transparency


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_transparent_pictures_are_laid_on_white(tmp_path, mode):
    picture = PIL.Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    picture.paste((0, 0, 0, 255), (0, 0, 4, 8))  # black on the left, black but unseen on the right
    path = tmp_path / ("a.tif" if mode == "PA" else "a.png")
    if mode == "P":
        palette = PIL.Image.fromarray(np.repeat([[0, 1]], 8, 0).repeat(4, 1).astype(np.uint8), "P")
        palette.putpalette([0, 0, 0, 0, 0, 0])
        palette.save(path, transparency=bytes([255, 0]))
    elif mode == "PA":
        black = PIL.Image.new("P", (8, 8))
        black.putpalette([0, 0, 0])
        black.putalpha(picture.getchannel("A"))
        black.save(path)
    else:
        picture.convert(mode).save(path)
    image = load_image(path)
    assert (image[:, :4] == 0).all() and (image[:, 4:] == 255).all()


def test_half_transparent_black_is_grey(tmp_path):
    PIL.Image.new("RGBA", (4, 4), (0, 0, 0, 128)).save(tmp_path / "a.png")
    assert (load_image(tmp_path / "a.png") == 127).all()


def test_a_colour_that_stands_for_transparent_is_white(tmp_path):
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:2] = (10, 20, 30)
    PIL.Image.fromarray(pixels).save(tmp_path / "a.png", transparency=(10, 20, 30))
    image = load_image(tmp_path / "a.png")
    assert (image[:2] == 255).all() and (image[2:] == 0).all()


def test_a_transparent_picture_is_turned_as_the_camera_was(tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.new("RGBA", (6, 4)).save(tmp_path / "a.png", exif=exif)
    assert load_image(tmp_path / "a.png").shape == (6, 4, 3)


# ------------------------------------------------------------------------------------------ bombs


def test_a_small_file_of_many_pixels_is_refused_by_its_header(tmp_path, monkeypatch):
    PIL.Image.new("RGB", (9000, 6000)).save(tmp_path / "a.webp", lossless=True, method=0)
    monkeypatch.setattr(PIL.Image.Image, "convert", None)  # nothing is decoded
    words = "too large: it has 9000 x 6000 pixels, more than 50,000,000; scale it down"
    for read in (load_image, require_picture):
        with pytest.raises(ImageError, match=words):
            read(tmp_path / "a.webp")


def test_a_file_of_more_bytes_than_pixels_need_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(bytes(2000))
    monkeypatch.setattr(image_file, "MAX_BYTES", 1000)
    with pytest.raises(ImageError, match=r"a\.png' has 2,000 bytes"):
        load_image(tmp_path / "a.png")


def test_many_pictures_in_one_file_are_not_counted(tmp_path, monkeypatch):
    first, *others = [PIL.Image.new("L", (2, 2), level) for level in range(5)]
    first.save(tmp_path / "a.tif", save_all=True, append_images=others)
    monkeypatch.setattr("PIL.TiffImagePlugin.TiffImageFile.n_frames", property(None))
    with pytest.raises(ImageError, match="holds several pictures"):
        load_image(tmp_path / "a.tif")


def test_text_that_unpacks_to_much_is_refused(tmp_path):
    info = PIL.PngImagePlugin.PngInfo()
    info.add_text("note", "a" * 3_000_000, zip=True)
    PIL.Image.new("RGB", (2, 2)).save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(ImageError, match="not a readable picture file"):
        load_image(tmp_path / "a.png")


def test_formats_that_other_programs_draw_are_not_read(tmp_path):
    (tmp_path / "a.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(ImageError, match="not a picture file that can be read"):
        load_image(tmp_path / "a.eps")


# ------------------------------------------------------------------------------- missing pixels


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}], ids=str)
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_jpeg_without_its_last_pixels_is_refused_though_its_end_is_there(
    tmp_path, options, share
):
    content = jpeg(noise(96, 128), **options)
    cut = content[: int(share * len(content))] + b"\xff\xd9"
    (tmp_path / "a.jpg").write_bytes(cut)
    with pytest.raises(ImageError, match="not a readable picture file"):
        load_image(tmp_path / "a.jpg")


def test_a_jpeg_that_claims_more_pixels_than_it_has_is_refused(tmp_path):
    content = bytearray(jpeg(noise(64, 64)))
    struct.pack_into(">HH", content, content.find(b"\xff\xc0") + 5, 640, 640)
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ImageError, match="pixels are missing"):
        load_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=str)
@pytest.mark.parametrize("size", [(1, 1), (40, 60), (7, 9)])
def test_a_jpeg_with_a_flat_corner_is_read(tmp_path, options, size):
    pixels = np.full((*size, 3), 255, np.uint8)
    pixels[: size[0] // 2] = noise(size[0] // 2, size[1])
    (tmp_path / "a.jpg").write_bytes(jpeg(pixels, **options))
    assert load_image(tmp_path / "a.jpg").shape == pixels.shape


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_a_flat_jpeg_in_other_colours_is_read(tmp_path, mode):
    PIL.Image.new(mode, (40, 30), "white" if mode == "L" else 0).save(tmp_path / "a.jpg")
    assert (load_image(tmp_path / "a.jpg") == 255).all()


# ------------------------------------------------------------------------------- not even a file


def test_pipes_and_devices_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    for name, kind in (("pipe.png", "a pipe"), ("device.png", "a device")):
        with pytest.raises(ImageError, match=rf"{name}' is {kind}.*give the path of a picture"):
            load_image(tmp_path / name)
