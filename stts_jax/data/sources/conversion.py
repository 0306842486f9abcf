"""Writes data of any format that is read as lines of our own, and what is embedded to files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import mimetypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stts_jax.buckets.address import is_address, is_bucket, joined
from stts_jax.buckets.whole_files import written_here
from stts_jax.data.datasets.regular_file import require_regular_file
from stts_jax.data.embedded import EmbeddedError, is_data_uri, uri_content, uri_kind
from stts_jax.data.sources.checked_fields import OwnDataError
from stts_jax.data.sources.columns import Columns
from stts_jax.data.sources.own_line import Line, json_value, names_subtitle_file, parse_value
from stts_jax.data.sources.own_records import holds_list, line_records, list_records, text_of
from stts_jax.data.sources.tables import tables_at

_ENDINGS = {"image/jpeg": ".jpg", "image/webp": ".webp", "image/avif": ".avif"}


@dataclass
class Conversion:
    """What was written.

    Attributes:
      lines: their number.
      files: of embedded pictures and videos.
      skipped: fields that were not read.
      wrong: what is wrong with records that were left out.
    """

    lines: int = 0
    files: int = 0
    skipped: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)


def convert(
    source: Path, target: Path, columns: Columns | None = None, *, skip_wrong: bool = False
) -> Conversion:
    """Write a JSONL file of our own lines.

    Embedded pictures and videos are written to the folder `{target's stem}_media` beside it.

    Args:
      source: anything that `data.train` may name as own data.
      target: to write; it takes its name when it is whole.
      columns: fields of other names.
      skip_wrong: leave out records that are wrong instead of stopping at the first.

    Raises:
      OwnDataError: if something is wrong with the source.
      OSError: if the target can't be written.
    """
    columns, done = columns or Columns(), Conversion()
    with _read_here(source) as (here, folder):
        writer = _Files(target, done)
        paths = _Paths(folder, target, writer.folder)
        _require_other(target, source)
        with _drafted(target) as draft, draft.open("w", encoding="utf-8") as file:
            for number, record in _records(here, source):
                where = f"{source}:{number}"
                try:
                    line = _line(_extracted(record, writer, where), columns, where)
                except OwnDataError as error:
                    if not skip_wrong:
                        raise
                    done.wrong.append(str(error))
                    continue
                done.skipped.update(line.skipped)
                written = paths.moved(line_fields(line, where))
                file.write(json.dumps(written, ensure_ascii=False) + "\n")
                done.lines += 1
            if not done.lines:
                raise OwnDataError(f"'{source}' holds no examples; nothing was written")
    return done


@contextmanager
def _read_here(source: Path) -> Iterator[tuple[Path, Path]]:
    """Yields where to read a source, in a bucket a copy, and the folder of its relative paths.

    Errors name the source.
    """
    if not is_bucket(source):
        tables = tables_at(source)
        yield source, source.parent if tables is None else tables.folder
        return
    from stts_jax.buckets.local_cache import on_this_machine

    require_regular_file(source, "a .jsonl file or of a table", OwnDataError)
    with on_this_machine(source) as copy:
        try:
            yield copy, source.parent
        except OwnDataError as error:
            raise OwnDataError(str(error).replace(str(copy), str(source))) from error


@contextmanager
def _drafted(target: Path) -> Iterator[Path]:
    """Yields where to write a file that takes its name, or goes to its bucket, when it is whole."""
    if is_bucket(target):
        with written_here(target) as draft:
            yield draft
        return
    draft = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        yield draft
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def _require_other(target: Path, source: Path) -> None:
    if is_bucket(target) or is_bucket(source):
        same = str(target) == str(source)
    else:
        tables = tables_at(source)
        files = (source,) if tables is None else tables.files
        same = target.exists() and any(f.exists() and target.samefile(f) for f in files)
    if same:
        raise OwnDataError(f"'{target}' is what is read; name another file to write")


def line_fields(line: Line, location: str) -> dict[str, Any]:
    """Returns the fields of a line as they are written; its id unless that is `location`."""
    fields: dict[str, Any] = {} if line.id == location else {"id": line.id}
    fields |= {"video": line.video} if line.video is not None else {"images": list(line.images)}
    if line.clip is not None:
        fields["clip"] = list(line.clip)
    if isinstance(line.subtitle, str):
        fields["subtitle"] = line.subtitle
    elif line.subtitle is not None:
        names = ("start", "end", "text")
        fields["subtitle"] = [dict(zip(names, part, strict=True)) for part in line.subtitle]
    if line.caption is not None:
        fields["caption"] = line.caption
    elif len(line.turns) == 1:
        fields["question"], fields["answer"] = line.turns[0]
    else:
        turns: list[dict[str, Any]] = [{"question": q, "answer": a} for q, a in line.turns]
        for number in line.unlearnt:
            turns[number]["weight"] = 0
        fields["turns"] = turns
    if line.options is not None:
        fields["options"] = list(line.options)
    return fields if line.type is None else {**fields, "type": line.type}


def _records(source: Path, shown: Path) -> Iterator[tuple[int, Any]]:
    """The objects of a source with their numbers, or what is wrong with one; it names `shown`."""
    tables = tables_at(source)
    if tables is not None:
        yield from enumerate(tables.rows(), start=1)
    elif holds_list(source):
        yield from ((span.number, value) for span, value in list_records(source))
    else:
        for span, content in line_records(source):
            where = f"{shown}:{span.number}"
            try:
                text = text_of(content, where)
                if text.strip():
                    yield span.number, json_value(text, where)
            except OwnDataError as error:
                yield span.number, error


def _extracted(record: Any, writer: _Files, where: str) -> Any:
    if isinstance(record, OwnDataError):
        raise record
    try:
        return writer.extracted(record, where)
    except RecursionError as error:
        raise OwnDataError(f"{where}: it is too deeply nested; write it flatter") from error


def _line(record: Any, columns: Columns, where: str) -> Line:
    if not columns.any or not isinstance(record, dict):
        return parse_value(record, where, where)
    named, read = columns.of(record, where), columns.sources
    kept = {name: value for name, value in record.items() if columns.keeps(name, record)}
    line = parse_value(kept | named, where, where)
    left_out = (name for name, value in record.items() if value is not None and name not in kept)
    skipped = {*line.skipped, *left_out} - read - named.keys()
    return dataclasses.replace(line, skipped=tuple(skipped))


class _Paths:
    """Paths of a source as the target's folder sees them.

    Links are resolved on both sides, as `..` leads out of the folder that a link is to. From a
    bucket or to one, paths are whole unless both files are in one folder.
    """

    def __init__(self, folder: Path, target: Path, media: Path) -> None:
        """Take the folder that paths are relative to, the file to write, and what is embedded."""
        self._media, self._beside = f"{media}/", f"{media.parent}/"
        self._folder, beside = folder.resolve(), target.parent.resolve()
        if is_bucket(folder) or is_bucket(target):
            self._between = "." if str(self._folder) == str(beside) else None
        else:
            self._between = os.path.relpath(self._folder, beside)

    def moved(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Returns the fields of a line with paths relative to the target's folder."""
        found = dict(fields)
        if "video" in fields:
            found["video"] = self._path(fields["video"])
        if "images" in fields:
            found["images"] = [self._path(image) for image in fields["images"]]
        subtitle = fields.get("subtitle")
        if isinstance(subtitle, str) and names_subtitle_file(subtitle):
            found["subtitle"] = self._path(subtitle.strip())
        return found

    def _path(self, path: str) -> str:
        if path.startswith(self._media):
            return path.removeprefix(self._beside)
        if path.startswith("/") or is_address(path) or self._between == ".":
            return path
        if self._between is None:
            return str(joined(self._folder, path))
        return f"{self._between}/{path.removeprefix('./')}"


class _Files:
    """Writes embedded content to files, equal content once."""

    def __init__(self, target: Path, done: Conversion) -> None:
        self.folder = target.absolute().with_name(f"{target.stem}_media")
        self._done = done

    def extracted(self, value: Any, where: str) -> Any:
        """Returns a value with absolute paths of files instead of embedded content."""
        if isinstance(value, str):
            return self._written(value, where) if is_data_uri(value) else value
        if isinstance(value, list):
            return [self.extracted(part, where) for part in value]
        if not isinstance(value, dict):
            return value
        if isinstance(value.get("base64"), str) and isinstance(value.get("type"), str):
            uri = f"data:{value['type']}/unknown;base64,{value['base64']}"
            return {"type": value["type"], "path": self._written(uri, where)}
        return {name: self.extracted(part, where) for name, part in value.items()}

    def _written(self, uri: str, where: str) -> str:
        try:
            content = uri_content(uri)
        except EmbeddedError as error:
            raise OwnDataError(f"{where}: {error}") from error
        kind = uri_kind(uri)
        ending = _ENDINGS.get(kind) or mimetypes.guess_extension(kind) or ""
        path = self.folder / (hashlib.sha256(content).hexdigest()[:24] + ending)
        if not path.exists():
            self.folder.mkdir(exist_ok=True)
            with _drafted(path) as draft:
                draft.write_bytes(content)
            self._done.files += 1
        return str(path)
