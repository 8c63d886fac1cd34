"""NVIDIA's flags and environment variables that have a place in the configuration file too."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from deviceplugin.config import file
from deviceplugin.config.model import Config
from tasuki.process.document import ConfigError, Node
from tasuki.process.keys import Key, Table
from tasuki.process.sentences import shown


def _text(text: str, name: str) -> Node:
    del name
    return Node(text)


def _boolean(text: str, name: str) -> Node:
    """Go's strconv.ParseBool; an empty variable is false, as for NVIDIA's plugin."""
    if text in ("1", "t", "T", "TRUE", "true", "True"):
        return Node(value=True)
    if text in ("", "0", "f", "F", "FALSE", "false", "False"):
        return Node(value=False)
    raise ConfigError(f"{name} is {shown(text)}; it must be true or false")


def _texts(text: str, name: str) -> Node:
    del name
    return Node(tuple(Node(part.strip()) for part in text.split(",")))


def _integers(text: str, name: str) -> Node:
    try:
        return Node(tuple(Node(int(part)) for part in text.split(",")))
    except ValueError:
        raise ConfigError(f"{name} is {shown(text)}; it must be whole numbers with commas between them") from None


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag of NVIDIA's plugin that has its place in the file too.

    Attributes:
        key: That place; what it may be is said there alone.
        names: The flag and its aliases, without dashes.
        variables: Environment variables; the first that is set counts.
        read: Makes of the text what would stand in the file.
    """

    key: str
    names: tuple[str, ...]
    variables: tuple[str, ...]
    help: str
    read: Callable[[str, str], Node] = _text

    @property
    def field(self) -> str:
        """Its field in `Overrides`."""
        field = self._place().field
        return f"imex_{field}" if self.key.startswith("imex.") else field

    @property
    def is_boolean(self) -> bool:
        return self.read is _boolean

    @property
    def is_list(self) -> bool:
        return self.read in (_texts, _integers)

    @property
    def default(self) -> str:
        """What holds where nothing is said, for people."""
        value: Any = Config()
        for key in self._path():
            value = getattr(value, key.field)
        match value:
            case bool():
                return str(value).lower()
            case float():
                return f"{value:g}s"
            case tuple():
                return ",".join(str(item) for item in value) or "none"
            case _:
                return str(value) or "none"

    def parse(self, text: str, name: str) -> Any:
        """The value of the field.

        Args:
            text: As it stands on the command line or in the environment; a list with commas.
            name: The flag or the variable, for the error.

        Raises:
            ConfigError: The value is not possible.
        """
        return self._place().convert(self.read(text, name), name)

    def is_set(self, text: str) -> bool:
        """Whether a variable with this text sets anything; NVIDIA's plugin skips an empty one only for numbers."""
        return bool(text) or self.read is not _integers

    def _place(self) -> Key:
        return self._path()[-1]

    def _path(self) -> list[Key]:
        table: Table | None = file.FILE
        path: list[Key] = []
        for step in self.key.split("."):
            assert table is not None
            path.append(table.keys[step])
            table = path[-1].table
        return path


# NVIDIA's plugin, cmd/nvidia-device-plugin/main.go: names, aliases and variables in its order of precedence.
FLAGS: Final = (
    Flag(
        "flags.migStrategy",
        ("mig-strategy",),
        ("MIG_STRATEGY",),
        "how MIG devices are offered: none, single (as nvidia.com/gpu) or mixed (as nvidia.com/mig-<profile>)",
    ),
    Flag(
        "flags.failOnInitError",
        ("fail-on-init-error",),
        ("FAIL_ON_INIT_ERROR",),
        "no effect: without a driver the daemon stays up, is not ready, and keeps trying",
        _boolean,
    ),
    Flag(
        "flags.nvidiaDriverRoot",
        ("nvidia-driver-root", "driver-root"),
        ("NVIDIA_DRIVER_ROOT",),
        "where the driver is installed on the host: '/' or for example '/run/nvidia/driver'",
    ),
    Flag(
        "flags.nvidiaDevRoot",
        ("nvidia-dev-root", "dev-root"),
        ("NVIDIA_DEV_ROOT",),
        "the host's folder above dev/nvidia*; the driver's root unless given",
    ),
    Flag(
        "flags.plugin.passDeviceSpecs",
        ("pass-device-specs",),
        ("PASS_DEVICE_SPECS",),
        "name the device nodes to the kubelet too",
        _boolean,
    ),
    Flag(
        "flags.plugin.deviceListStrategy",
        ("device-list-strategy",),
        ("DEVICE_LIST_STRATEGY",),
        "how the container's runtime learns of the devices: envvar, volume-mounts, cdi-annotations, cdi-cri; "
        "several with commas or by repeating the flag",
        _texts,
    ),
    Flag(
        "flags.plugin.deviceIDStrategy",
        ("device-id-strategy",),
        ("DEVICE_ID_STRATEGY",),
        "what the runtime is told: uuid or index",
    ),
    Flag(
        "flags.gdrcopyEnabled",
        ("gdrcopy-enabled",),
        ("GDRCOPY_ENABLED",),
        "start containers that have GPUs with GDRCopy",
        _boolean,
    ),
    Flag(
        "flags.gdsEnabled",
        ("gds-enabled",),
        ("GDS_ENABLED",),
        "start containers that have GPUs with GPUDirect Storage",
        _boolean,
    ),
    Flag(
        "flags.mofedEnabled",
        ("mofed-enabled",),
        ("MOFED_ENABLED",),
        "start containers that have GPUs with Mellanox OFED",
        _boolean,
    ),
    Flag(
        "flags.plugin.cdiAnnotationPrefix",
        ("cdi-annotation-prefix",),
        ("CDI_ANNOTATION_PREFIX",),
        "what the annotations of the strategy cdi-annotations begin with",
    ),
    Flag(
        "flags.plugin.nvidiaCTKPath",
        ("nvidia-cdi-hook-path", "nvidia-ctk-path"),
        ("NVIDIA_CDI_HOOK_PATH", "NVIDIA_CTK_PATH"),
        "the program on the host that runs the hooks of our CDI specification",
    ),
    Flag(
        "flags.plugin.containerDriverRoot",
        ("driver-root-ctr-path", "container-driver-root"),
        ("DRIVER_ROOT_CTR_PATH", "CONTAINER_DRIVER_ROOT"),
        "where the driver's root is mounted in this container",
    ),
    Flag(
        "flags.mpsRoot",
        ("mps-root",),
        ("MPS_ROOT",),
        "the host's folder of the MPS control daemons; needed for sharing by MPS",
    ),
    Flag(
        "flags.plugin.sharedDevicesAllocationPolicy",
        ("shared-devices-allocation-policy",),
        ("SHARED_DEVICES_ALLOCATION_POLICY",),
        "from which devices shared slices and MIG devices are preferred: distributed or packed",
    ),
    Flag(
        "flags.deviceDiscoveryStrategy",
        ("device-discovery-strategy",),
        ("DEVICE_DISCOVERY_STRATEGY",),
        "auto or nvml, which are the same; tegra is not supported",
    ),
    Flag(
        "imex.channelIDs",
        ("imex-channel-ids",),
        ("IMEX_CHANNEL_IDS",),
        "IMEX channels to inject: none or 0",
        _integers,
    ),
    Flag(
        "imex.required",
        ("imex-required",),
        ("IMEX_REQUIRED",),
        "whether a missing IMEX channel is an error",
        _boolean,
    ),
    # GPU feature discovery's (cmd/gpu-feature-discovery/main.go), whose labels this daemon writes.
    Flag(
        "flags.useNodeFeatureAPI",
        ("use-node-feature-api",),
        ("GFD_USE_NODE_FEATURE_API", "USE_NODE_FEATURE_API"),
        "label the Node through Node Feature Discovery's NodeFeature object",
        _boolean,
    ),
    Flag(
        "flags.gfd.oneshot",
        ("oneshot",),
        ("GFD_ONESHOT",),
        "write the labels once, and leave them",
        _boolean,
    ),
    Flag(
        "flags.gfd.noTimestamp",
        ("no-timestamp",),
        ("GFD_NO_TIMESTAMP",),
        "leave out the label nvidia.com/gfd.timestamp",
        _boolean,
    ),
    Flag(
        "flags.gfd.sleepInterval",
        ("sleep-interval",),
        ("GFD_SLEEP_INTERVAL",),
        "how often to look whether somebody changed the labels: 60s, 1h30m, infinite",
    ),
    Flag(
        "flags.gfd.outputFile",
        ("output-file",),
        ("GFD_OUTPUT_FILE",),
        "write the labels to this file too, for Node Feature Discovery",
    ),
    Flag(
        "flags.gfd.machineTypeFile",
        ("machine-type-file",),
        ("GFD_MACHINE_TYPE_FILE",),
        "the file that names the machine's type, for the label nvidia.com/gpu.machine",
    ),
)
