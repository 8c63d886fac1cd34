"""What can be wrong with a cache's folder."""


class StorageError(Exception):
    """The root of this package's errors."""
