"""What the processor files of a Hugging Face folder say about pooling windows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from convert.stored import ConvertError, require_inside

# File, the section in it, and what it is for; later ones win, as `processor_config.json` is what
# transformers 5 writes and reads.
_PLACES = (
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
    for file, section, use in _PLACES:
        found = _read(folder / file, folder)
        found = found.get(section) or {} if section else found
        size = found.get("pooling_size")
        if size is None:
            continue
        sides = set(size) if isinstance(size, list) else {size}
        if len(sides) != 1 or not all(isinstance(side, int) and side > 0 for side in sides):
            raise ConvertError(
                f"'{folder / file}' has pooling_size {size}; only square windows can be pooled"
            )
        windows[use] = sides.pop()
    return windows


def _read(path: Path, folder: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        found = json.loads(require_inside(path, folder).read_text())
    except ValueError as error:
        raise ConvertError(f"'{path}' cannot be read: {error}; download it again") from error
    return found if isinstance(found, dict) else {}
