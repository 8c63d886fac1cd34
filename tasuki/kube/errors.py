"""What can go wrong between us and the Kubernetes API, told apart by what a caller does about it."""

from typing import Final


class KubeConfigError(Exception):
    """There is a way to the API server configured, and it cannot be used."""


class KubeError(Exception):
    """A request that was not answered with what was asked for.

    Attributes:
        status: The HTTP status; 0 if there was no answer at all.
        reason: Kubernetes' word for it (`NotFound`, `AlreadyExists`); empty if the answer had none.
        retry_after_seconds: How long the server asks to be left alone; 0 if it does not.
        message: What the server itself said, or the beginning of it; empty if there was no answer.
    """

    def __init__(
        self, text: str, status: int = 0, reason: str = "", retry_after_seconds: float = 0.0, message: str = ""
    ) -> None:
        super().__init__(text)
        self.status = status
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds
        self.message = message


class UnavailableError(KubeError):
    """No answer, or one that says to come back later."""


class ForbiddenError(KubeError):
    """We are not who may do this: 401 and 403."""


class NotFoundError(KubeError):
    """Neither the object nor, perhaps, its kind is there."""


class ConflictError(KubeError):
    """Somebody else was faster: it exists already, or has changed since."""


class GoneError(KubeError):
    """The resource version is too old to be watched from."""


class InvalidError(KubeError):
    """The server understood, and refuses; sending it again will not help."""


_BY_STATUS: Final[dict[int, type[KubeError]]] = {
    400: InvalidError,
    401: ForbiddenError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
    413: InvalidError,
    415: InvalidError,
    422: InvalidError,
}


def error_type(status: int) -> type[KubeError]:
    """Which error an HTTP status is; whatever is not known to be final may be tried again."""
    return _BY_STATUS.get(status, UnavailableError)
