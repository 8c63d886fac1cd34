"""`tasuki cache`: the service, or with `warm` the command that fills it beforehand."""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Run what is asked for; its exit status."""
    if argv[:1] == ["warm"]:
        from objectcache.client import warm  # noqa: PLC0415 - the service needs none of it

        return warm.main(argv[1:])
    from objectcache.service import __main__ as service  # noqa: PLC0415 - as above

    return service.main(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
