"""Preparing the node so that what Allocate answers will be true: device files looked up, CDI specifications written."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deviceplugin.allocation.cdi import HostFiles, specs
from deviceplugin.allocation.gpu import Allocator, granted
from deviceplugin.allocation.nodes import CONTROL_NODES
from deviceplugin.cdi_files import CdiFileError, DriverFilesMissingError, device_nodes, host_files, write_specs
from deviceplugin.config.model import Config, DeviceListStrategy
from deviceplugin.container import ContainerEdits
from deviceplugin.machine import Machine
from deviceplugin.offers import Grant
from deviceplugin.resources import Resource
from tasuki.devices.model import Slice

log: Final = logging.getLogger(__name__)

_CDI: Final = frozenset({DeviceListStrategy.CDI_ANNOTATIONS, DeviceListStrategy.CDI_CRI})


class NotPreparedError(Exception):
    """Containers could not use what Allocate would answer; the text says what to change."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """How the node is prepared.

    Attributes:
        cdi_root: Where the container runtime reads CDI specifications.
        disabled_hooks: Of the specifications.
        simulated: The devices exist in a description only, and so do their files.
    """

    cdi_root: Path
    disabled_hooks: tuple[str, ...] = ()
    simulated: bool = False

    def prepare(self, machine: Machine, config: Config) -> Grant:
        """Make the decision how slices of this machine are handed out; looks at files and writes some.

        Raises:
            NotPreparedError: A file that the chosen strategy needs cannot be found or written.
        """
        files = self._files(machine, config)
        if not _CDI.isdisjoint(config.flags.plugin.device_list_strategy):
            try:
                changed = write_specs(self.cdi_root, specs(machine, config, files, self.disabled_hooks))
            except CdiFileError as error:
                raise NotPreparedError(str(error)) from error
            for path in changed:
                log.info("CDI specification written path=%s", path)
        allocator = Allocator.of(machine, config, files.nodes)

        def grant(resource: Resource, slices: Mapping[str, Slice], slice_ids: Sequence[str]) -> ContainerEdits:
            return allocator.edits(resource, granted(resource, slice_ids, slices))

        return grant

    def _files(self, machine: Machine, config: Config) -> HostFiles:
        if self.simulated:
            return HostFiles(nodes=frozenset(CONTROL_NODES))
        driver_root = Path(config.flags.plugin.container_driver_root)
        dev_root = driver_root if (driver_root / "dev" / "nvidiactl").exists() else Path("/")
        if _CDI.isdisjoint(config.flags.plugin.device_list_strategy):
            return HostFiles(nodes=device_nodes(dev_root))
        try:
            return host_files(driver_root, dev_root, machine.driver_version)
        except DriverFilesMissingError as error:
            raise NotPreparedError(str(error)) from error
