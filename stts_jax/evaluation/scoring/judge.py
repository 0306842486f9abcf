"""Judges: remote models that say whether an open answer is right.

A judge is any callable that takes instructions and a request and gives text. Nothing here is
needed to import or to score what can be scored by rule.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Protocol

RETRIED = (408, 429, 500, 502, 503, 504)


class JudgeError(ValueError):
    """A judge that cannot be asked; the message is one sentence with the remedy."""


class Judge(Protocol):
    """Judges an answer; its text identifies it among other judges."""

    def __call__(self, instructions: str, request: str) -> str:
        """The judge's text on `request`, having read `instructions`."""
        ...


@dataclass(frozen=True)
class HttpJudge:
    """A chat model behind an OpenAI-compatible endpoint.

    Attributes:
      model: its name there.
      address: of the endpoint, up to and without `/chat/completions`.
      key_variable: environment variable that holds the key; none is sent if this is None.
      max_tokens: length of its opinion.
      timeout_s: seconds to wait for one.
      attempts: how often to ask while the endpoint is busy.
      pause_s: seconds before the second attempt, doubled before each further one.

    Raises:
      JudgeError: if there is no key.
    """

    model: str
    address: str = "https://api.openai.com/v1"
    key_variable: str | None = "OPENAI_API_KEY"
    max_tokens: int = 256
    timeout_s: float = 60.0
    attempts: int = 5
    pause_s: float = 1.0

    def __post_init__(self) -> None:
        self._authorization()

    def __str__(self) -> str:
        """Returns the settings that its opinions depend on; saved results are compared by them."""
        return f"{self.model} at {self.address}, {self.max_tokens} tokens"

    def __call__(self, instructions: str, request: str) -> str:
        """Ask; temperature 0.

        Raises:
          JudgeError: if there is no opinion after all attempts.
        """
        body = {
            "model": self.model,
            "temperature": 0,
            "max_tokens": self.max_tokens,
            "messages": [
                {"role": "system", "content": instructions},
                {"role": "user", "content": request},
            ],
        }
        asked = urllib.request.Request(
            f"{self.address.rstrip('/')}/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"} | self._authorization(),
        )
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(self.pause_s * 2 ** (attempt - 1))
            try:
                with urllib.request.urlopen(asked, timeout=self.timeout_s) as reply:
                    return _opinion(reply.read())
            except urllib.error.HTTPError as error:
                problem = f"HTTP {error.code} {error.reason}"
                if error.code not in RETRIED:
                    break
            except OSError as error:
                problem = str(error)
        raise JudgeError(
            f"judge '{self.model}' at '{self.address}' gave no opinion ({problem}); check address "
            "and key, or evaluate without a judge"
        )

    def _authorization(self) -> dict[str, str]:
        if self.key_variable is None:
            return {}
        key = os.environ.get(self.key_variable)
        if not key:
            raise JudgeError(
                f"environment variable '{self.key_variable}', which holds the key of judge "
                f"'{self.model}', is not set; set it or evaluate without a judge"
            )
        return {"Authorization": f"Bearer {key}"}


def _opinion(reply: bytes) -> str:
    try:
        return str(json.loads(reply)["choices"][0]["message"]["content"]).strip()
    except (ValueError, KeyError, IndexError, TypeError):
        raise JudgeError(
            f"a judge's reply is no chat completion but begins {reply[:80]!r}; give the address of "
            "an OpenAI-compatible endpoint"
        ) from None
