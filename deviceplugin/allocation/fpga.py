"""What a container gets for the regions of FPGAs that it was given channels of."""

from collections.abc import Mapping, Sequence
from typing import Final

from deviceplugin.allocation.errors import UnknownSliceError
from deviceplugin.container import ContainerEdits, DeviceNode
from deviceplugin.fpga import Region
from tasuki.devices.model import Slice, index_order

_PREFIX: Final = "TASUKI_FPGA"

# As the kernel's own `numa_node` says it.
_NO_NUMA_NODE: Final = "-1"


def edits(slices: Sequence[Slice], regions: Mapping[str, Region], function: str) -> ContainerEdits:
    """The device files of the regions, readable and writable and nothing besides, and variables that name them.

    Of two resources in one container the kubelet keeps one's value of a variable. So each is there twice: plain, all of
    them of the same resource, and with the function's name in its own.

    Args:
        slices: In any order.
        regions: By id.
        function: By the catalogue's name; empty under a peer's resource name.

    Raises:
        UnknownSliceError: A region is no longer there.
    """
    ordered = sorted(slices, key=lambda s: (index_order(s.device), s.replica))
    lost = [s.device.id for s in ordered if s.device.id not in regions]
    if lost:
        raise UnknownSliceError(f"region {lost[0]} is no longer on this node")
    nodes = dict.fromkeys(node for s in ordered for node in regions[s.device.id].nodes)
    values = {
        "REGION": ",".join(s.device.id for s in ordered),
        "CHANNEL": ",".join(str(s.replica) for s in ordered),
        "NUMA_NODE": ",".join(_numa_node(s) for s in ordered),
        "DEVICES": ",".join(nodes),
    }
    plain = {f"{_PREFIX}_{name}": value for name, value in values.items()}
    own = {f"{_PREFIX}_{_in_capitals(function)}_{name}": value for name, value in values.items()} if function else {}
    return ContainerEdits(
        envs=dict(sorted({f"{_PREFIX}_FUNCTION": function, **plain, **own}.items())),
        nodes=tuple(DeviceNode(node, node, "rw") for node in nodes),
    )


def _in_capitals(function: str) -> str:
    """A DNS label as part of a variable's name; no two become the same."""
    return function.upper().replace("-", "_")


def _numa_node(a_slice: Slice) -> str:
    node = a_slice.device.place.numa_node
    return _NO_NUMA_NODE if node is None else str(node)
