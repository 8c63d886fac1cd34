"""What the device plugin is going to offer, worked out from the same settings, machine and file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deviceplugin import settings as plugin_settings
from deviceplugin.config import precedence
from deviceplugin.config.document import MAX_BYTES
from deviceplugin.config.model import ConfigError
from deviceplugin.discovery import source_for
from deviceplugin.discovery.description import DescriptionError
from deviceplugin.discovery.source import DriverUnavailableError
from deviceplugin.machine import Machine
from deviceplugin.resources import plan
from tasuki.devices.model import Slice

_CONFIG_FOLDER: Final = "CONFIG_FILE_SRCDIR"


class UnusableError(ValueError):
    """The machine or the configuration cannot be used; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """What to wait for.

    Attributes:
        counts: Slices by resource.
        slices: By id.
        notes: What is left out and why.
        config: The file with the configuration; None for the plugin's defaults.
    """

    machine: Machine
    counts: Mapping[str, int]
    slices: Mapping[str, Slice]
    notes: tuple[str, ...]
    config: Path | None


def expect(plugin_argv: Sequence[str], environ: Mapping[str, str]) -> Expectation:
    """Blocking: reads the configuration and looks at the machine.

    Raises:
        UnusableError: There is no such machine, or no such configuration.
    """
    if folder := environ.get(_CONFIG_FOLDER):
        raise UnusableError(
            f"{_CONFIG_FOLDER} is {folder}, but no node label chooses one of its files here; unset it and give the "
            "file with --config"
        )
    chosen = plugin_settings.read(plugin_argv, environ)
    try:
        text = _text(chosen.config_file) if chosen.config_file is not None else b""
    except OSError as error:
        raise UnusableError(f"{chosen.config_file}: cannot be read: {error.strerror}") from error
    try:
        config = precedence.load(text, chosen.overrides)
    except ConfigError as error:
        raise UnusableError(f"{chosen.config_file}: {error}") from error
    machine = _scan(chosen)
    planned = plan(machine, config)
    return Expectation(
        machine=machine,
        counts={resource.name: len(resource.slices) for resource in planned.resources},
        slices={found.id: found for resource in planned.resources for found in resource.slices},
        notes=(*planned.problems, *planned.misfits),
        config=chosen.config_file,
    )


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


def _scan(chosen: plugin_settings.Settings) -> Machine:
    try:
        source = source_for(chosen.simulate, node=chosen.node_name)
        try:
            return source.scan()
        finally:
            source.close()
    except (DescriptionError, DriverUnavailableError) as error:
        raise UnusableError(str(error)) from error
