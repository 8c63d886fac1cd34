"""A cache that puts, replaces and removes objects until it is killed; run with a folder.

Prints after each commit which objects are there from then on for sure, and which are not: `+id` and `-id`.
"""

import sys
from pathlib import Path

from tests.objectcache.storage.builders import a_row, put, started, write_incoming

GROUP = 7


def main(path: Path) -> None:
    folder, recovered = started(path)
    catalogue = recovered.catalogue
    bucket = catalogue.number_of("bk")
    kept: list[int] = []
    while True:
        added: list[int] = []
        removed = kept[:3]
        with catalogue.changes():
            for object_id in catalogue.take_ids(GROUP):
                if object_id % GROUP == 0:
                    write_incoming(folder, object_id, 100)  # A client that went away: never committed.
                else:
                    put(folder, catalogue, a_row(object_id, bucket=bucket, size=object_id % 300))
                    added.append(object_id)
            catalogue.delete(removed)
        folder.remove(removed)
        kept = kept[3:] + added
        print(*(f"+{each}" for each in added), *(f"-{each}" for each in removed), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
