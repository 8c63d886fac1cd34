"""`tasuki <service>`: the one command of the one image; read `SERVICES` first."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Final

from tasuki import __version__

# Each service's `main(argv)` parses its own flags; nothing is imported before it is asked for.
SERVICES: Final = {
    "deviceplugin": ("deviceplugin.__main__", "serve this node's accelerators to its kubelet"),
    "webhooks": ("webhooks.__main__", "admit pods: give them what accelerators, caches and modules take"),
    "schedext": ("schedext.__main__", "tell kube-scheduler where accelerators have room, and bind pods to them"),
    "cache": ("objectcache.__main__", "keep the data that pods read on this node's disk; `cache warm` fills it"),
    "xds": ("objectcache.xds.__main__", "tell every Envoy which caches there are"),
    "registry": ("objectcache.registry.__main__", "mirror container registries through the cache"),
    "explain": ("schedext.explain_client", "say why a pod goes where it goes"),
    "sandbox": ("tasuki.sandbox.__main__", "run pods on simulated or real accelerators without a cluster"),
}


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    width = max(map(len, SERVICES))
    parser = argparse.ArgumentParser(
        prog="tasuki",
        description="Share, chain and feed the accelerators of a Kubernetes cluster.",
        epilog="services:\n" + "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in SERVICES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tasuki {__version__}")
    parser.add_argument("service", choices=SERVICES, metavar="service", help="which one to start")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its own; see `tasuki <service> --help`")
    if not arguments:
        parser.print_help(sys.stderr)
        return 2
    chosen = parser.parse_args(arguments[:1])
    module = importlib.import_module(SERVICES[chosen.service][0])
    status: int = module.main(arguments[1:])
    return status


if __name__ == "__main__":
    sys.exit(main())
