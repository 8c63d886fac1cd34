"""What a request of the distribution API asks for."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs, urlencode

from objectcache.registry.digests import Digest, read_digest
from objectcache.registry.errors import DENIED, DIGEST_INVALID, NAME_INVALID, NAME_UNKNOWN, RegistryError
from tasuki.process.sentences import shown

# OCI distribution spec v1.1, "Pulling manifests". Matched against the path as sent, so that no percent-escape, no dot
# segment and no double slash ever gets through.
_REPOSITORY: Final = re.compile(
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*", re.ASCII
)
_TAG: Final = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", re.ASCII)
_LONGEST_REPOSITORY: Final = 255
_ENDPOINT: Final = re.compile(r"(.+)/(?:(blobs|manifests|referrers)/([^/]+)|tags/(list))", re.ASCII)

# What lists take (the same, "Content discovery"); nothing else goes to the registry.
_QUERY: Final = {"tags": ("n", "last"), "referrers": ("artifactType",)}
_MOST_QUERY_FIELDS: Final = 16


@dataclass(frozen=True, slots=True)
class VersionAsked:
    """Whether this is a registry at all."""


@dataclass(frozen=True, slots=True)
class BlobAsked:
    host: str
    repository: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class ManifestAsked:
    host: str
    repository: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class TagAsked:
    host: str
    repository: str
    tag: str


@dataclass(frozen=True, slots=True)
class ListAsked:
    """A list that is never stored.

    Attributes:
        kind: `tags` or `referrers`.
        path: Below the repository.
        query: Encoded; empty for none.
    """

    host: str
    repository: str
    kind: str
    path: str
    query: str


Asked = VersionAsked | BlobAsked | ManifestAsked | TagAsked | ListAsked


def read_asked(path: str, query: str, hosts: Collection[str]) -> Asked:
    """What a request asks for.

    Args:
        path: As sent, without a percent-escape undone.
        query: As sent.
        hosts: Of the upstreams; nothing else is ever asked.

    Raises:
        RegistryError: For no endpoint, a name that is none, or a host that is not among them.
    """
    if path in {"/v2", "/v2/"}:
        return VersionAsked()
    if not path.startswith("/v2/"):
        raise RegistryError(404, NAME_UNKNOWN, "there is nothing here; the registry's API begins at /v2/")
    given = _query(query)
    host, rest = _host(path.removeprefix("/v2/"), given.get("ns", []), hosts)
    match = _ENDPOINT.fullmatch(rest)
    if match is None:
        text = f"{shown(path)} is no endpoint; blobs, manifests, referrers and tags/list of a repository are"
        raise RegistryError(404, NAME_UNKNOWN, text)
    repository, kind, reference = match[1], match[2], match[3]
    if len(repository) > _LONGEST_REPOSITORY or not _REPOSITORY.fullmatch(repository):
        raise RegistryError(400, NAME_INVALID, f"{shown(repository)} is no repository's name")
    if match[4]:
        return ListAsked(host, repository, "tags", "tags/list", _passed(given, "tags"))
    if kind == "manifests" and ":" not in reference:
        if not _TAG.fullmatch(reference):
            raise RegistryError(400, NAME_INVALID, f"{shown(reference)} is neither a tag nor a digest")
        return TagAsked(host, repository, reference)
    try:
        digest = read_digest(reference)
    except ValueError as error:
        raise RegistryError(400, DIGEST_INVALID, str(error)) from None
    if kind == "referrers":
        return ListAsked(host, repository, "referrers", f"referrers/{digest}", _passed(given, "referrers"))
    return (BlobAsked if kind == "blobs" else ManifestAsked)(host, repository, digest)


def _query(query: str) -> dict[str, list[str]]:
    try:
        return parse_qs(query, keep_blank_values=True, max_num_fields=_MOST_QUERY_FIELDS, errors="strict")
    except ValueError:
        raise RegistryError(400, NAME_INVALID, "the query cannot be read; send ns=HOST") from None


def _host(rest: str, named: list[str], hosts: Collection[str]) -> tuple[str, str]:
    """The upstream, and what is below it.

    containerd names it by `ns`; CRI-O has no such parameter, so that there the path begins with it.
    """
    if len(named) > 1:
        raise RegistryError(400, NAME_INVALID, f"ns is given {len(named)} times; name one registry")
    first, _, below = rest.partition("/")
    host = named[0].lower() if named else first.lower()
    if host in hosts:
        return host, rest if named else below
    if named:
        text = f"ns is {shown(named[0])}, which is not among the upstreams; add it to the mirror's configuration"
        raise RegistryError(403, DENIED, text)
    text = f"which registry is meant? Send ns=HOST, or begin the repository with one of: {', '.join(sorted(hosts))}"
    raise RegistryError(404, NAME_UNKNOWN, text)


def _passed(given: dict[str, list[str]], kind: str) -> str:
    return urlencode([(name, value) for name in _QUERY[kind] for value in given.get(name, [])])


def next_link(link: str, asked: ListAsked) -> str:
    """The `Link` of a page that was passed on, leading to this mirror; empty if there is none.

    Only the query is taken over: the registry's own path and host are not those that the client knows.
    """
    match = re.fullmatch(r'<[^<>?]*\?([^<>#]*)>\s*;\s*rel="?next"?', link.strip())
    if match is None:
        return ""
    try:
        passed = _passed(_query(match[1]), asked.kind)
    except RegistryError:
        return ""
    fields = f"{passed}&{urlencode({'ns': asked.host})}".lstrip("&")
    return f'</v2/{asked.repository}/{asked.path}?{fields}>; rel="next"'
