"""Tokens from a file, where there is no cluster that could review them: no error ever shows what may be a token."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from stat import S_IRWXO
from typing import Final

from objectcache.access.reviewing import INVALID_SECONDS, Verdict, malformed
from objectcache.link import Identity
from tasuki.process import document
from tasuki.process.document import ConfigError, Node
from tasuki.process.file_source import DEFAULT_PACE, FileSource, Pace
from tasuki.process.keys import Key, Table, each, fail, fields, items
from tasuki.process.sentences import alternatives, nearest

# A token that is taken out of the file is worth nothing after so long, everywhere.
VALID_SECONDS: Final = 10.0

_ALIKE: Final = 0.6
_SHA256: Final = re.compile("[0-9a-f]{64}")
_NAME: Final = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")
_LONGEST_NAMESPACE: Final = 63

Identities = Mapping[bytes, Identity]


@dataclass(frozen=True, slots=True)
class _File:
    """What was read.

    Attributes:
        identities: By the token's SHA-256.
        others_may: Whether others than the file's owner and group have any permission on it.
    """

    identities: Identities
    others_may: bool


class StaticTokens:
    """Reviews by a look-up of the token's SHA-256, which takes as long however much of a guess is right."""

    def __init__(self, file: Path, report: Callable[[str], None], pace: Pace = DEFAULT_PACE) -> None:
        """Nothing is read before `run`.

        Args:
            file: Read again whenever it is replaced; what was read last stands while it is wrong.
            report: Told why the file is not in force, or of what is unsafe about it; "" when all is well.
            pace: How long is waited.
        """
        self._file: Final = file
        self._report: Final = report
        self._identities: Identities | None = None
        self._unsafe = ""
        self._source: Final = FileSource(file, partial(_read, file), self._take, self._tell, pace)

    async def run(self) -> None:
        """Until cancelled."""
        await self._source.run()

    async def review(self, token: str) -> Verdict:
        refused = malformed(token)
        if refused is not None:
            return refused
        if self._identities is None:
            return Verdict(None, 503, "the file of tokens was not read yet; try again", 0.0)
        identity = self._identities.get(sha256(token.encode()).digest())
        if identity is None:
            return Verdict(None, 401, "the token is none of those that are known here", INVALID_SECONDS)
        return Verdict(identity, 200, "", VALID_SECONDS)

    def _take(self, found: _File) -> None:
        self._identities = found.identities
        remedy = "take that away (chmod o-rwx, or defaultMode: 0440 of a Secret's volume)"
        self._unsafe = f"{self._file}: others than its owner and group may use it; {remedy}" if found.others_may else ""

    def _tell(self, problem: str) -> None:
        self._report(problem or self._unsafe)


def read_tokens(content: bytes) -> Identities:
    """The tokens of a YAML or JSON file, by their SHA-256: a list of them, or one under `tokens`.

    Raises:
        ConfigError: With its problems, of many only the first.
    """
    try:
        root = document.read(content)
    except ConfigError as error:
        where = re.match(r"line \d+: ", str(error))
        problem = "the file is neither YAML nor JSON, or has a key twice; what is there may be a token and is not shown"
        raise ConfigError(f"{where[0] if where else ''}{problem}") from None
    if root.value is None:
        return {}
    if isinstance(root.value, tuple):
        return _listed(root, "tokens")
    _check_keys(root, "the file", _FILE)
    identities: Identities = fields(_FILE, _FILE, root, "").get("identities", {})
    return identities


def _read(file: Path, content: bytes | None) -> _File:
    if content is None:
        raise ConfigError("there is no such file; mount the tokens' Secret there (an empty file has no tokens)")
    try:
        others_may = bool(file.stat().st_mode & S_IRWXO)
    except OSError:
        others_may = False  # replaced just now, and read again soon
    return _File(read_tokens(content), others_may)


def _listed(node: Node, path: str) -> Identities:
    if not isinstance(node.value, tuple):
        raise fail(node, path, "is no list; it must be a list of mappings with token, namespace and serviceAccount")
    found: tuple[tuple[bytes, Identity], ...] = each(node, path, _entry)
    first: dict[bytes, str] = {}
    problems: list[str] = []
    for (item, here), (digest, _) in zip(items(node, path), found, strict=True):
        if digest in first:
            problems.extend(fail(item, here, f"has the same token as {first[digest]}; remove one of them").problems)
        first.setdefault(digest, here)
    if problems:
        raise ConfigError(*problems)
    return dict(found)


def _entry(node: Node, path: str) -> tuple[bytes, Identity]:
    _check_keys(node, path, _TOKEN)
    found = fields(_TOKEN, _FILE, node, path)
    given = [found[name] for name in ("token", "sha256") if name in found]
    if len(given) != 1:
        raise fail(node, path, f"has {len(given)} of token and tokenSHA256; it must have one of the two")
    return given[0], Identity(found["namespace"], found["service_account"])


def _check_keys(node: Node, path: str, table: Table) -> None:
    """Refuse what is no mapping, or has a key that resembles none: it may well be a token."""
    known = alternatives(table.keys)
    if not isinstance(node.value, Mapping):
        raise fail(node, path, f"is no mapping; it must have the keys {known}")
    for name, child in node.value.items():
        if not nearest(name, table.keys, alike=_ALIKE):
            raise fail(child, path, f"has a key that is none of {known}; if it is a token, write `token: ...`")


def _token(node: Node, path: str) -> bytes:
    if not isinstance(node.value, str):
        raise fail(node, path, "is no string; put it in quotes")
    refused = malformed(node.value)
    if refused is not None:
        raise fail(node, path, f"cannot be used: {refused.reason}")
    return sha256(node.value.encode()).digest()


def _token_sha256(node: Node, path: str) -> bytes:
    if not isinstance(node.value, str) or _SHA256.fullmatch(node.value.lower()) is None:
        raise fail(node, path, "is no SHA-256; it must be 64 hexadecimal digits in quotes, as sha256sum writes them")
    return bytes.fromhex(node.value)


def _namespace(node: Node, path: str) -> str:
    name = _service_account(node, path)
    if len(name) > _LONGEST_NAMESPACE or "." in name:
        raise fail(node, path, f"is no namespace's name; it has at most {_LONGEST_NAMESPACE} characters and no '.'")
    return name


def _service_account(node: Node, path: str) -> str:
    if not isinstance(node.value, str) or _NAME.fullmatch(node.value) is None:
        raise fail(node, path, "is no name; it must be lower-case letters, digits and '-', in quotes if only digits")
    return node.value


_TOKEN: Final = Table(
    {
        "token": Key("token", _token),
        "tokenSHA256": Key("sha256", _token_sha256),
        "namespace": Key("namespace", _namespace, nullable=False),
        "serviceAccount": Key("service_account", _service_account, nullable=False),
    },
    required=("namespace", "serviceAccount"),
)
_FILE: Final = Table({"tokens": Key("identities", _listed, table=_TOKEN)})
