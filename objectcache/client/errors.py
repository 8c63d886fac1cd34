"""What can go wrong between a client and the cache."""


class CacheError(Exception):
    """The cache gave no answer that can be used; the text never holds a token."""


class UnreachableError(CacheError):
    """There is no answer, or it broke off."""


class TokenError(CacheError):
    """The token's file cannot be read, or holds no token."""


class RefusedError(CacheError):
    """The cache answered, and not with what was asked for.

    Attributes:
        status: Of the answer.
        retry_seconds: For how long it asks to be left alone; 0 if it does not say.
    """

    def __init__(self, text: str, status: int, retry_seconds: float = 0.0) -> None:
        super().__init__(text)
        self.status = status
        self.retry_seconds = retry_seconds
