"""What single values of the configuration can be, and the sentences that refuse the others."""

import re
from collections.abc import Callable
from enum import StrEnum
from typing import Final, Literal, TypeVar

from deviceplugin.config.model import DeviceListStrategy
from tasuki.kube.names import NVIDIA_DOMAIN
from tasuki.process.document import Node
from tasuki.process.keys import described, fail
from tasuki.process.sentences import alternatives, shown

_Choice = TypeVar("_Choice", bound=StrEnum)

# NVIDIA's limit for the whole name; Kubernetes' own is 63 after the slash.
LONGEST_RESOURCE_NAME: Final = 63

# The kubelet takes a list of 4 MiB (gRPC's default limit), which is fewer devices than this whatever their ids.
MOST_REPLICAS: Final = 65_536

_SUBDOMAIN: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_LABEL_VALUE: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_HEX_ID: Final = re.compile(r"[0-9a-f]{32}")
_FILE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,254}")
_UUID: Final = r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_DEVICE_UUID: Final = re.compile(rf"GPU-{_UUID}|MIG-{_UUID}|MIG-GPU-{_UUID}/\d{{1,9}}/\d{{1,9}}")
_DEVICE_INDEX: Final = re.compile(r"\d{1,9}(:\d{1,9})?")
_DURATION_PART: Final = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_UNIT_SECONDS: Final = {
    "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0,
}  # fmt: skip


def is_subdomain(text: str) -> bool:
    """Whether Kubernetes would take it for a DNS-1123 subdomain."""
    return len(text) <= 253 and _SUBDOMAIN.fullmatch(text) is not None


def canonical_id(text: str) -> str:
    """One spelling for each UUID: 32 lower-case digits; anything else in lower case.

    Cards spell UUIDs with and without dashes, in either case.
    """
    lower = text.lower()
    digits = lower.replace("-", "")
    return digits if _HEX_ID.fullmatch(digits) else lower


def hex_id(node: Node, path: str) -> str:
    """A UUID in any spelling."""
    text = canonical_id(string(node, path))
    if _HEX_ID.fullmatch(text) is None:
        raise fail(node, path, f"{described(node)}; it must be 32 hexadecimal digits, with or without dashes")
    return text


def file_name(node: Node, path: str) -> str:
    """The name of a file in a folder that is known; no path."""
    text = string(node, path)
    if _FILE_NAME.fullmatch(text) is None:
        raise fail(
            node,
            path,
            f"is {shown(text)}; it must be a file's name without folder: letters, digits, '.', '_', '+' and '-', "
            "beginning with a letter or digit",
        )
    return text


def dns_label(node: Node, path: str) -> str:
    """A name without dots, as Kubernetes spells them."""
    text = string(node, path)
    if _LABEL.fullmatch(text) is None:
        raise fail(
            node,
            path,
            f"is {shown(text)}; it must be at most 63 lower-case letters, digits and '-', and begin and end with a "
            "letter or digit",
        )
    return text


def label_value(node: Node, path: str) -> str:
    """What a label of the Node may be set to; empty too."""
    text = string(node, path)
    if text and _LABEL_VALUE.fullmatch(text) is None:
        raise fail(
            node,
            path,
            f"is {shown(text)}; it must be at most 63 letters, digits, '-', '_' and '.', and begin and end with a "
            "letter or digit",
        )
    return text


def count(at_most: int) -> Callable[[Node, str], int]:
    """A whole number of things, at least one."""

    def convert(node: Node, path: str) -> int:
        number = integer(node, path)
        if not 1 <= number <= at_most:
            raise fail(node, path, f"is {number}; it must be from 1 to {at_most}")
        return number

    return convert


def boolean(node: Node, path: str) -> bool:
    if not isinstance(node.value, bool):
        quoted = isinstance(node.value, str) and node.value.lower() in ("true", "false")
        remedy = ", without quotes" if quoted else ""
        raise fail(node, path, f"{described(node)}; it must be true or false{remedy}")
    return node.value


def string(node: Node, path: str) -> str:
    if not isinstance(node.value, str):
        remedy = "; put it in quotes" if isinstance(node.value, bool | int | float) else ""
        raise fail(node, path, f"{described(node)}; it must be a string{remedy}")
    return node.value


def integer(node: Node, path: str) -> int:
    """A whole number; `4.0` is one, as for NVIDIA's parser."""
    value = node.value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise fail(node, path, f"{described(node)}; it must be a whole number")
    return value


def choice(enum: type[_Choice]) -> Callable[[Node, str], _Choice]:
    """One of an enumeration's values."""

    def convert(node: Node, path: str) -> _Choice:
        if not isinstance(node.value, str) or node.value not in list(enum):
            raise fail(node, path, f"{described(node)}; it must be {alternatives(enum)}")
        return enum(node.value)

    return convert


def number(at_least: float, at_most: float, *, or_zero: bool = False) -> Callable[[Node, str], float]:
    """A number of seconds within limits."""

    def convert(node: Node, path: str) -> float:
        value = node.value
        if isinstance(value, int | float) and not isinstance(value, bool):
            seconds = float(value)
            if at_least <= seconds <= at_most or (or_zero and not seconds):
                return seconds
        zero = "0 or " if or_zero else ""
        raise fail(node, path, f"{described(node)}; it must be {zero}a number from {at_least:g} to {at_most:g}")

    return convert


def root_path(node: Node, path: str) -> str:
    """A folder that other paths are put behind; empty means the root."""
    return absolute_path(node, path) if node.value else "/"


def optional_path(node: Node, path: str) -> str:
    return absolute_path(node, path) if node.value else ""


def absolute_path(node: Node, path: str) -> str:
    text = string(node, path)
    if not text.startswith("/") or "\0" in text:
        raise fail(node, path, f"{described(node)}; it must be an absolute path, one that begins with '/'")
    return text


def resource_name(node: Node, path: str) -> str:
    """A fully qualified name; `nvidia.com/` is put in front where there is no domain."""
    text = string(node, path)
    name = text if "/" in text else f"{NVIDIA_DOMAIN}/{text}"
    check_resource_name(name, node, path)
    return name


def check_resource_name(name: str, node: Node, path: str) -> None:
    """Refuse what the kubelet would refuse to register, and what NVIDIA's plugin refuses.

    Raises:
        ConfigError: What is wrong with it.
    """
    domain, _, last = name.partition("/")
    if len(name) > LONGEST_RESOURCE_NAME:
        raise fail(
            node,
            path,
            f"is {shown(name)}, {len(name)} characters; at most {LONGEST_RESOURCE_NAME}, domain included",
        )
    if not is_subdomain(last):
        raise fail(
            node,
            path,
            f"is {shown(name)}; after the slash it must be lower-case letters, digits, '-' and '.', "
            "and begin and end with a letter or digit",
        )
    if not is_subdomain(domain):
        raise fail(node, path, f"is {shown(name)}; before the slash it must be a DNS domain in lower case")
    if "kubernetes.io" in domain or domain.startswith("requests."):
        raise fail(node, path, f"is {shown(name)}; Kubernetes keeps that domain for itself, use one of your own")


def replicas(node: Node, path: str) -> int:
    count = integer(node, path)
    if not 2 <= count <= MOST_REPLICAS:
        raise fail(node, path, f"is {count}; it must be from 2 to {MOST_REPLICAS}")
    return count


def devices(node: Node, path: str) -> Literal["all"] | int | tuple[str, ...]:
    """`all`, how many, or which."""
    if node.value == "all":
        return "all"
    if isinstance(node.value, tuple):
        if not node.value:
            raise fail(node, path, "is an empty list; leave it out to share all devices")
        chosen = tuple(_device(item, f"{path}[{i}]") for i, item in enumerate(node.value))
        twice = next((device for i, device in enumerate(chosen) if device in chosen[:i]), None)
        if twice is not None:
            raise fail(node, path, f"has {twice!r} twice")
        return chosen
    if isinstance(node.value, str | bool | None):
        raise fail(node, path, f"{described(node)}; it must be 'all', a number of devices, or a list of devices")
    count = integer(node, path)
    if count <= 0:
        raise fail(node, path, f"is {count}; a number of devices must be at least 1")
    return count


def _device(node: Node, path: str) -> str:
    text = str(node.value)
    if not isinstance(node.value, bool) and isinstance(node.value, int | str):
        if _DEVICE_INDEX.fullmatch(text):
            return ":".join(str(int(index)) for index in text.split(":"))
        if _DEVICE_UUID.fullmatch(text):
            return text
    raise fail(
        node,
        path,
        f"{described(node)}; it must be a GPU's index (0), a MIG device's index (0:1) or a UUID (GPU-…, MIG-…)",
    )


def device_list_strategies(node: Node, path: str) -> tuple[DeviceListStrategy, ...]:
    """One or a list, each once."""
    one = choice(DeviceListStrategy)
    if not isinstance(node.value, tuple):
        return (one(node, path),)
    if not node.value:
        raise fail(node, path, f"is an empty list; it must name {alternatives(DeviceListStrategy)}")
    return tuple(dict.fromkeys(one(item, f"{path}[{i}]") for i, item in enumerate(node.value)))


def discovery_strategy(node: Node, path: str) -> Literal["auto", "nvml"]:
    match node.value:
        case "auto" | "nvml":
            return node.value
        case "tegra":
            raise fail(
                node, path, "is 'tegra'; Tegra devices are not supported here, keep NVIDIA's plugin on those nodes"
            )
        case _:
            raise fail(node, path, f"{described(node)}; it must be auto or nvml")


def imex_channels(node: Node, path: str) -> tuple[int, ...]:
    """NVIDIA's plugin injects no other channel than the first."""
    if not isinstance(node.value, tuple):
        raise fail(node, path, f"{described(node)}; it must be the list [] or [0]")
    channels = tuple(integer(item, f"{path}[{i}]") for i, item in enumerate(node.value))
    if channels not in ((), (0,)):
        raise fail(node, path, f"is {list(channels)}; it must be [] or [0]")
    return channels


def duration_seconds(node: Node, path: str) -> float:
    """Nanoseconds as a number, Go's spelling (`1m30s`), or `infinite`."""
    seconds = _seconds(node.value)
    if seconds is None:
        raise fail(node, path, f"{described(node)}; it must be a duration such as '60s' or '1h30m', or 'infinite'")
    if seconds <= 0:
        raise fail(node, path, f"{described(node)}; it must be longer than nothing")
    return seconds


def _seconds(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return value / 1e9
    if not isinstance(value, str):
        return None
    if value == "infinite":
        return float("inf")
    text = value.removeprefix("+")
    parts = _DURATION_PART.findall(text)
    if not parts or "".join(amount + unit for amount, unit in parts) != text:
        return 0.0 if text == "0" else None
    return sum(float(amount) * _UNIT_SECONDS[unit] for amount, unit in parts)
