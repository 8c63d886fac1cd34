"""CRC-32 of many rows at once."""

import zlib
from functools import cache

import numpy as np
from numpy.typing import NDArray


def crc32_of_rows(rows: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """What zlib.crc32 says of each row.

    CRC is affine over bits: the sum of two messages, byte by byte XOR, has the sum of their checks and that of zeros.
    So each byte adds its own part, by its place and value.
    """
    of_zeros, parts = _parts(rows.shape[1])
    found = np.full(rows.shape[0], of_zeros, np.uint32)
    for place, part in enumerate(parts):
        found ^= part[rows[:, place]]
    return found


@cache
def _parts(length: int) -> tuple[np.uint32, NDArray[np.uint32]]:
    of_zeros = zlib.crc32(bytes(length))
    parts = np.empty((length, 256), np.uint32)
    for place in range(length):
        before, behind = bytes(place), bytes(length - place - 1)
        for value in range(256):
            parts[place, value] = zlib.crc32(before + bytes((value,)) + behind) ^ of_zeros
    return np.uint32(of_zeros), parts
