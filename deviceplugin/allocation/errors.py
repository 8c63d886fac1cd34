"""Why slices cannot be handed out; the texts reach the pod's events."""

from deviceplugin.container import RefusedError


class AllocationError(RefusedError):
    """The kubelet's request cannot be answered."""


class UnknownSliceError(AllocationError):
    """The resource has no slice of this name (any more)."""


class UnhealthySliceError(AllocationError):
    """The device behind the slice is not to be used."""


class RepeatedSliceError(AllocationError):
    """One slice is asked for twice."""


class TooManySlicesError(AllocationError):
    """More slices than the configuration allows in one request."""


class MissingNodeError(AllocationError):
    """A device file that the container needs does not exist on this machine."""


class MpsOnMigError(AllocationError):
    """MPS is configured for a MIG device."""
