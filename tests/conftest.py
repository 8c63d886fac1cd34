"""What a test finds is the same wherever and whenever it runs: the examples of properties, and room for sockets."""

import os
import tempfile
from typing import Final

from hypothesis import HealthCheck, settings

# A machine that is busy is slower than any deadline, and an example that nobody has seen fails at whoever runs it next.
# `--hypothesis-profile=search` looks for such ones.
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("same", settings.get_profile("search"), derandomize=True, database=None)
settings.load_profile("same")

# A socket's path has 107 bytes at most (unix(7)), and what pytest and the tests add takes up to 97.
_MOST_BYTES: Final = 10

if len(os.fsencode(tempfile.gettempdir())) > _MOST_BYTES:
    os.environ["TMPDIR"] = tempfile.tempdir = "/tmp"
