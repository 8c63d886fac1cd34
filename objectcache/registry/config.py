"""Which registries are mirrored, and with whose credentials."""

import base64
import binascii
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

import msgspec

from objectcache.registry.origins import Origin, read_origin
from tasuki.process import document
from tasuki.process.document import ConfigError, Node
from tasuki.process.keys import Key, Table, converted, described, each, fail, fields, items
from tasuki.process.sentences import alternatives, shown

# Whether credentials are used; if they are, whoever reaches the mirror reads what they can read.
UseCredentials = Literal["none", "shared"]

MOST_UPSTREAMS: Final = 200

_HOST: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?(?::[0-9]{1,5})?", re.ASCII)

# Docker Hub's API is elsewhere than its name, and `docker login` writes a third one.
_APIS: Final[Mapping[str, str]] = MappingProxyType({"docker.io": "https://registry-1.docker.io"})
_LOGIN_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {"index.docker.io": "docker.io", "registry-1.docker.io": "docker.io"}
)


@dataclass(frozen=True, slots=True)
class Upstream:
    """One registry.

    Attributes:
        host: As images are named, and as containerd's `ns` spells it.
        api: Where it is asked.
        shares_credentials: Whether it is asked with credentials, so that everybody here reads what they can read.
        ca: A file with the authorities of its certificate; None for the system's.
        origins: Beside `api`, where it may send us though that is no public address or no HTTPS.
        context: None for HTTP without TLS.
    """

    host: str
    api: Origin
    shares_credentials: bool = False
    ca: Path | None = None
    origins: frozenset[Origin] = frozenset()
    context: ssl.SSLContext | None = field(default=None, compare=False, repr=False)

    @property
    def trusted(self) -> frozenset[Origin]:
        return self.origins | {self.api}


@dataclass(frozen=True, slots=True)
class Credentials:
    username: str
    password: str = field(repr=False)

    @property
    def basic(self) -> str:
        """As the value of `Authorization`."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


Upstreams = Mapping[str, Upstream]
Logins = Mapping[str, Credentials]


def read_upstreams(content: bytes) -> dict[str, Upstream]:
    """By host, without their TLS contexts.

    Raises:
        ConfigError: Naming line, key, value and remedy.
    """
    found = fields(_FILE, _FILE, document.read(content), "")
    upstreams: tuple[Upstream, ...] = found["upstreams"]
    if not upstreams:
        raise ConfigError("upstreams is an empty list; name the registries that may be mirrored")
    if len(upstreams) > MOST_UPSTREAMS:
        raise ConfigError(f"upstreams names {len(upstreams)} registries; at most {MOST_UPSTREAMS} are taken")
    by_host: dict[str, Upstream] = {}
    for upstream in upstreams:
        if upstream.host in by_host:
            raise ConfigError(f"upstreams names {upstream.host!r} twice; take one of them out")
        by_host[upstream.host] = upstream
    return by_host


def with_context(upstream: Upstream) -> ssl.SSLContext | None:
    """Reads files: from a worker thread.

    Raises:
        ConfigError: Its authorities cannot be used.
    """
    if upstream.api.scheme == "http" and upstream.ca is None:
        return None
    try:
        return ssl.create_default_context(cafile=None if upstream.ca is None else str(upstream.ca))
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or str(error)
        text = f"ca of upstream {upstream.host!r} is {str(upstream.ca)!r}, which cannot be used: {reason}"
        raise ConfigError(f"{text}; name a file of PEM certificates") from error


class _Login(msgspec.Struct, frozen=True):
    auth: str = ""
    username: str = ""
    password: str = ""
    identitytoken: str = ""

    def __repr__(self) -> str:
        return "_Login(...)"


class _DockerConfig(msgspec.Struct, frozen=True):
    auths: dict[str, _Login] = {}


def read_logins(content: bytes) -> dict[str, Credentials]:
    """Credentials by host, of a file as `docker login` writes it (a Secret's `.dockerconfigjson`).

    Raises:
        ConfigError: It is none; no secret is in the text.
    """
    try:
        written = msgspec.json.decode(content, type=_DockerConfig)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ConfigError(
            'it is no JSON with "auths", as a Secret of type kubernetes.io/dockerconfigjson has'
        ) from None
    return {_login_host(name): _credentials(name, login) for name, login in written.auths.items()}


def _login_host(name: str) -> str:
    """Of `https://index.docker.io/v1/`, as `docker login` writes Docker Hub, or of a host with a scheme or without."""
    host = re.sub(r"^https?://", "", name).partition("/")[0].lower()
    return _LOGIN_NAMES.get(host, host)


def _credentials(name: str, login: _Login) -> Credentials:
    if login.identitytoken:
        raise ConfigError(f"auths[{name!r}] has an identitytoken, which is not supported; give username and password")
    username, password = login.username, login.password
    if login.auth:
        try:
            username, colon, password = base64.b64decode(login.auth, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            colon = ""
        if not colon:
            raise ConfigError(f"auths[{name!r}].auth is not the base64 form of username:password")
    if not username or not password:
        raise ConfigError(f"auths[{name!r}] has no username or no password; give both, or auth")
    return Credentials(username, password)


def _text(node: Node, path: str) -> str:
    if not isinstance(node.value, str) or not node.value:
        raise fail(node, path, f"{described(node)}; it must be a text")
    return node.value


def _read_host(node: Node, path: str) -> str:
    text = _text(node, path)
    if not _HOST.fullmatch(text):
        problem = f"is {shown(text)}; it must be a registry's host in lower case as images name it, such as docker.io"
        raise fail(node, path, problem)
    return text


def _read_origin(node: Node, path: str) -> Origin:
    text = _text(node, path)
    try:
        return read_origin(text)
    except ValueError as error:
        raise fail(node, path, f"is {shown(text)}; it must be {error}") from None


def _read_use(node: Node, path: str) -> bool:
    if node.value not in get_args(UseCredentials):
        raise fail(node, path, f"{described(node)}; it must be {alternatives(get_args(UseCredentials))}")
    return node.value == "shared"


def _read_path(node: Node, path: str) -> Path:
    text = _text(node, path)
    if "\0" in text or not text.startswith("/"):
        raise fail(node, path, f"is {shown(text)}; it must be an absolute path")
    return Path(text)


def _read_origins(node: Node, path: str) -> frozenset[Origin]:
    return frozenset(each(node, path, _read_origin))


def _read_upstream(node: Node, path: str) -> Upstream:
    found: dict[str, Any] = fields(_UPSTREAM, _FILE, node, path)
    host: str = found["host"]
    if "api" not in found:
        try:
            found["api"] = read_origin(_APIS.get(host, f"https://{host}"))
        except ValueError:
            raise fail(node, path, f"has host {shown(host)}, whose port is none; give one from 1 to 65535") from None
    return Upstream(**found)


def _read_all(node: Node, path: str) -> tuple[Upstream, ...]:
    return converted(items(node, path), _read_upstream)


_UPSTREAM: Final = Table(
    {
        "host": Key("host", _read_host, nullable=False),
        "url": Key("api", _read_origin, nullable=False),
        "credentials": Key("shares_credentials", _read_use, nullable=False),
        "ca": Key("ca", _read_path, nullable=False),
        "redirectOrigins": Key("origins", _read_origins, nullable=False),
    },
    required=("host",),
)
_FILE: Final = Table(
    {"upstreams": Key("upstreams", _read_all, nullable=False, table=_UPSTREAM)}, required=("upstreams",)
)
