"""The places where a node's facts are written: feature discovery's file, the node's labels, its AcceleratorNode."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from deviceplugin.config.model import GfdFlags
from deviceplugin.labels import label_changes, labels
from deviceplugin.machine import Machine
from deviceplugin.node_status import Holders, NodeFacts, node_status
from tasuki.kube.accelerator_node import AcceleratorNodeStatus
from tasuki.kube.client import Kube
from tasuki.kube.errors import ConflictError, NotFoundError
from tasuki.kube.names import NFD_NODE_NAME_LABEL, NODE_FEATURE_PREFIX
from tasuki.kube.objects import Node, NodeFeature, NodeFeatureSpec, ObjectMeta, OwnerReference
from tasuki.process.files import replace_file

log: Final = logging.getLogger(__name__)

_NVIDIA_PCI_VENDOR: Final = "0x10de"


@dataclass(frozen=True, slots=True)
class Known:
    """All that there is to publish.

    Attributes:
        labelled_at: What `gfd.timestamp` says: when the configuration came into force.
        holders: None until the kubelet was asked for the first time.
        node: Our node as it was seen last; None if it was not.
    """

    facts: NodeFacts
    labelled_at: datetime
    holders: Holders | None = None
    node: Node | None = None


class Target(Protocol):
    """One place to write to; it remembers what it wrote, and writes only what differs."""

    async def publish(self, known: Known) -> int:
        """Make the outside agree with `known`; how many writes it took.

        Raises:
            KubeError: The API server did not do as asked.
            OSError: A file cannot be written.
        """

    def forget(self) -> None:
        """Look at the outside again the next time, in case somebody changed it."""

    def recheck_seconds(self, known: Known) -> float:
        """How often to look again, without any change of ours."""


class LabelFile:
    """`flags.gfd.outputFile`: a file of labels, one a line, from which Node Feature Discovery takes them."""

    def __init__(self, sysfs: Path) -> None:
        self._sysfs: Final = sysfs
        self._written: tuple[str, bytes] | None = None
        self._kept = False
        self._stays = False

    async def publish(self, known: Known) -> int:
        gfd = known.facts.config.flags.gfd
        if self._written is not None and gfd.output_file != self._written[0]:
            await asyncio.to_thread(self.remove)
        self._stays = gfd.oneshot or gfd.sleep_seconds == float("inf")
        if not gfd.output_file or (gfd.oneshot and self._written is not None):
            return 0
        wanted = await asyncio.to_thread(wanted_labels, known, self._sysfs)
        content = "".join(f"{key}={value}\n" for key, value in wanted.items()).encode()
        if self._kept and self._written == (gfd.output_file, content):
            return 0
        writing = asyncio.create_task(asyncio.to_thread(replace_file, Path(gfd.output_file), content))
        try:
            await asyncio.shield(writing)
        finally:
            # A thread goes on where we are cancelled, and what it leaves must be known to be removed.
            await asyncio.wait([writing])
            if writing.exception() is None:
                self._written, self._kept = (gfd.output_file, content), True
        return 1

    def forget(self) -> None:
        self._kept = False

    def recheck_seconds(self, known: Known) -> float:
        return known.facts.config.flags.gfd.sleep_seconds

    def remove(self) -> None:
        """As feature discovery does at its end, unless it was to write only once: labels without a writer go."""
        if self._written is None or self._stays:
            return
        path, self._written = Path(self._written[0]), None
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("the file of labels could not be removed path=%s error=%s", path, error)


class NodeLabels:
    """The labels of our node; or, with `flags.useNodeFeatureAPI`, the object from which NFD labels it."""

    def __init__(self, kube: Kube, name: str, sysfs: Path) -> None:
        self._kube: Final = kube
        self._name: Final = name
        self._sysfs: Final = sysfs
        self._found: Mapping[str, str] | None = None
        self._feature: Mapping[str, str] | None = None
        self._published = False

    async def publish(self, known: Known) -> int:
        flags = known.facts.config.flags
        if self._published and flags.gfd.oneshot:
            return 0
        wanted = await asyncio.to_thread(wanted_labels, known, self._sysfs)
        if flags.use_node_feature_api:
            writes = await self._feature_object(wanted, known.node)
        else:
            writes = await self._patch(wanted, known.node, looks_at_gpus=known.facts.looks_at_gpus)
        self._published = True
        return writes

    async def _patch(self, wanted: Mapping[str, str], seen: Node | None, *, looks_at_gpus: bool) -> int:
        if self._found is None:
            self._found = (seen or await self._kube.node(self._name)).metadata.labels
        changes = label_changes(wanted, self._found, looks_at_gpus=looks_at_gpus)
        if not changes:
            return 0
        self._found = (await self._kube.label_node(self._name, changes)).metadata.labels
        log.info("the node was labelled node=%s labels=%s", self._name, ",".join(changes))
        return 1

    async def _feature_object(self, wanted: Mapping[str, str], seen: Node | None) -> int:
        if self._feature == wanted:
            return 0
        node = seen or await self._kube.node(self._name)
        written = await self._kube.set_node_feature(node_feature(node, wanted))
        self._feature = wanted
        return int(written)

    def forget(self) -> None:
        self._found = None
        self._feature = None

    def recheck_seconds(self, known: Known) -> float:
        return known.facts.config.flags.gfd.sleep_seconds


class NodeObject:
    """Our AcceleratorNode: made if it is not there, and made again if it was deleted."""

    def __init__(self, kube: Kube, name: str, recheck_seconds: float, now: Callable[[], datetime]) -> None:
        self._kube: Final = kube
        self._name: Final = name
        self._recheck_seconds: Final = recheck_seconds
        self._now: Final = now
        self._found: AcceleratorNodeStatus | None = None

    async def publish(self, known: Known) -> int:
        if known.holders is None:
            return 0
        writes = 0
        if self._found is None:
            writes += await self._look_or_create()
        conditions = self._found.conditions if self._found else ()
        wanted = node_status(known.facts, known.holders, conditions, self._now())
        if wanted == self._found:
            return writes
        try:
            await self._kube.set_accelerator_node_status(self._name, wanted)
        except NotFoundError:
            self._found = None
            writes += await self._look_or_create()
            await self._kube.set_accelerator_node_status(self._name, wanted)
        self._found = wanted
        return writes + 1

    async def _look_or_create(self) -> int:
        try:
            status = (await self._kube.accelerator_node(self._name)).status
        except NotFoundError:
            node = await self._kube.node(self._name)
            try:
                await self._kube.create_accelerator_node(node)
            except ConflictError:
                return 0  # somebody made it meanwhile: the status is written all the same
            return 1
        self._found = status if isinstance(status, AcceleratorNodeStatus) else None
        return 0

    def forget(self) -> None:
        self._found = None

    def recheck_seconds(self, known: Known) -> float:  # noqa: ARG002 # as every target
        return self._recheck_seconds


def wanted_labels(known: Known, sysfs: Path) -> dict[str, str]:
    """The labels, with what must be read from files: the machine's type and the PCI classes."""
    others = {key: value for kind in known.facts.others for key, value in kind.labels.items()}
    if not known.facts.looks_at_gpus:
        return dict(sorted(others.items()))
    machine = known.facts.machine
    source = known.facts.config.flags.gfd.machine_type_file
    if source != GfdFlags().machine_type_file:
        machine = replace(machine, product=_first_text(Path(source)) if source else "")
    of_gpus = labels(machine, known.facts.plan, known.facts.config, known.labelled_at, pci_classes(machine, sysfs))
    return dict(sorted({**of_gpus, **others}.items()))


def pci_classes(machine: Machine, sysfs: Path) -> dict[str, int]:
    """The class codes of the GPUs that this kernel knows; a simulated machine's are not among them."""
    found = {}
    for gpu in machine.gpus:
        folder = sysfs / "bus/pci/devices" / gpu.device.place.pci_address
        code = _first_text(folder / "class")
        if gpu.device.place.pci_address and code and _first_text(folder / "vendor") == _NVIDIA_PCI_VENDOR:
            found[gpu.device.id] = int(code, 16)
    return found


def _first_text(path: Path) -> str:
    """What a file says, without blanks around; empty if it cannot be read, which publishes as `unknown`."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def node_feature(node: Node, wanted: Mapping[str, str]) -> NodeFeature:
    """A NodeFeature that goes when its node goes."""
    name = node.metadata.name
    owner = OwnerReference(api_version="v1", kind="Node", name=name, uid=node.metadata.uid)
    metadata = ObjectMeta(
        name=f"{NODE_FEATURE_PREFIX}{name}", labels={NFD_NODE_NAME_LABEL: name}, owner_references=(owner,)
    )
    return NodeFeature(metadata=metadata, spec=NodeFeatureSpec(labels=dict(wanted)))


def now_utc() -> datetime:
    return datetime.now(UTC)
