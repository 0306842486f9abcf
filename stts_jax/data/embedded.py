"""Pictures whose bytes stand in the data, as data URIs, instead of files."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field

# Also without a kind, as some programs write them.
_URI = re.compile(r"data:(?P<kind>[\w.+/-]*)(;[\w=.+-]+)*;base64,", re.ASCII)
_LOOKED_AT = 200


class EmbeddedError(ValueError):
    """A data URI that can't be read; the message is one sentence with the remedy."""


@dataclass(frozen=True)
class EmbeddedPicture:
    """The bytes of a picture. Written as text, it names where the picture is.

    Attributes:
      where: file and line, and the number of the picture in it.
      content: of a file.
    """

    where: str
    content: bytes = field(repr=False)

    def __str__(self) -> str:
        return self.where

    def exists(self) -> bool:
        """As a path says it of its file: the content is at hand."""
        return True


def is_data_uri(text: str) -> bool:
    """Returns whether a text holds a file's content."""
    return text.startswith("data:") and _URI.match(text[:_LOOKED_AT]) is not None


def uri_kind(uri: str) -> str:
    """Returns the kind that a data URI states, such as `image/png`."""
    found = _URI.match(uri[:_LOOKED_AT])
    return found["kind"].lower() if found else ""


def uri_content(uri: str) -> bytes:
    """Returns the content of a data URI.

    Raises:
      EmbeddedError: if it isn't base64.
    """
    try:
        return base64.b64decode(uri[uri.index(",") + 1 :], validate=True)
    except (ValueError, binascii.Error) as error:
        raise EmbeddedError(f"a data URI is not valid base64 ({error}); write it again") from error
