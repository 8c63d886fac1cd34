"""`tasuki xds bootstrap`: prints what an Envoy is started with; read `document` first."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import PurePosixPath
from typing import Any, Final

import yaml

from objectcache.xds.snapshot import CLUSTER
from tasuki.process.options import address, arguments

_XDS_CLUSTER: Final = "tasuki-xds"
_ADMIN_CLUSTER: Final = "admin"
_UPSTREAM: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_TYPE: Final = "type.googleapis.com/"
# Connections from a node's pods, far below what a process may open.
_MOST_CONNECTIONS: Final = 50_000


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """What an Envoy must know before it asks.

    Attributes:
        xds: By default the Service of Envoy's own namespace, whichever that is.
        node: Empty to be given by `--service-node`.
        zone: Empty to let the control plane look the node up.
        admin: Host and port of Envoy's own interface, which can stop it: loopback only.
        operator: Where /ready and /stats/prometheus of it are shown, and nothing else; None for nowhere.
        variant: `delta` or `sotw`.
        authority: File with the certificates of those who may be the control plane; None for no TLS.
        certificate, key: Files that are shown to it; None to show none.
    """

    xds: tuple[str, int] = ("tasuki-xds", 9447)
    node: str = ""
    zone: str = ""
    admin: tuple[str, int] = ("127.0.0.1", 9901)
    operator: tuple[str, int] | None = ("::", 9428)
    variant: str = "delta"
    authority: PurePosixPath | None = None
    certificate: PurePosixPath | None = None
    key: PurePosixPath | None = None


def document(made: Bootstrap) -> dict[str, Any]:
    """Envoy's bootstrap, as YAML has it."""
    node: dict[str, Any] = {"cluster": CLUSTER}
    if made.node:
        node["id"] = made.node
    if made.zone:
        node["locality"] = {"zone": made.zone}
    ads = {"ads": {}, "resource_api_version": "V3"}
    return {
        "node": node,
        "admin": {"address": _socket(made.admin)},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC" if made.variant == "delta" else "GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [{"envoy_grpc": {"cluster_name": _XDS_CLUSTER}}],
            },
            "cds_config": ads,
            "lds_config": ads,
        },
        "static_resources": {
            "clusters": [_xds_cluster(made), *([_admin_cluster(made)] if made.operator else [])],
            "listeners": [_operator_listener(made.operator)] if made.operator else [],
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": f"{_TYPE}envoy.extensions.resource_monitors.downstream_connections.v3."
                        "DownstreamConnectionsConfig",
                        "max_active_downstream_connections": _MOST_CONNECTIONS,
                    },
                }
            ]
        },
    }


def text(made: Bootstrap) -> str:
    """The document as YAML."""
    return yaml.dump(document(made), Dumper=_Dumper, sort_keys=False)


class _Dumper(yaml.SafeDumper):
    """Quotes the words that Envoy's reader, and not PyYAML, takes for booleans: a node may be named `n`."""


def _text(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style='"' if value in {*"yYnN"} else None)


_Dumper.add_representer(str, _text)


def _xds_cluster(made: Bootstrap) -> dict[str, Any]:
    found = {
        "name": _XDS_CLUSTER,
        "connect_timeout": "5s",
        **_whereabouts(_XDS_CLUSTER, made.xds),
        "typed_extension_protocol_options": {
            _UPSTREAM: {
                "@type": f"{_TYPE}{_UPSTREAM}",
                "explicit_http_config": {
                    # A control plane that is gone without a word is noticed within 15 seconds.
                    "http2_protocol_options": {"connection_keepalive": {"interval": "10s", "timeout": "5s"}}
                },
            }
        },
    }
    if made.authority is not None:
        found["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": f"{_TYPE}envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "sni": made.xds[0],
                "common_tls_context": _certificates(made),
            },
        }
    return found


def _certificates(made: Bootstrap) -> dict[str, Any]:
    # Names the folder as well, so that certificates which are renewed there are taken up without a restart.
    kind = "IP_ADDRESS" if _is_ip(made.xds[0]) else "DNS"
    found: dict[str, Any] = {
        "validation_context": {
            "trusted_ca": {"filename": str(made.authority)},
            "match_typed_subject_alt_names": [{"san_type": kind, "matcher": {"exact": made.xds[0]}}],
        }
    }
    if made.certificate is not None:
        found["tls_certificates"] = [
            {
                "certificate_chain": {"filename": str(made.certificate)},
                "private_key": {"filename": str(made.key)},
                "watched_directory": {"path": str(made.certificate.parent)},
            }
        ]
    return found


def _admin_cluster(made: Bootstrap) -> dict[str, Any]:
    return {"name": _ADMIN_CLUSTER, "connect_timeout": "1s", **_whereabouts(_ADMIN_CLUSTER, made.admin)}


def _operator_listener(where: tuple[str, int]) -> dict[str, Any]:
    """For the kubelet and Prometheus; the rest of the admin interface stays on loopback."""
    routes = [
        {"match": {"path": path}, "route": {"cluster": _ADMIN_CLUSTER}} for path in ("/ready", "/stats/prometheus")
    ]
    manager = {
        "@type": f"{_TYPE}envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "operator",
        "route_config": {
            "name": "operator",
            "virtual_hosts": [{"name": "operator", "domains": ["*"], "routes": routes}],
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPE}envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    return {
        "name": "operator",
        "address": _socket(where),
        # Also while Envoy has too many connections: it is then that one wants to look.
        "ignore_global_conn_limit": True,
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }


def _whereabouts(name: str, where: tuple[str, int]) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": _socket(where)}}
    return {
        "type": "STATIC" if _is_ip(where[0]) else "STRICT_DNS",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _socket(where: tuple[str, int]) -> dict[str, Any]:
    host, port = where
    both: Mapping[str, Any] = {"ipv4_compat": True} if host == "::" else {}
    return {"socket_address": {"address": host, "port_value": port, **both}}


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def main(argv: Sequence[str]) -> int:
    """Print it; 2 is a bad argument."""
    default = Bootstrap()
    parser = argparse.ArgumentParser(
        prog="tasuki xds bootstrap",
        description="Print the bootstrap of an Envoy beside which objects are cached.",
        allow_abbrev=False,
    )
    xds = f"{default.xds[0]}:{default.xds[1]}"
    parser.add_argument("--xds", metavar="HOST:PORT", help=f"where the control plane is ({xds})")
    parser.add_argument("--node", metavar="NAME", help="Envoy's node; default: as its --service-node says")
    parser.add_argument("--zone", metavar="ZONE", help="of the node; default: the control plane looks the node up")
    parser.add_argument("--admin", metavar="HOST:PORT", help="where Envoy's own interface listens (127.0.0.1:9901)")
    parser.add_argument(
        "--operator", metavar="HOST:PORT",
        help="where its /ready and /stats/prometheus are shown; empty: nowhere (every address, port 9428)",
    )  # fmt: skip
    parser.add_argument("--variant", choices=("delta", "sotw"), help="of the protocol (delta)")
    parser.add_argument("--ca", metavar="FILE", help="authorities of the control plane's certificate; default: no TLS")
    parser.add_argument("--certificate", metavar="FILE", help="to show to the control plane; default: none")
    parser.add_argument("--key", metavar="FILE", help="of the certificate")
    given = arguments(parser, argv)
    try:
        made = _read(given)
    except ValueError as error:
        parser.error(str(error))
    sys.stdout.write(text(made))
    return 0


def _read(given: Mapping[str, str]) -> Bootstrap:
    default = Bootstrap()
    if ("certificate" in given) != ("key" in given):
        raise ValueError("--certificate and --key belong together; give both or none")
    if "certificate" in given and "ca" not in given:
        raise ValueError("--certificate is for TLS; give --ca too")

    def at(name: str, otherwise: tuple[str, int]) -> tuple[str, int]:
        if name not in given:
            return otherwise
        try:
            return address("9447", "", "::")(given[name])
        except ValueError as error:
            raise ValueError(f"--{name} is {given[name]!r}; it must be {error}") from None

    def file(name: str) -> PurePosixPath | None:
        return PurePosixPath(given[name]) if name in given else None

    assert default.operator is not None
    return Bootstrap(
        xds=at("xds", default.xds),
        node=given.get("node", ""),
        zone=given.get("zone", ""),
        admin=at("admin", default.admin),
        operator=None if given.get("operator") == "" else at("operator", default.operator),
        variant=given.get("variant", default.variant),
        authority=file("ca"),
        certificate=file("certificate"),
        key=file("key"),
    )
