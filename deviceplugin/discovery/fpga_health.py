"""What the kernel's words and registers say about an FPGA's health; plain functions of values."""

import re
from typing import Final

from tasuki.devices.model import HEALTHY, Health, unhealthy

# The states of an fpga_manager (Linux, Documentation/ABI/testing/sysfs-class-fpga-manager and drivers/fpga/fpga-mgr.c).
# `unknown` is no complaint: Intel's FME manager says so until the first image since boot is written, and that of Zynq
# UltraScale+ while nothing is configured. `power up` and `reset` are those of an FPGA that waits for its first image.
IDLE_STATES: Final = frozenset({"unknown", "power up", "reset", "operating"})
EMPTY_STATES: Final = frozenset({"power up", "reset"})
PROGRAMMING_STATES: Final = frozenset({"firmware request", "parse header", "write init", "write", "write complete"})
ERROR_STATES: Final = {
    "firmware request error": "the image could not be found",
    "parse header error": "the image's header is wrong",
    "write init error": "the FPGA could not be prepared for an image",
    "write error": "writing an image failed",
    "write complete error": "the FPGA did not start after an image was written",
}
STATUS_LINES: Final = {
    "reconfig operation error": "an operation was out of order",
    "reconfig CRC error": "the image arrived damaged",
    "reconfig incompatible image": "the image is for other hardware",
    "reconfig IP protocol error": "the protocol of the reconfiguration hardware was violated",
    "reconfig fifo overflow error": "the image came faster than the hardware takes it",
}

# Every reason that ends by itself begins so; a programmer that waits for its own image may look for it.
BEING_PROGRAMMED: Final = "being programmed"

# Every reason that ends with the next good image has one of these.
_REMEDY: Final = "; write a good image"
_STATUS: Final = ": fpga_manager's status is "

_HEX_ID: Final = re.compile(r"[0-9a-f]{32}")
_ALL_ONES: Final = "f" * 32


def state_reason(state: str) -> str:
    """Why a manager in this state cannot be used; empty if it can."""
    if state in IDLE_STATES:
        return ""
    if state in PROGRAMMING_STATES:
        return f"{BEING_PROGRAMMED}: fpga_manager's state is {state!r}"
    if state == "power off":
        return "the FPGA has no power: fpga_manager's state is 'power off'"
    if meaning := ERROR_STATES.get(state):
        return f"{meaning}: fpga_manager's state is {state!r}{_REMEDY}"
    return f"fpga_manager's state {state[:64]!r} is none that is known"


def status_reasons(status: str) -> list[str]:
    """What went wrong in the last programming, one reason for each line of a manager's `status`."""
    lines = [line.strip() for line in status.splitlines() if line.strip()]
    return [
        f"{STATUS_LINES.get(line, 'the last programming failed')}{_STATUS}{line[:64]!r}"
        for line in lines[: len(STATUS_LINES)]
    ]


def register_reason(file: str, value: int) -> str:
    """Why a non-zero error register speaks against its region or card; empty if it is zero."""
    if value == 0:
        return ""
    return f"{file} is {value:#x}; look for the cause, then write that value to the file to clear it"


def intel_id(text: str) -> str:
    """An id of 32 hexadecimal digits in lower case, empty for one that means nothing: none, all zeros, all ones."""
    text = text.lower()
    if _HEX_ID.fullmatch(text) and text.strip("0") and text != _ALL_ONES:
        return text
    return ""


def intel_id_reason(name: str, text: str) -> str:
    """Why an id that was read speaks against the device; empty for a good one, and for none at all."""
    if text.lower() == _ALL_ONES:
        # Reads from a PCIe device that does not answer give all ones.
        return f"{name} reads as all ones: the card does not answer"
    if text and not _HEX_ID.fullmatch(text.lower()):
        return f"{name} is {text[:64]!r}, not 32 hexadecimal digits"
    return ""


def ends_with_a_good_image(reasons: list[str]) -> bool:
    """Whether there are reasons, and each is that of a manager whose last programming failed."""
    said = [reason for reason in reasons if reason]
    return bool(said) and all(reason.endswith(_REMEDY) or _STATUS in reason for reason in said)


def health_of(reasons: list[str]) -> Health:
    """One Health of several reasons, each said once."""
    said = list(dict.fromkeys(reason for reason in reasons if reason))
    return unhealthy("; ".join(said)) if said else HEALTHY
