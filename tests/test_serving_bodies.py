"""Bodies of requests are read under limits."""

from __future__ import annotations

import asyncio

import pytest

from stts_jax.serving.bodies import BodyRoom
from stts_jax.serving.errors import ServingError


def test_bodies_under_way_share_a_room_and_leave_it_when_they_end():
    async def receive():
        return {"type": "http.request", "body": b"a" * 60}

    async def run():
        room = BodyRoom(100)
        with room.counted(receive) as first, room.counted(receive) as second:
            await first()
            with pytest.raises(ServingError) as refused:
                await second()
        with room.counted(receive) as third:
            await third()
        return refused.value

    assert asyncio.run(run()).status == 429
