"""Bytes of HTTP to values and back; no I/O."""
