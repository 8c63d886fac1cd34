"""Whether a GPU is fit for use, from what the driver counts and asks for."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

# NVML's nvmlDeviceGpuRecoveryAction_t.
RECOVERY_ACTIONS: Final = {
    0: "none",
    1: "gpu-reset",
    2: "node-reboot",
    3: "drain-p2p",
    4: "drain-and-reset",
    5: "recover-imex-domain",
    6: "bus-reset",
    7: "system-reboot",
}


@dataclass(frozen=True, slots=True)
class Condition:
    """What the driver says of a GPU that answers.

    Attributes:
        recovery_action: NVML's number; None where the driver or the GPU does not report one.
        uncorrected_errors: Uncorrected memory errors since the driver was loaded; None without ECC.
    """

    recovery_action: int | None
    remapping_pending: bool = False
    remapping_failed: bool = False
    retirement_pending: bool = False
    uncorrected_errors: int | None = None


def reasons(condition: Condition, uncorrected_before: int | None) -> str:
    """Why a GPU should not be used, as one line; empty if nothing speaks against it.

    Args:
        condition: Now.
        uncorrected_before: The count of uncorrected errors when it was last looked at.
    """
    return "; ".join(_reasons(condition, uncorrected_before))


def _reasons(condition: Condition, uncorrected_before: int | None) -> Iterator[str]:
    action = condition.recovery_action
    if action is None:
        # Silence is no proof: memory queries go on answering after most XIDs.
        yield (
            "the driver does not report a recovery action, so that recovery cannot be confirmed; check the GPU, "
            "then restart this plugin"
        )
    elif action != 0:
        yield f"the driver asks for {RECOVERY_ACTIONS.get(action, f'recovery action {action}')}"
    if condition.remapping_failed:
        yield "remapping of a memory row failed: the GPU needs replacement"
    if condition.remapping_pending:
        yield "remapping of a memory row is pending: the GPU needs a reset"
    if condition.retirement_pending:
        yield "retirement of a memory page is pending: the GPU needs a reset"
    new = (condition.uncorrected_errors or 0) - (uncorrected_before or 0)
    if uncorrected_before is not None and new > 0:
        yield f"{new} new uncorrected memory errors"
