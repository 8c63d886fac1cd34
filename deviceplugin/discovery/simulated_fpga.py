"""What a kernel does when an image is written into an FPGA, on a tree that is only laid out."""

import time
from enum import StrEnum
from pathlib import Path
from typing import Final
from uuid import UUID

from deviceplugin.fpga import Family, Region

# fpga_manager's steps to `operating`; an image that user space hands over is not looked for first, and only newer
# kernels read its header apart (Linux, drivers/fpga/fpga-mgr.c).
_STEPS: Final = ("write init", "write", "write complete")
_STEPS_OF_A_FILE: Final = ("firmware request", "parse header", *_STEPS)
_ID_CHARACTERS: Final = 255


class Failure(StrEnum):
    """How the next programming of a region goes wrong: the state it ends in, or the line that `status` gains."""

    FIRMWARE_REQUEST = "firmware request error"
    PARSE_HEADER = "parse header error"
    WRITE_INIT = "write init error"
    WRITE = "write error"
    WRITE_COMPLETE = "write complete error"
    OPERATION = "reconfig operation error"
    CRC = "reconfig CRC error"
    INCOMPATIBLE = "reconfig incompatible image"
    PROTOCOL = "reconfig IP protocol error"
    OVERFLOW = "reconfig fifo overflow error"
    ID_UNCHANGED = "id unchanged"
    """Everything reports success, and the old image is still there."""


# What an image that was written in part leaves behind is unusable; after these the old one is untouched.
_BEFORE_WRITING: Final = frozenset({Failure.FIRMWARE_REQUEST, Failure.PARSE_HEADER, Failure.WRITE_INIT})
_STATES: Final = frozenset(failure for failure in Failure if failure.endswith(" error") and "reconfig" not in failure)


class SimulatedWriteError(Exception):
    """The simulated kernel refused an image, as a write to the real one's would be."""


class SimulatedKernel:
    """Writes images into the regions of a laid-out tree.

    It differs from the real thing in that a port under reset can be read, and in that XRT's cards walk through their
    fpga_manager's states, which the real driver uses for none of its own images.
    """

    def __init__(self, sys_root: Path, *, seconds: float = 0.5) -> None:
        """Take a tree that `materialise` laid out; programming takes `seconds`."""
        self._sys: Final = sys_root
        self._failures: Final = sys_root.parent / "failures"
        self._seconds: Final = seconds

    def program(self, region: Region, image: Path, expected: str) -> None:
        """Write an image; blocks as long as that takes, and leaves `expected` as the id of what is loaded.

        Raises:
            SimulatedWriteError: The image is not there, or a failure was asked for; the state and status say which.
        """
        try:
            failure = self._take_failure(region) if image.is_file() else Failure.FIRMWARE_REQUEST
            self._walk(region, failure, expected)
        except OSError as error:
            raise SimulatedWriteError(f"the simulated {region.device.id} has lost files: {error}") from error
        if failure not in (None, Failure.ID_UNCHANGED):
            raise SimulatedWriteError(f"writing {image} into {region.device.id} failed: {failure}")

    def _walk(self, region: Region, failure: Failure | None, expected: str) -> None:
        steps = _STEPS_OF_A_FILE if region.family is Family.FPGA_REGION else _STEPS
        end = failure if failure in _STATES else None
        if failure is not None and failure.startswith("reconfig"):
            end = Failure.WRITE_COMPLETE
        self._status(region, "")
        for step in steps:
            self._state(region, step)
            time.sleep(self._seconds / len(steps))
            if end is not None and end == f"{step} error":
                break
        if end is None:
            if failure is not Failure.ID_UNCHANGED:
                self._load(region, expected)
            self._state(region, "operating")
            return
        if failure not in _BEFORE_WRITING:
            self._load(region, "")
        if failure is not end:
            self._status(region, f"{failure}")
        self._state(region, end)

    def fail_next(self, region_id: str, failure: Failure) -> None:
        """Make the next programming of a region fail; also by hand, or from another process.

        It is the file `failures/<region id>` beside the tree, with the failure's value as its text.
        """
        self._failures.mkdir(exist_ok=True)
        _replace(self._failures / region_id, failure)

    def write(self, path: str, content: str | bytes) -> None:
        """Give a file below the root another content, at once, as an attribute's changes."""
        _replace(self._sys / path, content)

    def _take_failure(self, region: Region) -> Failure | None:
        file = self._failures / region.device.id
        try:
            failure = Failure(file.read_text(encoding="ascii").strip())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise SimulatedWriteError(f"{file}: {error}; known are {', '.join(Failure)}") from error
        file.unlink()
        return failure

    def _manager(self, region: Region) -> Path | None:
        """The folder with `state`: named by `control`, below it with XRT, nowhere with the OPAE driver."""
        control = self._sys / region.control
        if (control / "state").is_file():
            return control
        return next(iter(sorted(control.glob("fmgr.m.*/fpga_manager/fpga*"))), None) if region.control else None

    def _state(self, region: Region, state: str) -> None:
        if manager := self._manager(region):
            _replace(manager / "state", state)

    def _status(self, region: Region, status: str) -> None:
        if (manager := self._manager(region)) and (manager / "status").is_file():
            _replace(manager / "status", status)

    def _load(self, region: Region, image: str) -> None:
        file = self._id_file(region)
        if region.family is Family.XRT and image:
            image = str(UUID(image))  # as XRT spells it, with dashes
        _replace(file, f"{image}\0".encode() if file.name == "firmware-name" else image[:_ID_CHARACTERS])

    def _id_file(self, region: Region) -> Path:
        match region.family:
            case Family.XRT:
                return self._sys / "bus/pci/devices" / region.device.place.pci_address / "xclbinuuid"
            case Family.FPGA_REGION:
                name = region.device.id.rpartition("-")[2]
                return (self._sys / "class/fpga_region" / name / "of_node/firmware-name").resolve()
            case Family.DFL | Family.OPAE:
                kind = "fpga_region" if region.family is Family.DFL else "fpga"
                card = self._sys / "bus/pci/devices" / region.device.place.pci_address
                port = region.nodes[0].rpartition("/")[2]
                for folder in card.glob(f"{kind}/*/{port}"):
                    return folder / "afu_id"
                raise FileNotFoundError(f"{card}/{kind}/*/{port}")


def _replace(file: Path, content: str | bytes) -> None:
    """A reader sees the old content or the new one, never a part."""
    beside = file.with_name(f".{file.name}.new")
    text = content if isinstance(content, bytes) else f"{content}\n".encode() if content else b""
    beside.write_bytes(text)
    beside.replace(file)
