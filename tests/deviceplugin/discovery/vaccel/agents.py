"""A vAccel agent as far as ttrpc goes, built on the protobuf library and not on what is tested."""

import selectors
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from deviceplugin.config.model import VaccelAgent

SYNC: Final = "vaccel.sync.agent.AgentService"
ASYNC: Final = "vaccel.asynchronous.agent.AgentService"

_HEADER: Final = struct.Struct(">IIBB")
_Field = descriptor_pb2.FieldDescriptorProto


def _messages() -> dict[str, Any]:
    """The envelopes of ttrpc, as containerd/ttrpc-rust's src/ttrpc.proto has them."""
    file = descriptor_pb2.FileDescriptorProto(name="ttrpc_for_tests.proto", package="grpc", syntax="proto3")
    layouts: dict[str, list[tuple[str, int, _Field.Type.ValueType, str]]] = {
        "Request": [
            ("service", 1, _Field.TYPE_STRING, ""),
            ("method", 2, _Field.TYPE_STRING, ""),
            ("payload", 3, _Field.TYPE_BYTES, ""),
            ("timeout_nano", 4, _Field.TYPE_INT64, ""),
        ],
        "Status": [("code", 1, _Field.TYPE_INT32, ""), ("message", 2, _Field.TYPE_STRING, "")],
        "Response": [("status", 1, _Field.TYPE_MESSAGE, ".grpc.Status"), ("payload", 2, _Field.TYPE_BYTES, "")],
        "GetProfiler": [("session_id", 1, _Field.TYPE_INT64, "")],
    }
    for name, fields in layouts.items():
        message = file.message_type.add(name=name)
        for field, number, kind, of in fields:
            message.field.add(name=field, number=number, type=kind, type_name=of or None, label=_Field.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"grpc.{name}")) for name in layouts}


MESSAGES: Final = _messages()


def frame(stream: int, message: Any, kind: int = 2) -> bytes:
    body: bytes = message.SerializeToString()
    return _HEADER.pack(len(body), stream, kind, 0) + body


def response(code: int = 0, message: str = "", payload: bytes = b"") -> Any:
    answer = MESSAGES["Response"](payload=payload)
    if code or message:
        answer.status.code, answer.status.message = code, message
    return answer


# What a server sends back for a request; None to say nothing, empty to hang up.
Answer = Callable[[int, Any], bytes | None]


def serving(service: str, *, is_async: bool = False) -> Answer:
    """The answers of ttrpc-rust's servers, sync and async, that serve one service with GetProfiler."""

    def answer(stream: int, request: Any) -> bytes:
        if is_async and request.service != service:
            return frame(stream, response(3, f"{request.service} service does not exist"))
        if is_async and request.method != "GetProfiler":
            return frame(stream, response(12, f"{request.method} method"))
        if (request.service, request.method) != (service, "GetProfiler"):
            return frame(stream, response(3, f"/{request.service}/{request.method} does not exist"))
        if MESSAGES["GetProfiler"].FromString(request.payload).session_id <= 0:
            return frame(stream, response(13, "Invalid ID"))
        return frame(stream, response())

    return answer


def silent(_stream: int, _request: Any) -> None:
    return None


def hanging_up(_stream: int, _request: Any) -> bytes:
    return b""


class FakeAgent:
    """A server with one thread for all its connections; a context manager."""

    def __init__(self, listener: socket.socket, address: str, answer: Answer) -> None:
        self.address: Final = address
        self.requests: Final[list[tuple[str, str]]] = []
        self._answer: Final = answer
        self._listener: Final = listener
        self._waker, self._wakened = socket.socketpair()
        self._selector: Final = selectors.DefaultSelector()
        self._thread: Final = threading.Thread(target=self._serve)

    @classmethod
    def unix(cls, path: Path, answer: Answer | None = None) -> Self:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        return cls(listener, f"unix://{path}", answer or serving(SYNC))

    @classmethod
    def tcp(cls, answer: Answer | None = None, host: str = "127.0.0.1") -> Self:
        """At the first address of a host's name, which is the one that vAccel's client takes."""
        family, _, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.bind(address)
        return cls(listener, f"tcp://{host}:{listener.getsockname()[1]}", answer or serving(SYNC))

    def __enter__(self) -> Self:
        self._listener.listen(10)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wakened, selectors.EVENT_READ)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Like an agent that is killed: the socket's file stays."""
        self._waker.send(b"x")
        self._thread.join(10)
        assert not self._thread.is_alive()
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()
        self._waker.close()

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._selector.get_map()) - 2

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select(10):
                found = key.fileobj
                assert isinstance(found, socket.socket)
                if found is self._wakened:
                    return
                if found is self._listener:
                    self._selector.register(found.accept()[0], selectors.EVENT_READ)
                elif not self._served(found):
                    self._selector.unregister(found)
                    found.close()

    def _served(self, connection: socket.socket) -> bool:
        """Answer one request, if the connection is to live on."""
        connection.settimeout(5)
        try:
            header = connection.recv(_HEADER.size, socket.MSG_WAITALL)
        except ConnectionResetError:
            return False
        if len(header) < _HEADER.size:
            return False
        length, stream, kind, _flags = _HEADER.unpack(header)
        assert kind == 1
        request = MESSAGES["Request"].FromString(connection.recv(length, socket.MSG_WAITALL))
        self.requests.append((request.service, request.method))
        answer = self._answer(stream, request)
        if answer:
            connection.sendall(answer)
        return answer != b""


def an_agent(address: str, name: str = "local", **fields: Any) -> VaccelAgent:
    return VaccelAgent(name=name, address=address, **{"sessions": 4, **fields})
