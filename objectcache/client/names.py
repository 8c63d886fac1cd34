"""How an object is called: one spelling a name, so that whoever asks for the same thing gets the same bytes."""

from urllib.parse import quote

# Of RFC 3986 everything that a path may contain as it is. pfio sends names raw, so that a name of these characters is
# the same from both; `%`, `?`, `#`, spaces and bytes beyond ASCII are escaped here only.
_PLAIN = "/:@!$&'()*+,;=-._~"


def escaped(name: str | bytes) -> str:
    """The name as it stands in a request: UTF-8, `%` and two capital hexadecimal digits for what is not plain.

    Nothing is normalised: `a//b`, `a/./b` and `a/b` are three names. A file's name that is no UTF-8 keeps its bytes.

    Raises:
        ValueError: There is no name.
    """
    if not name:
        raise ValueError("an object's name is empty; give at least one character")
    return quote(name.encode(errors="surrogateescape") if isinstance(name, str) else name, safe=_PLAIN)


def routing_key(bucket: str, escaped_name: str) -> str:
    """What Envoy hashes of a request: all behind `/v1/objects/`, without a query, which an escaped name never has."""
    return f"{bucket}/{escaped_name}"
