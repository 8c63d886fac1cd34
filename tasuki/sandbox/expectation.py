"""What the device plugin is going to offer, worked out from the same settings, machine and file."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import yaml

from deviceplugin import fpga_plan
from deviceplugin import resources as gpu_plan
from deviceplugin import settings as plugin_settings
from deviceplugin.config import precedence
from deviceplugin.config.kinds import FPGA, GPU, VACCEL
from deviceplugin.config.model import Config, FpgaOptions, VaccelTransport
from deviceplugin.discovery import source_for
from deviceplugin.discovery.description import DescriptionError
from deviceplugin.discovery.fpga import FpgaSource
from deviceplugin.discovery.source import DriverUnavailableError
from deviceplugin.fpga import Fpgas
from deviceplugin.fpga_claims import Knowledge, Ledger
from deviceplugin.fpga_parts import fpga_tree
from deviceplugin.programming.images import ImageError, names
from deviceplugin.resources import Resource
from deviceplugin.vaccel import SESSION, FoundAgent, misfits
from tasuki.devices.model import HEALTHY, Device, Slice, slices_of
from tasuki.process.document import MAX_BYTES, ConfigError

_CONFIG_FOLDER: Final = "CONFIG_FILE_SRCDIR"

# In an agent's address: the sandbox's folder.
_PLACEHOLDER: Final = b"unix:///sandbox/"


class UnusableError(ValueError):
    """The machine or the configuration cannot be used; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Configured:
    """How the plugin is going to run.

    Attributes:
        file: The file with the configuration; None for the plugin's defaults.
        rewritten: The configuration with the sandbox's folder in its addresses; None if the file is good as it is.
        sockets: Where the sandbox is to serve vAccel agents itself.
    """

    settings: plugin_settings.Settings
    config: Config
    file: Path | None
    rewritten: bytes | None
    sockets: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Expectation:
    """What to wait for.

    Attributes:
        devices: What the machine has, whether or not it is offered.
        resources: As they are offered while nobody holds any of them.
        notes: What is left out and why.
    """

    devices: tuple[Device, ...]
    resources: tuple[Resource, ...]
    notes: tuple[str, ...]

    @property
    def counts(self) -> Mapping[str, int]:
        """Slices by resource."""
        return {resource.name: len(resource.slices) for resource in self.resources}

    @property
    def slices(self) -> Mapping[tuple[str, str], Slice]:
        """By resource and id: a region's have the same ids under each of its functions."""
        return {(resource.name, each.id): each for resource in self.resources for each in resource.slices}


def configured(plugin_argv: Sequence[str], environ: Mapping[str, str], folder: Path) -> Configured:
    """Blocking: reads the settings and the configuration.

    Args:
        plugin_argv: The plugin's arguments.
        environ: Its variables.
        folder: The sandbox's own.

    Raises:
        UnusableError: There is no such configuration, it is wrong, or not for a sandbox.
    """
    if configs := environ.get(_CONFIG_FOLDER):
        raise UnusableError(
            f"{_CONFIG_FOLDER} is {configs}, but no node label chooses one of its files here; unset it and give the "
            "file with --config"
        )
    chosen = plugin_settings.read(plugin_argv, environ)
    if FPGA in chosen.kinds and chosen.simulate_fpga is None:
        raise UnusableError(
            "TASUKI_KINDS has fpga, but the sandbox programs no FPGAs of this machine; name a tree with --machine, or "
            "one beside GPUs with TASUKI_SIMULATE_FPGA"
        )
    try:
        text = _text(chosen.config_file) if chosen.config_file is not None else b""
    except OSError as error:
        raise UnusableError(f"{chosen.config_file}: cannot be read: {error.strerror}") from error
    rewritten = text.replace(_PLACEHOLDER, f"unix://{folder}/".encode()) if VACCEL in chosen.kinds else text
    try:
        config = precedence.load(rewritten, chosen.overrides)
    except ConfigError as error:
        raise UnusableError(f"{chosen.config_file}: {error}") from error
    agents = config.tasuki.vaccel.agents if VACCEL in chosen.kinds else ()
    sockets = (Path(agent.socket) for agent in agents if agent.transport is VaccelTransport.UNIX)
    return Configured(
        settings=chosen,
        config=config,
        file=chosen.config_file,
        rewritten=rewritten if rewritten != text else None,
        sockets=tuple(socket for socket in sockets if socket.is_relative_to(folder)),
    )


def expect(chosen: Configured) -> Expectation:
    """Blocking: looks at the machine.

    Raises:
        UnusableError: There is no such machine.
    """
    kinds = {GPU: _gpus, FPGA: _fpgas, VACCEL: _agents}
    try:
        parts = [kinds[name](chosen) for name in chosen.settings.kinds]
    except (DescriptionError, DriverUnavailableError) as error:
        raise UnusableError(str(error)) from error
    return Expectation(
        devices=tuple(device for part in parts for device in part.devices),
        resources=tuple(resource for part in parts for resource in part.resources),
        notes=tuple(note for part in parts for note in part.notes),
    )


def _gpus(chosen: Configured) -> Expectation:
    source = source_for(chosen.settings.simulate, node=chosen.settings.node_name)
    try:
        machine = source.scan()
    finally:
        source.close()
    planned = gpu_plan.plan(machine, chosen.config)
    devices = tuple(gpu.device for gpu in machine.gpus)
    return Expectation(devices, planned.resources, (*planned.problems, *planned.misfits))


def _fpgas(chosen: Configured) -> Expectation:
    options = chosen.config.tasuki.fpga
    with ExitStack() as stack:
        tree = fpga_tree(chosen.settings, stack)
        source = FpgaSource(tree.sys_root, tree.dev_root)
        stack.callback(source.close)
        found = source.scan()
        families = tree.programmers.families(options.programmer)
    notes: tuple[str, ...] = ()
    images: Iterable[str] = ()
    try:
        images = names(chosen.settings.bitstreams)
    except ImageError as error:
        notes = (str(error),)
    means = fpga_plan.Means(families, frozenset(images))
    ledger = Ledger(knowledge=Knowledge.KNOWN, judged=frozenset(region.device.id for region in found.regions))
    made = fpga_plan.plan(_prewarmed(found, options, ledger, means), options, ledger, means)
    devices = tuple(region.device for region in found.regions)
    return Expectation(devices, made.resources, (*notes, *made.problems))


def _prewarmed(found: Fpgas, options: FpgaOptions, ledger: Ledger, means: fpga_plan.Means) -> Fpgas:
    """The regions once those that are to be programmed beforehand have been."""
    made = fpga_plan.plan(found, options, ledger, means)
    chosen = fpga_plan.to_prewarm(made, options, ledger, means, excluded=())
    loaded = {offering.region.device.id: offering.expects for offering in chosen}
    regions = (replace(region, loaded=loaded.get(region.device.id, region.loaded)) for region in found.regions)
    return replace(found, regions=tuple(regions))


def _agents(chosen: Configured) -> Expectation:
    agents = chosen.config.tasuki.vaccel.agents
    found = [
        FoundAgent(agent, position, HEALTHY, answered=True)
        for position, agent in enumerate(agents)
        if not misfits([agent])
    ]
    slices = tuple(each for agent in found for each in slices_of(agent.device, agent.agent.sessions))
    resources = (Resource(SESSION, slices),) if slices else ()
    return Expectation(tuple(agent.device for agent in found), resources, misfits(agents))


def _text(file: Path) -> bytes:
    """At most one byte more than a configuration may have."""
    with file.open("rb") as opened:
        return opened.read(MAX_BYTES + 1)


def driver_answers() -> bool:
    """Whether this machine has GPUs that an NVIDIA driver tells of."""
    source = source_for(None, node="")
    try:
        return bool(source.scan().gpus)
    except DriverUnavailableError:
        return False
    finally:
        source.close()


def describes_fpgas(file: Path) -> bool:
    """Whether a file means to be a tree of FPGAs, right or wrong; one that cannot be read does not."""
    try:
        with file.open("rb") as opened:
            read = yaml.safe_load(opened)
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(read, Mapping) and "sys" in read
