"""Work that several want at once, done once."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, TypeVar

log: Final = logging.getLogger(__name__)

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


class SingleFlight(Generic[_Key, _Value]):
    """Whoever waits may go away without taking the work from the others.

    Args:
        group: Owns the work.
    """

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group: Final = group
        self._flights: Final[dict[_Key, asyncio.Future[_Value]]] = {}

    async def get(self, key: _Key, work: Callable[[], Awaitable[_Value]]) -> _Value:
        """The value of the work that is under way for `key`, or of `work`, begun now; or what it raises."""
        flight = self._flights.get(key)
        if flight is None:
            flight = asyncio.get_running_loop().create_future()
            # Looked at even if all who waited are gone.
            flight.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._flights[key] = flight
            self._group.create_task(self._fly(key, flight, work))
        return await asyncio.shield(flight)

    async def _fly(self, key: _Key, flight: asyncio.Future[_Value], work: Callable[[], Awaitable[_Value]]) -> None:
        try:
            flight.set_result(await work())
        except Exception as error:  # noqa: BLE001 - raised again for each that waits
            flight.set_exception(error)
        finally:
            del self._flights[key]
            flight.cancel()
