# ruff: noqa: INP001 - an example, not a package
"""Read a data set through the object cache, in a pod with the annotation `tasuki.dev/cache: <bucket>`.

The webhook sets TASUKI_CACHE_URL, TASUKI_CACHE_BUCKET and the path of a token, so nothing is configured here. Elsewhere
set the three yourself, see docs/cache-client.md.

    python client.py s3://my-data/train
"""

import sys

import fsspec


def main(url: str) -> None:
    cached, folder = fsspec.url_to_fs(f"tasukicache::{url}")
    for path in sorted(cached.find(folder)):
        with cached.open(path) as file:
            beginning = file.read(16)
        sys.stdout.write(f"{path} begins with {beginning!r}\n")
    sys.stdout.write(f"{cached.counts}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
