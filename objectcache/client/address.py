"""Where a bucket is, read once from a URL."""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode, urlsplit

from objectcache.client.names import escaped
from tasuki.kube.names import CACHE_BUCKET_PATTERN
from tasuki.process.sentences import shown

_OBJECTS: Final = "/v1/objects"
_BUCKET: Final = re.compile(CACHE_BUCKET_PATTERN)
_PORTS: Final = {"http": 80, "https": 443}


class AddressError(ValueError):
    """The URL or the bucket's name cannot be one."""


@dataclass(frozen=True, slots=True)
class BucketAddress:
    """One bucket of one cache.

    Attributes:
        host: Without brackets, as sockets take it.
        path: Of the bucket, without a slash at its end.
    """

    is_tls: bool
    host: str
    port: int
    path: str
    bucket: str

    @property
    def base_url(self) -> str:
        """Scheme, host and port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.is_tls else 'http'}://{host}:{self.port}"

    def object_target(self, name: str | bytes) -> str:
        return f"{self.path}/{escaped(name)}"

    def list_target(self, prefix: str | bytes, after: str | bytes, limit: int) -> str:
        query: dict[str, str | bytes] = {"prefix": prefix, "after": after, "limit": str(limit)}
        return f"{self.path}?{urlencode({name: value for name, value in query.items() if value})}"


def bucket_address(url: str, bucket: str) -> BucketAddress:
    """Read both.

    Args:
        url: The cache's, with or without `/v1/objects` at its end.
        bucket: Its name.

    Raises:
        AddressError: Naming what is wrong, and what it must be. It shows no password that is in the URL.
    """
    example = "it must be such as http://cache.tasuki-system:8080"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise AddressError(f"the cache's URL cannot be read ({error}); {example}") from None
    if "@" in parts.netloc:
        raise AddressError(f"the cache's URL holds a user or a password; give the token's file instead, and {example}")
    if parts.scheme not in _PORTS or not parts.hostname or parts.query or parts.fragment:
        raise AddressError(f"the cache's URL is {shown(url)}; {example}")
    if re.search(r"[\x00-\x20\x7f]|[^\x00-\x7f]", url):
        raise AddressError(f"the cache's URL {shown(url)} has characters that no URL has; {example}")
    if _BUCKET.fullmatch(bucket) is None:
        raise AddressError(
            f"the bucket is {shown(bucket)}; it must be 1 to 63 lower-case letters, digits, '-' and '.', and begin and "
            "end with a letter or digit"
        )
    path = parts.path.rstrip("/")
    objects = path if path.endswith(_OBJECTS) else path + _OBJECTS
    port = _PORTS[parts.scheme] if port is None else port
    return BucketAddress(parts.scheme == "https", parts.hostname, port, f"{objects}/{bucket}", bucket)
