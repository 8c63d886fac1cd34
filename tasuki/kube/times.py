"""Times as objects of the API server have them."""

from datetime import UTC, datetime


def read_time(text: str) -> datetime | None:
    """Of RFC 3339, in UTC where it names no zone; None for what is no time."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
