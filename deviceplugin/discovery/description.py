"""The YAML file that describes a machine to be simulated: its schema, and reading one."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from tasuki.process import document
from tasuki.process.document import ConfigError
from tasuki.process.keys import mapping
from tasuki.process.sentences import shown

_SHIPPED: Final = Path(__file__).parent.parent / "machines"

Version = Annotated[str, msgspec.Meta(pattern=r"^\d+\.\d+$", description="Two numbers in quotes.")]
PciePath = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^pci[0-9a-f]{4}:[0-9a-f]{2}(/[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])+$",
        description="From the root complex to the GPU, as /sys/bus/pci/devices/<address> links to it.",
    ),
]
Count = Annotated[int, msgspec.Meta(ge=1)]
Number = Annotated[int, msgspec.Meta(ge=0)]
Watts = Annotated[float, msgspec.Meta(gt=0)]
RecoveryAction = Literal["none", "gpu-reset", "node-reboot", "drain-p2p", "drain-and-reset", "unreported"]


class DescriptionError(ValueError):
    """A description cannot be read, or contradicts itself."""


class _Node(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """A mapping of the file."""


class FaultDescription(_Node, frozen=True, kw_only=True):
    """What is wrong with a GPU, for as long as it stands in the file.

    Attributes:
        lost: It does not answer, as one that has fallen off the bus.
        xid: The driver reports this error number once, when the entry appears or changes.
        gi: The GPU instance that the XID belongs to; absent: the whole GPU.
        ci: The compute instance that the XID belongs to.
        recovery_action: What the driver asks for; `unreported`: a driver that knows of no such thing.
        row_remapping: Of memory rows.
        page_retirement_pending: Of memory pages.
        uncorrected_errors: Uncorrected memory errors since the driver was loaded.
    """

    lost: bool = False
    xid: Number | None = None
    gi: Number | None = None
    ci: Number | None = None
    recovery_action: RecoveryAction = "none"
    row_remapping: Literal["none", "pending", "failed"] = "none"
    page_retirement_pending: bool = False
    uncorrected_errors: Number = 0


class GpuDefaults(_Node, frozen=True, kw_only=True):
    """What holds for every GPU that does not say otherwise.

    Attributes:
        model: The product name as the driver spells it.
        memory_mib: Total memory as `nvidia-smi` shows it.
        compute_capability: For example `"8.0"`.
        numa_node: The memory node next to it; absent: the firmware does not say.
        fabric_clique: `<cluster uuid>.<clique id>` of a GPU in an NVLink fabric.
        power_limit_watts: The most that it may draw; absent: the driver does not say.
    """

    model: str | None = None
    memory_mib: Count | None = None
    compute_capability: Version | None = None
    numa_node: Number | None = None
    fabric_clique: str | None = None
    power_limit_watts: Watts | None = None


class GpuDescription(GpuDefaults, frozen=True, kw_only=True):
    """One GPU.

    Attributes:
        pcie_path: Ends with its PCI address.
        uuid: Its id; absent: derived from the machine's name and the GPU's position, the same at every start.
        minor: The number in /dev/nvidia<minor>; absent: its position.
        mig_enabled: Absent: as `mig` implies.
        mig: How many MIG devices of each profile it is cut into: `{3g.20gb: 1, 1g.5gb: 4}`.
        fault: What is wrong with it.
    """

    pcie_path: PciePath
    uuid: str | None = None
    minor: Number | None = None
    mig_enabled: bool | None = None
    mig: dict[str, Count] = {}
    fault: FaultDescription | None = None


class NvSwitchDescription(_Node, frozen=True, kw_only=True):
    """NVSwitches that join all GPUs; `lanes` is what each GPU has to them together."""

    lanes: Count


class NvLinkDescription(_Node, frozen=True, kw_only=True):
    """Lanes that join two GPUs directly; `gpus` are two positions in the list of GPUs."""

    gpus: tuple[Number, Number]
    lanes: Count


class MachineDescription(_Node, frozen=True, kw_only=True):
    """The whole file.

    Attributes:
        name: Ids are derived from it.
        product: The machine's product name, as in DMI.
        driver_version: As the driver spells it.
        cuda_version: The newest CUDA that the driver supports, for example `"12.2"`.
        gpu_defaults: What the entries of `gpus` share.
        gpus: In the driver's order.
        nvswitch: For machines with NVSwitches.
        nvlinks: For machines whose GPUs are joined directly.
    """

    name: Annotated[str, msgspec.Meta(min_length=1)]
    product: str = ""
    driver_version: str
    cuda_version: Version
    gpu_defaults: GpuDefaults = GpuDefaults()
    gpus: tuple[GpuDescription, ...]
    nvswitch: NvSwitchDescription | None = None
    nvlinks: tuple[NvLinkDescription, ...] = ()


_NODES: Final[Mapping[str, type[_Node]]] = {
    "": MachineDescription,
    "gpuDefaults": GpuDefaults,
    "gpus[]": GpuDescription,
    "gpus[].fault": FaultDescription,
    "nvswitch": NvSwitchDescription,
    "nvlinks[]": NvLinkDescription,
}


def shipped() -> list[str]:
    """Names of the descriptions that come with the program."""
    return sorted(file.stem for file in _SHIPPED.glob("*.yaml"))


def path_of(name_or_path: str) -> Path:
    """The file of a shipped description, or the path itself where it is one.

    Raises:
        DescriptionError: It is neither.
    """
    if name_or_path in shipped():
        return _SHIPPED / f"{name_or_path}.yaml"
    if "/" in name_or_path or name_or_path.endswith((".yaml", ".yml")):
        return Path(name_or_path)
    raise DescriptionError(
        f"there is no machine description {name_or_path!r}; shipped are {', '.join(shipped())}, "
        "and a path to a YAML file is taken as well"
    )


def load(name_or_path: str) -> MachineDescription:
    """Read a description by its shipped name or from a file.

    Raises:
        DescriptionError: There is no such description, or it is wrong.
    """
    path = path_of(name_or_path)
    try:
        return decode(read(path))
    except DescriptionError as error:
        raise DescriptionError(f"machine description {path}: {error}") from error


def read(path: Path) -> str:
    """The text of a description.

    Raises:
        DescriptionError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            text = file.read(document.MAX_BYTES + 1)
        if len(text) > document.MAX_BYTES:
            raise DescriptionError(f"is larger than {document.MAX_BYTES} bytes")
        return text.decode()
    except OSError as error:
        raise DescriptionError(f"cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DescriptionError(f"is not UTF-8: byte {error.start} is {text[error.start]:#04x}") from None


def decode(text: str) -> MachineDescription:
    """Parse a description.

    Raises:
        DescriptionError: With the field, its value and what is expected.
    """
    try:
        root = document.read(text.encode())
        mapping(root, "")
    except ConfigError as error:
        raise DescriptionError(str(error)) from error
    content = document.plain(root)
    try:
        return msgspec.convert(content, MachineDescription)
    except msgspec.ValidationError as error:
        raise DescriptionError(_explained(str(error), content)) from error


def json_schema() -> bytes:
    """The file's JSON schema, as in docs/machine-description.schema.json."""
    schema = msgspec.json.schema(MachineDescription)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return msgspec.json.format(msgspec.json.encode(schema, order="deterministic"), indent=2) + b"\n"


def _explained(message: str, content: object) -> str:
    problem, _, path = message.partition(" - at `$")
    where = path.rstrip("`").lstrip(".")
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", problem):
        known = [field.encode_name for field in msgspec.structs.fields(_NODES[re.sub(r"\[\d+\]", "[]", where)])]
        near = get_close_matches(unknown[1], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        return f"{where + ': ' if where else ''}unknown key {shown(unknown[1])}; {hint}"
    expected = problem[0].lower() + problem[1:]
    if missing := re.fullmatch(r"Object missing required field `(.*)`", problem):
        return f"{where + ': ' if where else ''}{missing[1]!r} is missing; add it"
    value = _value_at(content, where)
    remedy = "; write the number in quotes" if isinstance(value, float) and "`str" in expected else ""
    return f"{where or 'the file'} is {shown(value)}: {expected}{remedy}"


def _value_at(content: Any, where: str) -> object:
    for step in re.findall(r"[^.\[\]]+", where):
        if isinstance(content, list) and step.isdigit():
            content = content[int(step)]
        elif isinstance(content, dict) and step in content:
            content = content[step]
    return content
