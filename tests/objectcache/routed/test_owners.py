"""Objects lie where `tasuki.routing.maglev` says, for Envoy, the scheduler extender and the Python client alike."""

from dataclasses import replace

from objectcache.client.client import CacheClient
from objectcache.client.names import escaped
from objectcache.xds.member import Member
from schedext.demand import NamedObjects, demand
from schedext.owners import Owners
from tasuki.kube.names import CACHE_OBJECTS
from tasuki.routing.maglev import Maglev
from tests.objectcache.caches import TOKEN
from tests.objectcache.routed.scenes import FAR_ZONE, NODES, ZONE, Scene, asking, named
from tests.objectcache.xds.envoys import predicted
from tests.schedext.caches import holds
from tests.schedext.pods import a_pod


def put(scene: Scene, names: tuple[str, ...]) -> None:
    """Each with its name as its content."""
    with asking(scene.envoy.port) as ask:
        assert {ask("PUT", name, name.encode()).status for name in names} == {201}


def statuses(scene: Scene, names: tuple[str, ...]) -> list[int]:
    with asking(scene.envoy.port) as ask:
        return [ask("GET", name).status for name in names]


def test_each_object_lies_on_its_owner_and_nowhere_else(scene: Scene) -> None:
    names = named("owners", 400)
    put(scene, names)

    holders = scene.holders(names)

    owners = predicted(scene.members(), ZONE, names)
    assert holders == [[owner] for owner in owners]
    assert set(owners) == set(NODES)
    with asking(scene.envoy.port) as ask:
        assert all(ask("GET", name).body == name.encode() for name in names)


def test_a_node_that_goes_takes_its_own_objects_and_few_others(scene: Scene) -> None:
    names = named("removal", 300)
    put(scene, names)
    before = predicted(scene.members(), ZONE, names)
    fewer = scene.members(*(node for node in NODES if node != "node-c"))
    after = predicted(fewer, ZONE, names)
    stayed = [old == new for old, new in zip(before, after, strict=True)]

    scene.tell(fewer)
    without = statuses(scene, names)
    scene.tell(scene.members())

    assert without == [200 if each else 404 for each in stayed]
    assert sum(stayed) >= 0.95 * sum(owner != "node-c" for owner in before)
    assert statuses(scene, names) == [200] * len(names)


def test_what_was_put_meanwhile_lies_on_the_new_owner(scene: Scene) -> None:
    names = named("meanwhile", 100)
    fewer = scene.members(*NODES[1:])
    scene.tell(fewer)
    put(scene, names)

    assert scene.holders(names) == [[owner] for owner in predicted(fewer, ZONE, names)]


def test_another_zone_serves_by_its_own_table_while_the_own_one_has_nobody(scene: Scene) -> None:
    near, far = scene.members(*NODES[:3]), [replace(each, zone=FAR_ZONE) for each in scene.members(*NODES[3:])]
    at_home, away = named("at-home", 100), named("away", 100)
    scene.tell([*near, *far])
    put(scene, at_home)

    scene.tell([*(replace(each, leaving=True) for each in near), *far])
    missed = statuses(scene, at_home)
    put(scene, away)
    scene.tell([*near, *far])

    assert scene.holders(at_home) == [[owner] for owner in predicted(near, ZONE, at_home)]
    assert set(missed) == {404}
    assert scene.holders(away) == [[owner] for owner in predicted(far, FAR_ZONE, away)]
    assert statuses(scene, at_home) == [200] * len(at_home)
    assert set(statuses(scene, away)) == {404}


def test_the_scheduler_extender_predicts_the_same(scene: Scene) -> None:
    names = named("scheduled", 300)
    put(scene, names)
    owners = known_to_the_extender(scene.members())

    reads = [owners.reads(annotated(name))["bk"].owned[ZONE] for name in names]

    assert [sorted(each) for each in reads] == scene.holders(names)


def annotated(name: str) -> tuple[NamedObjects, ...]:
    return demand(a_pod(annotations={CACHE_OBJECTS: name})).objects


def known_to_the_extender(members: list[Member]) -> Owners:
    """As it is after the CacheNodes of these members, and the tables that their zones then lack."""
    owners = Owners()
    for each in members:
        owners.apply(each.node, holds(each.zone))
    for zone, nodes in owners.stale().items():
        owners.put(zone, Maglev(nodes))
    return owners


def test_the_python_client_names_the_owner_and_reads_through_envoy(scene: Scene) -> None:
    url, names = f"http://127.0.0.1:{scene.envoy.port}", [f"train set/ä//{number}?.jpg" for number in range(100)]
    client = CacheClient(url, "bk", token=TOKEN, nodes=dict.fromkeys(NODES, 1))
    for name in names:
        client.put(name, name.encode())

    sent = [f"bk/{escaped(name)}" for name in names]

    assert scene.holders(sent) == [[client.owner(name)] for name in names]
    assert [client.get(name) for name in names] == [name.encode() for name in names]
    found = client.head(names[0])
    assert found is not None
    assert found.size_bytes == len(names[0].encode())
    assert client.get(names[0], 2, 5) == names[0].encode()[2:5]
    assert client.delete(names[0])
    assert client.get(names[0]) is None
    client.close()
