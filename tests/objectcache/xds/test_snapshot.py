from collections.abc import Sequence
from dataclasses import replace

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.route.v3 import route_pb2
from hypothesis import given
from hypothesis import strategies as st

from objectcache.xds.member import Member
from objectcache.xds.snapshot import (
    CLUSTER,
    CLUSTERS,
    ENDPOINTS,
    LISTENERS,
    ROUTES,
    Catalogue,
    Options,
    endpoints,
    fixed_resources,
)

FIXED = fixed_resources(Options())


def in_zones(*zones: str) -> list[Member]:
    return [Member(f"n{number}", f"10.0.0.{number}", 8480, zone) for number, zone in enumerate(zones)]


def told(members: Sequence[Member], zone: str) -> list[tuple[int, str, list[str]]]:
    """By priority: the zone and its nodes."""
    message = endpoint_pb2.ClusterLoadAssignment.FromString(endpoints(members, zone).body)
    return [
        (
            each.priority,
            each.locality.zone,
            [host.metadata.filter_metadata["envoy.lb"]["hash_key"] for host in each.lb_endpoints],
        )
        for each in message.endpoints
    ]


@pytest.mark.parametrize(
    ("zone", "expected"),
    [
        pytest.param("b", [(0, "b", ["n1"]), (1, "a", ["n0", "n3"]), (2, "c", ["n2"])], id="its own zone first"),
        pytest.param("z", [(0, "a", ["n0", "n3"]), (1, "b", ["n1"]), (2, "c", ["n2"])], id="of a zone without caches"),
        pytest.param("", [(0, "a", ["n0", "n3"]), (1, "b", ["n1"]), (2, "c", ["n2"])], id="of no known zone"),
    ],
)
def test_zones_are_priorities_without_gaps(zone: str, expected: list[tuple[int, str, list[str]]]) -> None:
    assert told(in_zones("a", "b", "c", "a"), zone) == expected


def test_of_very_many_zones_the_last_are_one() -> None:
    """Envoy takes no priority beyond 128."""
    zones = [f"z{number:03}" for number in range(140)]

    priorities = [priority for priority, _, _ in told(in_zones(*zones), "z139")]

    assert priorities == [*range(128), *[128] * 12]


members = st.lists(
    st.builds(
        Member,
        node=st.sampled_from([f"n{number}" for number in range(9)]),
        address=st.just("10.0.0.1"),
        port=st.integers(1, 65_535),
        zone=st.sampled_from(["", "a", "b"]),
        weight=st.integers(1, 9),
        leaving=st.booleans(),
    ),
    unique_by=lambda member: member.node,
)


@given(members, st.randoms(use_true_random=False))
def test_the_same_members_are_the_same_bytes(found: list[Member], random: st.DataObject) -> None:
    shuffled = list(found)
    random.shuffle(shuffled)  # type: ignore[attr-defined]

    assert endpoints(shuffled, "a") == endpoints(found, "a")
    assert Catalogue(shuffled, {}, FIXED).members == Catalogue(found, {}, FIXED).members


@pytest.mark.parametrize(
    "changed",
    [{"weight": 2}, {"leaving": True}, {"address": "10.9.9.9"}, {"port": 1}, {"zone": "b"}, {"node": "other"}],
    ids=str,
)
def test_whatever_changes_is_another_version(changed: dict[str, object]) -> None:
    [member] = in_zones("a")
    other = replace(member, **changed)  # type: ignore[arg-type]

    assert endpoints([member], "a").version != endpoints([other], "a").version


def test_a_zones_envoys_share_one_snapshot_and_so_do_those_of_zones_without_caches() -> None:
    catalogue = Catalogue(in_zones("a", "b"), {"n0": "a"}, FIXED)

    assert catalogue.snapshot("a") is catalogue.snapshot("a")
    assert catalogue.snapshot("nowhere") is catalogue.snapshot("")
    assert catalogue.snapshot("a") != catalogue.snapshot("b")


def test_an_envoys_zone_is_what_its_bootstrap_says_else_its_nodes() -> None:
    catalogue = Catalogue((), {"n0": "a"}, FIXED)

    assert [catalogue.zone_of("n0"), catalogue.zone_of("n0", "b"), catalogue.zone_of("other")] == ["a", "b", ""]


def test_options_change_only_what_they_are_about() -> None:
    other = fixed_resources(Options(access_log="errors", idle_seconds=300.0))

    assert {each for each in FIXED if FIXED[each] != other[each]} == {LISTENERS}


def test_a_node_that_answers_nothing_is_given_up_before_clients_give_up() -> None:
    """Of those that we know, pfio waits least: 3 seconds."""
    [cluster] = [cluster_pb2.Cluster.FromString(each.body) for each in FIXED[CLUSTERS].values()]
    [routes] = [route_pb2.RouteConfiguration.FromString(each.body) for each in FIXED[ROUTES].values()]
    [host] = routes.virtual_hosts
    [route] = host.routes
    attempts = 1 + route.route.retry_policy.num_retries.value

    assert attempts * cluster.connect_timeout.ToNanoseconds() / 1e9 <= 2.0


def test_without_members_there_is_still_an_answer() -> None:
    found = Catalogue((), {}, FIXED).snapshot("a").of(ENDPOINTS)[CLUSTER]

    assert told((), "a") == []
    assert found.body
