"""The Python client of the cache."""
