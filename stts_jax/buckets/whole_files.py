"""Replaces small files as a whole and deletes folders, on disks and in buckets."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from stts_jax.buckets.address import is_bucket

# The file that Orbax writes last into a folder of a checkpoint in a bucket.
COMMITTED = "commit_success.txt"


def write_whole(file: Path, text: str) -> None:
    """Writes a file, or replaces it at once: a reader, also after a kill, sees the old or the new.

    On a disk it is written beside and renamed; in a bucket a file is only there when it is closed.
    """
    if is_bucket(file):
        file.write_text(text)
        return
    new = file.with_name(f"{file.name}.new")
    new.write_text(text)
    new.replace(file)


@contextmanager
def written_here(file: Path) -> Iterator[Path]:
    """Yields a path of this machine to write a file to; it is uploaded if `file` is in a bucket."""
    if not is_bucket(file):
        yield file
        return
    from stts_jax.buckets.bucket_path import BucketPath

    with tempfile.TemporaryDirectory(prefix="stts-file-") as made:
        here = Path(made) / file.name
        yield here
        cast(BucketPath, file).upload(str(here))


def upload_folder(folder: Path, target: Path) -> None:
    """Copies a folder of this machine to one in a bucket, the commit files of checkpoints last."""
    files = (path for path in folder.rglob("*") if path.is_file())
    for path in sorted(files, key=lambda path: (path.name == COMMITTED, path)):
        (target / path.relative_to(folder)).write_bytes(path.read_bytes())


def delete_folder(folder: Path) -> None:
    """Deletes a folder as far as that is possible; none is fine."""
    if is_bucket(folder):
        from stts_jax.buckets.bucket_path import BucketPath

        cast(BucketPath, folder).rmtree(missing_ok=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)
