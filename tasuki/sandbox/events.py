"""What happens between the kubelet and its device plugins, one record for each fact."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Registered:
    """A plugin registered a resource and could be dialled; `endpoint` is its socket's name."""

    resource: str
    endpoint: str

    def __str__(self) -> str:
        return f"registered {self.resource} by {self.endpoint}"


@dataclass(frozen=True, slots=True)
class Refused:
    """A registration was answered with an error."""

    resource: str
    endpoint: str
    reason: str

    def __str__(self) -> str:
        return f"refused {self.resource} by {self.endpoint}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Listed:
    """A plugin sent its devices."""

    resource: str
    healthy: int
    total: int

    def __str__(self) -> str:
        unhealthy = self.total - self.healthy
        return f"{self.resource} has {self.total}" + (f", {unhealthy} of them unhealthy" if unhealthy else "")


@dataclass(frozen=True, slots=True)
class Disconnected:
    """A plugin is gone; its devices are handed out no more."""

    resource: str
    reason: str

    def __str__(self) -> str:
        return f"lost {self.resource}: {self.reason}"


Event = Registered | Refused | Listed | Disconnected
