"""The sandbox's vAccel agent, asked by the device plugin's own prober and by hand."""

import asyncio
import stat
import struct
from pathlib import Path

import pytest

from deviceplugin.config.model import VaccelAgent as Configured
from deviceplugin.discovery import ttrpc
from deviceplugin.discovery.vaccel import METHOD, SERVICES, Prober
from tasuki.sandbox.vaccel_agent import VaccelAgent

SYNC, ASYNC = SERVICES
SOON_SECONDS = 10.0


async def findings(*addresses: str) -> dict[str, str]:
    agents = [Configured(name=f"a{n}", address=address, sessions=1) for n, address in enumerate(addresses)]
    return await asyncio.to_thread(Prober().findings, agents)


async def test_the_prober_finds_it_well(folder: Path) -> None:
    address = f"unix://{folder}/vaccel/local.sock"

    async with VaccelAgent(folder / "vaccel/local.sock") as agent:
        found = await findings(address)
        mode = stat.S_IMODE(agent.socket.stat().st_mode)

    assert found == {address: ""}
    assert mode == 0o777, "containers' users can connect"


async def test_it_is_gone_once_it_has_ended(folder: Path) -> None:
    address = f"unix://{folder}/local.sock"
    async with VaccelAgent(folder / "local.sock"):
        await findings(address)

    found = await findings(address)

    assert "there is no such socket" in found[address]


async def asked(socket: Path, *requests: bytes) -> list[ttrpc.Status]:
    reader, writer = await asyncio.open_unix_connection(socket)
    try:
        answers = []
        async with asyncio.timeout(SOON_SECONDS):
            for stream, request in zip(range(1, 100, 2), requests, strict=False):
                writer.write(request)
                length = ttrpc.response_bytes(await reader.readexactly(ttrpc.HEADER_BYTES), stream)
                answers.append(ttrpc.status(await reader.readexactly(length)))
        return answers
    finally:
        writer.close()
        await writer.wait_closed()


def call(stream: int, service: str = SYNC, method: str = METHOD, session: int = 1) -> bytes:
    return ttrpc.request(stream, service, method, ttrpc.field_of(1, session), 1.0)


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        pytest.param(call(1), ttrpc.OK, "", id="a session without timings"),
        pytest.param(call(1, session=0), 13, "Invalid ID", id="no session"),
        pytest.param(
            call(1, method="CreateSession"),
            ttrpc.INVALID_ARGUMENT,
            f"/{SYNC}/CreateSession does not exist",
            id="a method that it has not",
        ),
        pytest.param(
            call(1, service=ASYNC), ttrpc.INVALID_ARGUMENT, f"/{ASYNC}/{METHOD} does not exist", id="the other build's"
        ),
    ],
)
async def test_it_answers_as_an_agent(folder: Path, request_: bytes, code: int, message: str) -> None:
    async with VaccelAgent(folder / "a.sock") as agent:
        (answer,) = await asked(agent.socket, request_)

    assert (answer.code, answer.message) == (code, message)


async def test_one_connection_serves_many_calls(folder: Path) -> None:
    async with VaccelAgent(folder / "a.sock") as agent:
        answers = await asked(agent.socket, call(1, service=ASYNC), call(3), call(5))

    assert [answer.code for answer in answers] == [ttrpc.INVALID_ARGUMENT, ttrpc.OK, ttrpc.OK]


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="another protocol"),
        pytest.param(struct.pack(">IIBB", 3, 1, 1, 0) + b"\xff\xff\xff", id="no protobuf"),
        pytest.param(struct.pack(">IIBB", 2**31, 1, 1, 0), id="too much"),
    ],
)
async def test_it_hangs_up_on_what_is_no_request(folder: Path, said: bytes) -> None:
    async with VaccelAgent(folder / "a.sock") as agent:
        reader, writer = await asyncio.open_unix_connection(agent.socket)
        writer.write(said)
        async with asyncio.timeout(SOON_SECONDS):
            answer = await reader.read()
        writer.close()
        (status,) = await asked(agent.socket, call(1))

    assert answer == b""
    assert status.code == ttrpc.OK, "others are served on"
