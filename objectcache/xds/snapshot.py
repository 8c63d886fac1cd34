"""What Envoys are told, made of the members; read `Catalogue` first."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final, Literal

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.cluster.v3 import circuit_breaker_pb2, cluster_pb2
from envoy.config.common.mutation_rules.v3 import mutation_rules_pb2
from envoy.config.core.v3 import (
    address_pb2,
    base_pb2,
    config_source_pb2,
    extension_pb2,
    health_check_pb2,
    protocol_pb2,
)
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.access_loggers.stream.v3 import stream_pb2
from envoy.extensions.filters.http.health_check.v3 import health_check_pb2 as health_check_filter_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as manager_pb2
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import header_mutation_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from envoy.type.matcher.v3 import regex_pb2, string_pb2
from google.protobuf import any_pb2, duration_pb2, struct_pb2, wrappers_pb2

from objectcache.xds.member import Member
from tasuki.routing.maglev import DEFAULT_TABLE_SIZE

AccessLog = Literal["off", "errors", "all"]

_PREFIX: Final = "type.googleapis.com/"
CLUSTERS: Final = f"{_PREFIX}envoy.config.cluster.v3.Cluster"
ENDPOINTS: Final = f"{_PREFIX}envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENERS: Final = f"{_PREFIX}envoy.config.listener.v3.Listener"
ROUTES: Final = f"{_PREFIX}envoy.config.route.v3.RouteConfiguration"

# In which it is made, and unmade from the end: whatever refers to something comes after it
# (https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#eventual-consistency-considerations).
ORDER: Final = (CLUSTERS, ENDPOINTS, LISTENERS, ROUTES)

CLUSTER: Final = "tasuki-cache"
LISTENER: Final = "tasuki-objects"
ROUTE: Final = "tasuki-objects"
OBJECTS_PATH: Final = "/v1/objects/"
READY_PATH: Final = "/ready"

# The object's name behind the prefix, without the query.
_HASHED: Final = r"^/v1/objects/([^?]*)(\?.*)?$"

_KIB: Final = 1024
_BUFFER_BYTES: Final = 1024 * _KIB
# A bound token has one or two KiB; caches take 16 KiB of one.
_MOST_HEADERS_KIB: Final = 64
# Envoy's own is 1,024, which a training job of one node exceeds; the caches have limits of their own.
_UNLIMITED: Final = 1_000_000
# A node that is gone answers nothing. All attempts together must end before clients give up, pfio after 3 seconds, and
# read from the origin; a cache that is there answers within a round trip.
_CONNECT_SECONDS: Final = 0.5
_RETRIES: Final = 2
_HEADERS_SECONDS: Final = 10.0
_CLIENT_IDLE_SECONDS: Final = 900.0
# Less than caches keep an idle connection, so that no request goes out on one that is just being closed.
_CACHE_IDLE_SECONDS: Final = 30.0
# A zone is used while one of its caches is: Envoy's 140 would send some keys to another zone as soon as 29 % of the
# hosts drain (https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/load_balancing/priority).
_OVERPROVISIONING_PERCENT: Final = 10_000_000
# Envoy's own bound (api/envoy/config/endpoint/v3/endpoint_components.proto); it refuses all endpoints beyond.
_LAST_PRIORITY: Final = 128


@dataclass(frozen=True, slots=True)
class Options:
    """What does not depend on members.

    Attributes:
        listen: Where Envoys take requests; `::` takes IPv4 too.
        idle_seconds: After which a request without progress in either direction is given up.
    """

    listen: tuple[str, int] = ("::", 8080)
    access_log: AccessLog = "off"
    idle_seconds: float = 300.0
    table_size: int = DEFAULT_TABLE_SIZE


@dataclass(frozen=True, slots=True)
class Resource:
    """One object of xDS.

    Attributes:
        version: Of its content: equal for equal bytes.
        body: Encoded, without its type.
    """

    name: str
    version: str
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What an Envoy of one zone is told: by type, by name."""

    resources: Mapping[str, Mapping[str, Resource]]

    def of(self, type_url: str) -> Mapping[str, Resource]:
        return self.resources.get(type_url, {})


class Catalogue:
    """Snapshots of one state of the members: one a zone, made when first asked for.

    Args:
        members: In any order.
        zones: By node, of all nodes that may have an Envoy.
        fixed: As `fixed_resources` makes them.
    """

    def __init__(
        self, members: Iterable[Member], zones: Mapping[str, str], fixed: Mapping[str, Mapping[str, Resource]]
    ) -> None:
        self.members: Final = tuple(sorted(members))
        self._zones: Final = zones
        self._fixed: Final = fixed
        self._with_members: Final = frozenset(member.zone for member in self.members)
        self._made: Final[dict[str, Snapshot]] = {}

    def zone_of(self, node: str, said: str = "") -> str:
        """An Envoy's zone: what its bootstrap says, else its node's; empty if nobody knows."""
        return said or self._zones.get(node, "")

    def snapshot(self, zone: str) -> Snapshot:
        """For an Envoy of that zone; zones without a cache share one."""
        key = zone if zone in self._with_members else ""
        if key not in self._made:
            found = endpoints(self.members, key)
            self._made[key] = Snapshot({**self._fixed, ENDPOINTS: {found.name: found}})
        return self._made[key]


def fixed_resources(options: Options) -> Mapping[str, Mapping[str, Resource]]:
    """What all Envoys share: the cluster, the listener, the routes."""
    made = {CLUSTERS: _cluster(options), LISTENERS: _listener(options), ROUTES: _routes(options)}
    return {type_url: {message.name: _resource(message.name, message)} for type_url, message in made.items()}


def endpoints(members: Sequence[Member], zone: str) -> Resource:
    """The caches as an Envoy of `zone` uses them.

    Its own zone's, then the others' by name, each only if all before it have none that serves; of very many zones the
    last ones together. Same members, same bytes, whatever their order.
    """
    zones: defaultdict[str, list[Member]] = defaultdict(list)
    for member in sorted(members):
        zones[member.zone].append(member)
    # Priorities must begin at 0 and skip none.
    order = sorted(zones, key=lambda name: (name != zone, name))
    message = endpoint_pb2.ClusterLoadAssignment(
        cluster_name=CLUSTER,
        policy=endpoint_pb2.ClusterLoadAssignment.Policy(
            overprovisioning_factor=wrappers_pb2.UInt32Value(value=_OVERPROVISIONING_PERCENT)
        ),
        endpoints=[
            endpoint_components_pb2.LocalityLbEndpoints(
                locality=base_pb2.Locality(zone=name),
                priority=min(priority, _LAST_PRIORITY),
                lb_endpoints=[_endpoint(member) for member in zones[name]],
            )
            for priority, name in enumerate(order)
        ],
    )
    return _resource(CLUSTER, message)


def _endpoint(member: Member) -> Any:
    hash_key = struct_pb2.Struct(fields={"hash_key": struct_pb2.Value(string_value=member.node)})
    return endpoint_components_pb2.LbEndpoint(
        endpoint=endpoint_components_pb2.Endpoint(address=_address(member.address, member.port)),
        health_status=health_check_pb2.DRAINING if member.leaving else health_check_pb2.HEALTHY,
        load_balancing_weight=wrappers_pb2.UInt32Value(value=member.weight),
        metadata=base_pb2.Metadata(filter_metadata={"envoy.lb": hash_key}),
    )


def _cluster(options: Options) -> Any:
    protocol = http_protocol_options_pb2.HttpProtocolOptions(
        explicit_http_config=http_protocol_options_pb2.HttpProtocolOptions.ExplicitHttpConfig(
            http_protocol_options=protocol_pb2.Http1ProtocolOptions()
        ),
        common_http_protocol_options=protocol_pb2.HttpProtocolOptions(idle_timeout=_duration(_CACHE_IDLE_SECONDS)),
    )
    limit = wrappers_pb2.UInt32Value(value=_UNLIMITED)
    common = cluster_pb2.Cluster.CommonLbConfig(
        # Envoy would hold a change of health back for a second; we gather changes ourselves.
        update_merge_window=duration_pb2.Duration(),
    )
    # Below Envoy's 50 % of healthy hosts, dead ones would own keys again.
    common.healthy_panic_threshold.value = 0.0
    common.healthy_panic_threshold.SetInParent()
    return cluster_pb2.Cluster(
        name=CLUSTER,
        type=cluster_pb2.Cluster.EDS,
        eds_cluster_config=cluster_pb2.Cluster.EdsClusterConfig(eds_config=_from_ads()),
        connect_timeout=_duration(_CONNECT_SECONDS),
        lb_policy=cluster_pb2.Cluster.MAGLEV,
        maglev_lb_config=cluster_pb2.Cluster.MaglevLbConfig(
            table_size=wrappers_pb2.UInt64Value(value=options.table_size)
        ),
        common_lb_config=common,
        circuit_breakers=circuit_breaker_pb2.CircuitBreakers(
            thresholds=[
                circuit_breaker_pb2.CircuitBreakers.Thresholds(
                    max_connections=limit, max_pending_requests=limit, max_requests=limit, max_retries=limit
                )
            ]
        ),
        per_connection_buffer_limit_bytes=wrappers_pb2.UInt32Value(value=_BUFFER_BYTES),
        upstream_connection_options=cluster_pb2.UpstreamConnectionOptions(
            tcp_keepalive=address_pb2.TcpKeepalive(
                keepalive_probes=wrappers_pb2.UInt32Value(value=3),
                keepalive_time=wrappers_pb2.UInt32Value(value=20),
                keepalive_interval=wrappers_pb2.UInt32Value(value=5),
            )
        ),
        typed_extension_protocol_options={"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": _packed(protocol)},
    )


def _listener(options: Options) -> Any:
    ready = health_check_filter_pb2.HealthCheck(
        pass_through_mode=wrappers_pb2.BoolValue(value=False),
        headers=[
            route_components_pb2.HeaderMatcher(name=":path", string_match=string_pb2.StringMatcher(exact=READY_PATH))
        ],
    )
    filters = [
        manager_pb2.HttpFilter(name="envoy.filters.http.health_check", typed_config=_packed(ready)),
        manager_pb2.HttpFilter(
            name="envoy.filters.http.router", typed_config=_packed(router_pb2.Router(suppress_envoy_headers=True))
        ),
    ]
    of_envoys = string_pb2.StringMatcher(prefix="x-envoy-", ignore_case=True)
    strangers = header_mutation_pb2.HeaderMutation(
        mutations=[
            mutation_rules_pb2.HeaderMutation(
                remove_on_match=mutation_rules_pb2.HeaderMutation.RemoveOnMatch(key_matcher=of_envoys)
            )
        ]
    )
    manager = manager_pb2.HttpConnectionManager(
        stat_prefix="objects",
        rds=manager_pb2.Rds(route_config_name=ROUTE, config_source=_from_ads()),
        http_filters=filters,
        # An object's name has `//` and `..` of its own, and must reach its cache as it was sent.
        normalize_path=wrappers_pb2.BoolValue(value=False),
        merge_slashes=False,
        path_with_escaped_slashes_action=manager_pb2.HttpConnectionManager.KEEP_UNCHANGED,
        max_request_headers_kb=wrappers_pb2.UInt32Value(value=_MOST_HEADERS_KIB),
        stream_idle_timeout=_duration(options.idle_seconds),
        request_headers_timeout=_duration(_HEADERS_SECONDS),
        common_http_protocol_options=protocol_pb2.HttpProtocolOptions(idle_timeout=_duration(_CLIENT_IDLE_SECONDS)),
        # The cache refuses a body that it has no room for before it is sent.
        proxy_100_continue=True,
        # Nobody may set timeouts or retries by x-envoy-* headers: all clients are strangers. Envoy 1.40 takes the
        # timeout even of those that it knows to be.
        early_header_mutation_extensions=[
            extension_pb2.TypedExtensionConfig(
                name="envoy.http.early_header_mutation.header_mutation", typed_config=_packed(strangers)
            )
        ],
        use_remote_address=wrappers_pb2.BoolValue(value=True),
        internal_address_config=manager_pb2.HttpConnectionManager.InternalAddressConfig(),
        skip_xff_append=True,
        generate_request_id=wrappers_pb2.BoolValue(value=False),
        server_header_transformation=manager_pb2.HttpConnectionManager.PASS_THROUGH,
        access_log=_access_log(options.access_log),
    )
    host, port = options.listen
    return listener_pb2.Listener(
        name=LISTENER,
        address=_address(host, port),
        per_connection_buffer_limit_bytes=wrappers_pb2.UInt32Value(value=_BUFFER_BYTES),
        filter_chains=[
            listener_components_pb2.FilterChain(
                filters=[
                    listener_components_pb2.Filter(
                        name="envoy.filters.network.http_connection_manager", typed_config=_packed(manager)
                    )
                ]
            )
        ],
    )


def _routes(options: Options) -> Any:
    action = route_components_pb2.RouteAction(
        cluster=CLUSTER,
        # A large object takes as long as it takes; a stalled one ends by the idle timeout.
        timeout=duration_pb2.Duration(),
        idle_timeout=_duration(options.idle_seconds),
        hash_policy=[
            route_components_pb2.RouteAction.HashPolicy(
                header=route_components_pb2.RouteAction.HashPolicy.Header(
                    header_name=":path",
                    regex_rewrite=regex_pb2.RegexMatchAndSubstitute(
                        pattern=regex_pb2.RegexMatcher(regex=_HASHED), substitution=r"\1"
                    ),
                ),
                terminal=True,
            )
        ],
        # Only what no cache can have seen the beginning of; a PUT is never sent twice.
        retry_policy=route_components_pb2.RetryPolicy(
            retry_on="connect-failure,refused-stream,reset-before-request",
            num_retries=wrappers_pb2.UInt32Value(value=_RETRIES),
            retry_back_off=route_components_pb2.RetryPolicy.RetryBackOff(base_interval=_duration(0.025)),
        ),
    )
    return route_pb2.RouteConfiguration(
        name=ROUTE,
        virtual_hosts=[
            route_components_pb2.VirtualHost(
                name="objects",
                domains=["*"],
                routes=[
                    route_components_pb2.Route(match=route_components_pb2.RouteMatch(prefix=OBJECTS_PATH), route=action)
                ],
            )
        ],
        validate_clusters=wrappers_pb2.BoolValue(value=False),
    )


def _access_log(which: AccessLog) -> list[Any]:
    if which == "off":
        return []
    found = accesslog_pb2.AccessLog(
        name="envoy.access_loggers.stdout", typed_config=_packed(stream_pb2.StdoutAccessLog())
    )
    if which == "errors":
        found.filter.status_code_filter.comparison.op = accesslog_pb2.ComparisonFilter.GE
        found.filter.status_code_filter.comparison.value.default_value = 500
        found.filter.status_code_filter.comparison.value.runtime_key = "tasuki.access_log_from_status"
    return [found]


def _address(host: str, port: int) -> Any:
    socket = address_pb2.SocketAddress(address=host, port_value=port, ipv4_compat=host == "::")
    return address_pb2.Address(socket_address=socket)


def _from_ads() -> Any:
    return config_source_pb2.ConfigSource(
        ads=config_source_pb2.AggregatedConfigSource(), resource_api_version=config_source_pb2.V3
    )


def _duration(seconds: float) -> Any:
    whole = int(seconds)
    return duration_pb2.Duration(seconds=whole, nanos=round((seconds - whole) * 1e9))


def _packed(message: Any) -> Any:
    found = any_pb2.Any()
    found.Pack(message, deterministic=True)
    return found


def _resource(name: str, message: Any) -> Resource:
    body: bytes = message.SerializeToString(deterministic=True)
    return Resource(name, blake2b(body, digest_size=8).hexdigest(), body)
