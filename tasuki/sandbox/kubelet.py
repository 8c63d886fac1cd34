"""A kubelet's device manager that keeps the real one's rules, without a cluster; read `admit` first.

Read from kubernetes 1.36, pkg/kubelet/cm/devicemanager/manager.go.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from grpc import aio

from protos.deviceplugin.v1beta1 import api_pb2, api_pb2_grpc
from tasuki.process.unix_sockets import LONGEST_PATH_BYTES
from tasuki.sandbox.admission import UNEXPECTED_ADMISSION_ERROR, Admission, AdmittedContainer, HeldDevices
from tasuki.sandbox.allocation import AdmissionError, choose, reserve
from tasuki.sandbox.container_options import merge
from tasuki.sandbox.endpoint import Endpoint, PluginCallError
from tasuki.sandbox.events import Event, Refused, Registered
from tasuki.sandbox.plugins import Plugins, Timeouts
from tasuki.sandbox.pods import Container, Pod
from tasuki.sandbox.registration import RegistrationRefusedError, RegistrationServicer, check
from tasuki.sandbox.views import ResourceView

SOCKET_NAME: Final = "kubelet.sock"


class Kubelet:
    """Serves Registration in a folder, follows the plugins that register, and admits pods.

    Use it as `async with Kubelet(folder) as kubelet`; `stop`, `start` and `restart` in between are what happens
    when a node's kubelet is upgraded.

    Args:
        folder: Where the sockets are; made if it is absent.
        observe: Called with each event as it happens; must not block.
    """

    def __init__(
        self, folder: Path, *, timeouts: Timeouts | None = None, observe: Callable[[Event], None] | None = None
    ) -> None:
        self.folder: Final = folder
        self.events: Final[list[Event]] = []
        self._observe = observe
        self._plugins = Plugins(timeouts or Timeouts(), self._tell)
        self._server: aio.Server | None = None
        self._refusal: str | None = None
        # The kubelet admits one pod at a time.
        self._admitting = asyncio.Lock()
        self._pods: dict[str, Pod] = {}
        # By pod, container and resource.
        self._held: dict[str, dict[str, dict[str, HeldDevices]]] = {}

    @property
    def socket(self) -> Path:
        return self.folder / SOCKET_NAME

    @property
    def registrations(self) -> list[Registered]:
        """Every accepted registration since the beginning, over all restarts."""
        return [event for event in self.events if isinstance(event, Registered)]

    def resources(self) -> Mapping[str, ResourceView]:
        """A snapshot of what the node offers, in the order of the names."""
        return self._plugins.views()

    def pods(self) -> Sequence[Pod]:
        """The admitted pods that have not ended, oldest first."""
        return tuple(self._pods.values())

    def held(self, uid: str, container: str) -> Mapping[str, HeldDevices]:
        """What a container of an admitted pod holds, by resource."""
        return self._held.get(uid, {}).get(container, {})

    def endpoint(self, resource: str) -> Endpoint:
        """The connection to a resource's plugin, for callers that measure or misuse it."""
        return self._plugins.endpoint(resource)

    def refuse_registrations(self, reason: str | None) -> None:
        """Fault injection: answer every registration with this error; None ends it."""
        self._refusal = reason

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Remove the sockets of earlier plugins, which is their sign to register again, and serve.

        What pods hold is still known, as the real kubelet knows it from its checkpoint; resources are known by
        name alone, without devices, until their plugins register.
        """
        self.folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        if len(bytes(self.socket)) > LONGEST_PATH_BYTES:
            raise OSError(
                f"{self.socket} is longer than {LONGEST_PATH_BYTES} bytes, which a socket's path cannot be; "
                "use a shorter folder"
            )
        for path in sorted(self.folder.iterdir()):
            if path.is_socket():
                path.unlink(missing_ok=True)
        self._plugins.forget_devices()
        server = aio.server()
        api_pb2_grpc.add_RegistrationServicer_to_server(RegistrationServicer(self._register), server)
        server.add_insecure_port(f"unix:{self.socket}")
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Let go of all plugins and stop serving; the folder's other sockets stay."""
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(grace=None)
            self.socket.unlink(missing_ok=True)
        await self._plugins.close()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def wait_for(
        self, predicate: Callable[[Mapping[str, ResourceView]], bool], timeout_seconds: float
    ) -> Mapping[str, ResourceView]:
        """Wait until the resources are as the predicate wants them; returns them.

        Raises:
            TimeoutError: With what there is instead.
        """
        return await self._plugins.wait_for(predicate, timeout_seconds)

    async def admit(self, pod: Pod) -> Admission:
        """Allocate for each container, init containers first, then start them in the same order.

        What no plugin has ever registered is passed over: keeping such pods away is the scheduler's work.
        """
        async with self._admitting:
            if pod.uid in self._pods:
                raise ValueError(f"pod {pod} ({pod.uid}) runs already; end it first")
            reusable: dict[str, set[str]] = {}
            try:
                for container in pod.containers:
                    await self._allocate(pod, container, reusable)
            except BaseException as error:
                self._held.pop(pod.uid, None)
                if isinstance(error, AdmissionError | PluginCallError):
                    message = f"Allocate failed due to {error}, which is unexpected"
                    return Admission(pod, UNEXPECTED_ADMISSION_ERROR, message)
                raise
            self._pods[pod.uid] = pod
            return Admission(pod, containers=tuple([await self._started(pod, c) for c in pod.containers]))

    def end(self, uid: str) -> None:
        """The pod has ended: its devices are free again."""
        self._pods.pop(uid, None)
        self._held.pop(uid, None)
        self._plugins.notify()

    async def _register(self, request: api_pb2.RegisterRequest) -> None:
        try:
            check(request, self._refusal)
            await self._plugins.connect(request.resource_name, self.folder / request.endpoint)
        except (RegistrationRefusedError, PluginCallError) as error:
            self._tell(Refused(request.resource_name, request.endpoint, str(error)))
            self._plugins.notify()
            raise

    async def _allocate(self, pod: Pod, container: Container, reusable: dict[str, set[str]]) -> None:
        """One Allocate for each resource of a container, then say what later containers may reuse."""
        for resource, wanted in sorted(container.wants.items()):
            view = self._plugins.view(resource)
            if view is None:
                continue
            reservation = reserve(view, wanted, self._in_use(resource), reusable.get(resource, set()))
            if wanted == 0:
                continue
            endpoint = self.endpoint(resource)
            preferred: list[str] = []
            if view.prefers and reservation.missing > 0:
                preferred = await endpoint.preferred(
                    reservation.available | reservation.taken, reservation.taken, reservation.size
                )
            devices = choose(reservation, preferred)
            answer = await endpoint.allocate(devices)
            by_resource = self._held.setdefault(pod.uid, {}).setdefault(container.name, {})
            numa_nodes = {device: view.numa_nodes.get(device) for device in devices}
            by_resource[resource] = HeldDevices(tuple(devices), numa_nodes, answer)
        for resource, held in self.held(pod.uid, container.name).items():
            if container.init and not container.sidecar:
                reusable.setdefault(resource, set()).update(held.devices)
            else:
                reusable.setdefault(resource, set()).difference_update(held.devices)

    async def _started(self, pod: Pod, container: Container) -> AdmittedContainer:
        """The container with all that the plugins and the pod set, after PreStartContainer."""
        held = self.held(pod.uid, container.name)
        options = merge({resource: devices.answer for resource, devices in held.items()})
        seconds, not_started = await self._pre_start(held)
        return AdmittedContainer(
            container=container,
            devices={resource: held[resource].devices for resource in sorted(held)},
            # The pod's own environment comes after the plugins' and so wins (kubelet_pods.go).
            edits=replace(options.edits, envs={**options.edits.envs, **container.env}),
            conflicts=options.conflicts,
            not_started=not_started,
            prepared_seconds=seconds,
        )

    async def _pre_start(self, held: Mapping[str, HeldDevices]) -> tuple[dict[str, float], str]:
        """Call PreStartContainer where it is required.

        Returns:
            How long each call took, by resource, and why the container cannot start; empty if it can.
        """
        loop = asyncio.get_running_loop()
        seconds: dict[str, float] = {}
        for resource, devices in sorted(held.items()):
            view = self._plugins.view(resource)
            if view is None or not view.pre_start_required:
                continue
            begun = loop.time()
            try:
                await self.endpoint(resource).pre_start(devices.devices)
            except PluginCallError as error:
                return seconds, f"{resource}: {error}"
            finally:
                seconds[resource] = loop.time() - begun
        return seconds, ""

    def _in_use(self, resource: str) -> set[str]:
        return {
            device
            for containers in self._held.values()
            for held in containers.values()
            if resource in held
            for device in held[resource].devices
        }

    def _tell(self, event: Event) -> None:
        self.events.append(event)
        if self._observe is not None:
            self._observe(event)
