"""What a client of the mirror is told instead of an image, as the distribution specification writes it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})

# OCI distribution spec, "Error Codes"; UNAVAILABLE is of the reference implementation.
BLOB_UNKNOWN: Final = "BLOB_UNKNOWN"
MANIFEST_UNKNOWN: Final = "MANIFEST_UNKNOWN"
NAME_UNKNOWN: Final = "NAME_UNKNOWN"
NAME_INVALID: Final = "NAME_INVALID"
DIGEST_INVALID: Final = "DIGEST_INVALID"
DENIED: Final = "DENIED"
UNSUPPORTED: Final = "UNSUPPORTED"
TOO_MANY_REQUESTS: Final = "TOOMANYREQUESTS"
UNAVAILABLE: Final = "UNAVAILABLE"


class RegistryError(Exception):
    """An answer that is no image.

    Attributes:
        code: The specification's word.
        headers: That go with it.
    """

    def __init__(self, status: int, code: str, text: str, headers: Mapping[str, str] = NO_HEADERS) -> None:
        super().__init__(text)
        self.status = status
        self.code = code
        self.headers = headers

    def body(self) -> bytes:
        return msgspec.json.encode({"errors": [{"code": self.code, "message": str(self), "detail": None}]})

    @property
    def says_gone(self) -> bool:
        """Whether the registry was reached and denies it, so that what is remembered must not be served."""
        return self.status in {400, 401, 403, 404}


class DigestMismatchError(RegistryError):
    """The registry sent something else than what was asked for."""


def unavailable(status: int, text: str, headers: Mapping[str, str] = NO_HEADERS) -> RegistryError:
    return RegistryError(status, UNAVAILABLE, text, headers)
