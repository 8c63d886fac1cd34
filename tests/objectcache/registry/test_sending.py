"""Clients that take nothing."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from objectcache.registry.sending import ClientGoneError, Sender
from tasuki.process.asgi import Message

Step = Callable[[Sender], Awaitable[None]]


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(lambda sender: sender.begin(200, {}), id="the head"),
        pytest.param(lambda sender: sender.piece(b"x"), id="a piece"),
        pytest.param(lambda sender: sender.end(), id="the end"),
        pytest.param(lambda sender: sender.whole(200, {}, b"x"), id="all at once"),
    ],
)
async def test_who_takes_nothing_is_given_up(step: Step) -> None:
    async def never(_: Message) -> None:
        await asyncio.Event().wait()

    sender = Sender(never, stall_seconds=0.01)

    async with asyncio.timeout(30):
        with pytest.raises(ClientGoneError):
            await step(sender)
