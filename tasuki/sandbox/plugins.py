"""The device plugins that a kubelet is connected to, with the devices that they list.

Read from kubernetes 1.36, pkg/kubelet/cm/devicemanager/plugin/v1beta1. Where the real kubelet surprises, this one
does too, so that what works here works there; each such place says so.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tasuki.sandbox.endpoint import Endpoint, PluginCallError
from tasuki.sandbox.events import Disconnected, Event, Listed, Registered
from tasuki.sandbox.views import ResourceView


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The real kubelet's, all in seconds.

    Attributes:
        dial: For reaching a plugin that registers, and for its options.
        grace: How long a resource whose plugin is gone stays in the node's capacity.
        call: For Allocate and GetPreferredAllocation, for which the real kubelet waits without end.
    """

    dial: float = 10.0
    grace: float = 300.0
    call: float = 60.0


class Plugins:
    """Connects to each plugin that registers, and follows its lists until it is gone.

    Args:
        tell: Called with each event as it happens.
    """

    def __init__(self, timeouts: Timeouts, tell: Callable[[Event], None]) -> None:
        self._timeouts = timeouts
        self._tell = tell
        self._views: dict[str, ResourceView] = {}
        # As the kubelet, two maps: who is asked for devices, and who is disconnected when a stream ends.
        self._endpoints: dict[str, Endpoint] = {}
        self._clients: dict[str, Endpoint] = {}
        # No TaskGroup: whoever starts a kubelet need not be the task that stops it. `close` awaits them all.
        self._streams: set[asyncio.Task[None]] = set()
        self._expiries: dict[str, asyncio.TimerHandle] = {}
        self._changed = asyncio.Event()

    def views(self) -> Mapping[str, ResourceView]:
        """What is known of each resource now, in the order of the names."""
        return {name: self._views[name] for name in sorted(self._views)}

    def view(self, resource: str) -> ResourceView | None:
        return self._views.get(resource)

    def endpoint(self, resource: str) -> Endpoint:
        if resource not in self._endpoints:
            raise PluginCallError(f"no plugin has registered {resource}")
        return self._endpoints[resource]

    async def wait_for(
        self, predicate: Callable[[Mapping[str, ResourceView]], bool], timeout_seconds: float
    ) -> Mapping[str, ResourceView]:
        try:
            async with asyncio.timeout(timeout_seconds):
                while not predicate(views := self.views()):
                    await self._changed.wait()
        except TimeoutError as error:
            raise TimeoutError(
                f"after {timeout_seconds:g} s the resources are still: "
                + (", ".join(f"{v.name} {v.allocatable}/{v.capacity}" for v in self.views().values()) or "none")
            ) from error
        return views

    def forget_devices(self) -> None:
        """What a starting kubelet knows of earlier plugins: their resources' names, for the grace period."""
        for name in list(self._views):
            self._views[name] = ResourceView(name)
            self._expire_later(name)
        self.notify()

    async def connect(self, resource: str, socket: Path) -> None:
        """Dial, ask for the options, and watch.

        As in the real kubelet the newest registration of a resource gets its calls, but the stream of the one
        before is left open: its lists still count, and its end disconnects the newest (handler.go, runClient).
        A plugin that replaces its own server must therefore end the old stream before it registers again.

        Raises:
            PluginCallError: Nothing serves the socket, or it does not answer as a plugin.
        """
        endpoint = Endpoint(resource, socket, self._timeouts.call)
        self._clients[resource] = endpoint
        try:
            options = await endpoint.connect(self._timeouts.dial)
        except BaseException:
            if self._clients.get(resource) is endpoint:
                del self._clients[resource]
            await endpoint.close()
            raise
        self._endpoints[resource] = endpoint
        self._cancel_expiry(resource)
        self._views[resource] = replace(
            self._views.get(resource, ResourceView(resource)),
            connected=True,
            pre_start_required=options.pre_start_required,
            prefers=options.get_preferred_allocation_available,
        )
        self._say(Registered(resource, socket.name))
        stream = asyncio.create_task(self._watch(endpoint), name=f"list-and-watch {resource}")
        self._streams.add(stream)

    async def close(self) -> None:
        """Disconnect from all plugins and end everything that runs on their behalf."""
        for resource in list(self._clients):
            await self._disconnect(resource, "the kubelet stops")
        for resource in list(self._expiries):
            self._cancel_expiry(resource)
        streams, self._streams = self._streams, set()
        for stream in streams:
            stream.cancel()
        for outcome in await asyncio.gather(*streams, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    def notify(self) -> None:
        """Wake those who wait for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _watch(self, endpoint: Endpoint) -> None:
        reason = "the plugin ended ListAndWatch"
        try:
            async with contextlib.aclosing(endpoint.lists()) as lists:
                async for response in lists:
                    view = self._views.get(endpoint.resource)
                    if view is None:
                        continue  # forgotten, while the stream of an earlier registration goes on
                    view = view.listed(response)
                    self._views[endpoint.resource] = view
                    self._say(Listed(endpoint.resource, view.allocatable, view.capacity))
        except PluginCallError as error:
            reason = str(error)
        await self._disconnect(endpoint.resource, reason)
        await endpoint.close()

    async def _disconnect(self, resource: str, reason: str) -> None:
        """Close whatever is registered for the resource, and hand out none of its devices any more."""
        client = self._clients.pop(resource, None)
        if client is None:
            return
        await client.close()
        endpoint = self._endpoints.get(resource)
        if endpoint is None:
            return
        endpoint.stopped = True
        self._views[resource] = self._views[resource].disconnected()
        self._expire_later(resource)
        self._say(Disconnected(resource, reason))

    def _expire_later(self, resource: str) -> None:
        """Forget the resource after the grace period, unless a plugin registers it again."""
        self._cancel_expiry(resource)
        loop = asyncio.get_running_loop()
        self._expiries[resource] = loop.call_later(self._timeouts.grace, self._expire, resource)

    def _cancel_expiry(self, resource: str) -> None:
        timer = self._expiries.pop(resource, None)
        if timer is not None:
            timer.cancel()

    def _expire(self, resource: str) -> None:
        self._expiries.pop(resource, None)
        self._views.pop(resource, None)
        self._endpoints.pop(resource, None)
        self.notify()

    def _say(self, event: Event) -> None:
        self._tell(event)
        self.notify()
