"""The cache as it is shipped, but less patient with its clients: run as a module, with the service's own options."""

import os
import sys
from typing import Final

import msgspec

from objectcache.link import Times
from objectcache.service.__main__ import run
from objectcache.service.settings import read

# Whoever is to be told apart from these is faster than a second or does not end at all.
HASTY: Final = Times(
    head_seconds=1.0, idle_seconds=60.0, progress_seconds=1.0, least_bytes_per_second=2**20, patience_seconds=2.0,
    linger_seconds=1.0,
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(run(msgspec.structs.replace(read(sys.argv[1:], os.environ), times=HASTY)))
