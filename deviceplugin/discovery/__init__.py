"""Where devices are found: one module a source."""

from pathlib import Path

from deviceplugin.discovery.simulated import SimulatedSource
from deviceplugin.discovery.source import DeviceSource


def source_for(
    simulate: str | None,
    *,
    product_file: Path = Path("/sys/class/dmi/id/product_name"),
    node: str = "",
) -> DeviceSource:
    """NVML, or the simulation of a machine by its shipped name or its YAML file.

    Args:
        simulate: Empty or None means NVML.
        product_file: Where the machine's product name is read.
        node: The node's name, from which the ids of simulated devices are derived.

    Raises:
        DescriptionError: There is no machine of that name to simulate.
    """
    if simulate:
        return SimulatedSource(simulate, node=node)
    # A simulation must not need NVIDIA's module.
    from deviceplugin.discovery.nvml import NvmlSource  # noqa: PLC0415

    return NvmlSource(product_file=product_file)
