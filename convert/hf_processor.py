"""Reads the sizes of pooling windows from the processor files of a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

from convert.fields import Fields
from convert.tensor_reader import ConvertError, require_inside, with_remedy
from stts_jax.config import ConfigError
from stts_jax.plain_files import read_json_object

# File, the section in it, and what it is for; later ones win, as `processor_config.json` is what
# transformers 5 writes and reads.
_FIELDS = (
    ("preprocessor_config.json", None, "image_pooling"),
    ("video_preprocessor_config.json", None, "video_pooling"),
    ("processor_config.json", "image_processor", "image_pooling"),
    ("processor_config.json", "video_processor", "video_pooling"),
)


def pooling_windows(folder: Path) -> dict[str, int]:
    """Side of the windows for `video_pooling` and `image_pooling`, of which the files say it.

    Raises:
      ConvertError: if a file is damaged, or has a window that isn't square.
    """
    windows = {}
    for file, section, use in _FIELDS:
        fields = _read(folder / file, folder)
        try:
            fields = fields.table(section, default={}) if section else fields
            side = fields.side("pooling_size", default=None)
        except ConfigError as error:
            raise ConvertError(f"'{folder / file}': {error}") from error
        if side is not None:
            windows[use] = side
    return windows


def _read(path: Path, folder: Path) -> Fields:
    if not path.exists() and not path.is_symlink():
        return Fields({})
    require_inside(path, folder)
    with with_remedy("download it again"):
        return Fields(read_json_object(path))
