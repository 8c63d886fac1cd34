"""Reads an index while another process writes it; run with a descriptor, rounds, and how many keys are always there.

Goes on beyond these rounds until it has seen so many objects that both did run at once. Ends with 1 if it ever saw an
object that never was, or missed one that always was.
"""

import itertools
import sys
from typing import Final

from objectcache.storage import index
from objectcache.storage.index import Entry, IndexReader
from objectcache.storage.keys import Key

LEAST_SEEN: Final = 1000


def key_of(number: int) -> Key:
    """Of few home slots, so that probes are long."""
    return number + 1, number % 8 + number // 8 * 1024


def checksum_of(object_id: int) -> bytes:
    return (object_id * 0x9E3779B97F4A7C15 % 2**64).to_bytes(8, "big") * 2


def is_sound(entry: Entry, number: int) -> bool:
    object_id = entry.object_id
    return (
        object_id % 32 == number
        and entry.size == object_id * 0x10001
        and entry.checksum == checksum_of(object_id)
        and entry.bucket == object_id % 2**32
        and entry.flags == object_id % 5
    )


def main(fd: int, rounds: int, lasting: int) -> int:
    # A slot whose writer sleeps in the middle is a miss after a while. Here it is waited for, however long it sleeps.
    vars(index)["_MOST_READS"] = sys.maxsize
    reader = IndexReader.open(fd)
    seen: set[int] = set()
    for done in itertools.count():
        if done >= rounds and len(seen) > LEAST_SEEN:
            break
        for number in range(32):
            entry = reader.find(key_of(number))
            if entry is None:
                if number < lasting:
                    print(f"missed {number}")
                    return 1
            elif not is_sound(entry, number):
                print(f"saw {entry} under {number}")
                return 1
            else:
                seen.add(entry.object_id)
                reader.touch(entry.slot, entry.object_id % 2**32)
    print(len(seen))
    reader.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
