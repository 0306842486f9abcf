"""Reading picture files, which may be damaged or made to take the machine's memory."""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import av
import numpy as np
import PIL.Image
import PIL.ImageOps

from stts_jax.buckets.address import is_bucket, path_of
from stts_jax.data.embedded import EmbeddedPicture
from stts_jax.data.media_file import require_content

# Crops are 378 pixels wide; a telephone takes 12 to 50 million pixels.
MAX_PIXELS = 50_000_000
# No format needs more for so many pixels of 8 bits; readers hold a whole file, or a piece of it.
MAX_BYTES = 4 * MAX_PIXELS
# Formats whose readers run no other program and open no other file.
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "QOI", "SGI",
           "TGA", "TIFF", "WEBP")  # fmt: skip
JPEG_BLOCK = 8


class ImageError(ValueError):
    """An image that cannot be read or used; the message is one sentence with the remedy."""


def load_image(path: str | Path | EmbeddedPicture) -> np.ndarray:
    """Read a still picture, upright and in RGB, laid on white where it is transparent.

    Unlike the reference it refuses files that are cut off (there the missing part is grey),
    animations (there the first picture is taken), grey of more than 8 bits (there nearly all of it
    becomes white), and more than `MAX_PIXELS`. There the colours that transparent pixels hide are
    shown, often black.

    Args:
      path: of a file in one of the `FORMATS`, or its content.

    Returns:
      (H, W, 3) uint8.

    Raises:
      ImageError: if the file is missing, empty, damaged, too large, too deep, animated, or not a
        picture.
    """
    path = path if isinstance(path, EmbeddedPicture) else path_of(path)
    with _opened(path) as picture:
        rgb = _on_white(picture)
        if picture.format in ("JPEG", "MPO"):
            _require_whole_jpeg(picture, rgb, path)
    with contextlib.suppress(Exception):  # a damaged note of the camera doesn't spoil the picture
        rgb = PIL.ImageOps.exif_transpose(rgb)
    return np.array(rgb)


def require_picture(path: str | Path | EmbeddedPicture) -> None:
    """Check what can be known of a picture file without decoding its pixels.

    Raises:
      ImageError: if `load_image` would refuse it for that.
    """
    path = path if isinstance(path, EmbeddedPicture) else path_of(path)
    with _opened(path) as picture:
        picture.verify()


@contextlib.contextmanager
def _opened(path: Path | EmbeddedPicture) -> Iterator[PIL.Image.Image]:
    """Opens a picture whose header is valid, and names faults that show up in the block."""
    if isinstance(path, EmbeddedPicture):
        size: int = len(path.content)
        opened: Any = io.BytesIO(path.content)
    else:
        require_content(path, "a picture", ImageError)
        size, opened = path.stat().st_size, path
    if size > MAX_BYTES:
        raise ImageError(
            f"'{path}' has {size:,} bytes, more than a picture of {MAX_PIXELS:,} pixels needs; "
            "save it again, as jpg or png"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd palettes and sizes near Pillow's limit
            if isinstance(path, PurePath) and is_bucket(path):
                opened = io.BytesIO(path.read_bytes())
            with PIL.Image.open(opened, formats=readable_formats()) as picture:
                _require_plain(picture, path)
                yield picture
    except ImageError:
        raise
    except PIL.UnidentifiedImageError as error:
        raise ImageError(
            f"'{path}' is not a picture file that can be read; use one such as jpg or png"
        ) from error
    except PIL.Image.DecompressionBombError as error:
        raise ImageError(
            f"'{path}' is too large: it has more than {MAX_PIXELS:,} pixels; scale it down"
        ) from error
    except Exception as error:  # every format raises kinds of its own
        raise ImageError(
            f"'{path}' is not a readable picture file: {str(error)[:200] or 'it is damaged'}; copy "
            "or download it again"
        ) from error


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """Returns the formats that this Pillow reads."""
    PIL.Image.init()
    return tuple(name for name in FORMATS if name in PIL.Image.OPEN)


def _require_plain(picture: PIL.Image.Image, path: Path | EmbeddedPicture) -> None:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"'{path}' is too large: it has {width} x {height} pixels, more than {MAX_PIXELS:,}; "
            "scale it down"
        )
    if picture.mode[0] in "IF":
        raise ImageError(
            f"'{path}' has more than 8 bits a pixel (mode {picture.mode}); save it with 8 bits"
        )
    # Telephones append further pictures to a JPEG (MPO); the first one is the photograph.
    if getattr(picture, "is_animated", False) and picture.format != "MPO":
        raise ImageError(
            f"'{path}' holds several pictures; save the one you mean to a file of its own, or use "
            "a video"
        )


def _on_white(picture: PIL.Image.Image) -> PIL.Image.Image:
    """The picture in RGB, as viewers show it on a white page."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    if picture.mode == "La":  # grey, multiplied by its opacity
        picture = picture.convert("LA")
    coloured = picture.convert("RGBA")
    page = PIL.Image.new("RGB", picture.size, "white")
    page.paste(coloured, mask=coloured.getchannel("A"))
    page.info = picture.info.copy()  # how the camera was held
    return page


def _require_whole_jpeg(
    picture: PIL.Image.Image, rgb: PIL.Image.Image, path: Path | EmbeddedPicture
) -> None:
    """Refuse a JPEG that lacks pixels though its end marker is there, which Pillow makes up.

    What it makes up is flat to the last corner, or lacks the finer scans of a progressive file.
    Where that may be so, FFmpeg's decoder is asked, which is strict.
    """
    width, height = rgb.size
    corner = (max(width - JPEG_BLOCK, 0), max(height - JPEG_BLOCK, 0), width, height)
    pixels = np.asarray(rgb.crop(corner))
    flat = bool((pixels == pixels[-1, -1]).all())
    if not flat and not picture.info.get("progressive"):
        return
    decoder = av.VideoCodecContext.create("mjpeg", "r")
    decoder.options = {"err_detect": "explode", "max_pixels": str(2 * MAX_PIXELS)}
    try:
        content = path.content if isinstance(path, EmbeddedPicture) else path.read_bytes()
        decoder.decode(av.Packet(content))
        decoder.decode(None)
    except av.InvalidDataError as error:
        raise ImageError(
            f"'{path}' is not a readable picture file: pixels are missing at its end; copy or "
            "download it again"
        ) from error
    except av.FFmpegError:  # a kind of JPEG that it doesn't know
        return
