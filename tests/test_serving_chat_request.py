"""What a chat request says, without a model."""

from __future__ import annotations

import time

from stts_jax.serving.chat_request import parse_chat
from stts_jax.serving.limits import Limits


def test_messages_of_one_role_in_turn_are_one_turn():
    said = [("system", "be brief"), ("user", "one"), ("assistant", "yes"), ("user", " two ")]
    messages = [{"role": role, "content": text} for role, text in (*said, ("user", ""))]
    chat = parse_chat({"model": "m", "messages": messages}, Limits())
    assert (chat.question, chat.earlier) == ("two", (("be brief\none", "yes"),))


def test_many_messages_are_read_in_linear_time():
    messages = [{"role": "user", "content": "word " * 40}] * 20_000
    started = time.process_time()
    chat = parse_chat({"model": "m", "messages": messages}, Limits())
    assert len(chat.question) == 20_000 * 200 - 1
    assert time.process_time() - started < 2.0  # joined pair by pair they take 40 GB of copies
