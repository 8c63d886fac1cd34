"""Environment modules: loaded by an init container in the pod's own image, brought to its containers as variables."""

import re
from collections.abc import Iterable, KeysView, Mapping, Sequence
from itertools import islice
from typing import Final

import msgspec

from tasuki.kube.names import MODULES, MODULES_CONTAINERS
from tasuki.process.sentences import shown
from webhooks import catalogue
from webhooks.catalogue import Catalogue
from webhooks.editing import add_volumes, contradicted, set_node_selector
from webhooks.mutations.modules_delivery import deliver, delivery_for, warnings
from webhooks.mutations.modules_loading import loaders
from webhooks.mutations.modules_wish import NAME, Wish
from webhooks.mutations.wording import nearest
from webhooks.patch import Operations
from webhooks.pod import WINDOWS, Place, Pod, Volume, places
from webhooks.policy.model import Modules
from webhooks.scene import NOTHING, Change, RefusedError, Scene

# No letter of it means anything to a shell, and neither an option nor a path out of the module tree can be written.
_MODULE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.+-]*){0,3}", re.ASCII)
_LONGEST_MODULE: Final = 128
_MOST_MODULES: Final = 64
_MOST_NAMED: Final = 10
# Each gets variables of several KiB, perhaps a loader besides, and etcd takes 1.5 MiB for the whole pod.
_MOST_CONTAINERS: Final = 100
_SEPARATORS: Final = re.compile(r"[\s,]+")


def modules(pod: Pod, scene: Scene) -> Change:
    """Load what `tasuki.dev/modules` names, in all containers or in those of `tasuki.dev/modules-containers`."""
    annotations = pod.metadata.annotations
    if MODULES not in annotations:
        if MODULES_CONTAINERS not in annotations:
            return NOTHING
        return Change(warnings=(f"annotation {MODULES_CONTAINERS} has no effect without {MODULES}",))
    names = _requested(annotations[MODULES])
    if not names:
        return NOTHING
    policy = scene.policy.modules
    if policy is None:
        raise RefusedError(f"{MODULES}: this cluster offers no environment modules; remove the annotation")
    if pod.spec.os.name == WINDOWS:
        raise RefusedError(
            f"{MODULES}: environment modules are for Linux, and spec.os.name of the pod is {WINDOWS}; "
            "remove the annotation"
        )
    if scene.cluster.catalogue is not None:
        _require_listed(names, scene.cluster.catalogue)
    affected = _affected(pod, annotations.get(MODULES_CONTAINERS, ""))
    wish = Wish(names=names, policy=policy, version=_version(scene))
    by_container, loading = loaders(pod, affected, wish)
    operations = [*add_volumes(pod, _volumes(policy)), *_select_nodes(pod, policy.node_selector), *loading]
    told: list[str] = []
    for place, loader in zip(affected, by_container, strict=True):
        delivery = delivery_for(place.container, wish)
        operations += deliver(place, loader, delivery, wish)
        told += warnings(place.container, delivery, wish)
    return Change(operations=tuple(operations), warnings=tuple(told), notes={"modules": " ".join(names)})


def _words(written: str) -> KeysView[str]:
    """Each once, in the order of first mention."""
    return dict.fromkeys(word for word in _SEPARATORS.split(written) if word).keys()


def _requested(written: str) -> Sequence[str]:
    names = _words(written)
    for name in names:
        if len(name) > _LONGEST_MODULE or not _MODULE.fullmatch(name):
            text = (
                f"{MODULES}: {shown(name)} is no module; write names such as gcc or gcc/12.3, with spaces between them"
            )
            raise RefusedError(text)
    if len(names) > _MOST_MODULES:
        raise RefusedError(f"{MODULES}: {len(names)} modules are more than the {_MOST_MODULES} allowed; name fewer")
    return tuple(names)


def _require_listed(names: Iterable[str], listed: Catalogue) -> None:
    for name in names:
        if not catalogue.find(listed, name):
            close = catalogue.nearest(listed, name)
            remedy = f"the nearest are {', '.join(close)}" if close else "`module spider` lists those that there are"
            raise RefusedError(f"{MODULES}: there is no module {name!r} in this cluster's catalogue; {remedy}")


def _affected(pod: Pod, written: str) -> Sequence[Place]:
    regular = list(places(pod, "containers"))
    wanted = _words(written)
    there = dict.fromkeys(sorted(place.container.name for place in regular))
    for name in wanted:
        if name not in there:
            likely = nearest(name, there)
            remedy = f"did you mean {likely}?" if likely else f"the pod has {', '.join(islice(there, _MOST_NAMED))}"
            raise RefusedError(f"{MODULES_CONTAINERS}: the pod has no container {shown(name)}; {remedy}")
    affected = [place for place in regular if not wanted or place.container.name in wanted]
    if len(affected) > _MOST_CONTAINERS:
        raise RefusedError(
            f"{MODULES}: {len(affected)} containers are more than the {_MOST_CONTAINERS} that can have modules; name "
            f"those that need them in {MODULES_CONTAINERS}"
        )
    return affected


def _version(scene: Scene) -> tuple[int, int]:
    server = scene.cluster.server_version
    return (0, 0) if server is None or scene.nodes is None else min(server, scene.nodes.oldest_kubelet)


def _volumes(policy: Modules) -> Iterable[Volume]:
    for volume in policy.volumes:
        yield msgspec.convert({**volume.source, "name": volume.name}, Volume)
    yield Volume(name=NAME, empty_dir={"sizeLimit": "16Mi"})


def _select_nodes(pod: Pod, wanted: Mapping[str, str]) -> Operations:
    if contradiction := contradicted(pod, wanted):
        key, value, found = contradiction
        text = f"{MODULES}: the modules are on nodes with {key}={value}, but the pod selects {key}={found}"
        raise RefusedError(f"{text}; remove that from its nodeSelector")
    return set_node_selector(pod, wanted)
