"""The extender as it is shipped, a process of its own, with the scheduler's side of its socket."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.ports import free_port

Json = dict[str, Any]
SECONDS = 30.0


@dataclass
class Extender:
    """A running extender.

    Attributes:
        port: The scheduler's.
        metrics_port: The operator's.
    """

    process: asyncio.subprocess.Process
    port: int
    metrics_port: int
    session: aiohttp.ClientSession

    async def ask(self, verb: str, body: Json) -> Any:
        async with self.session.post(f"http://127.0.0.1:{self.port}/{verb}", json=body) as answer:
            assert answer.status == 200
            return await answer.json()

    async def page(self, path: str, port: int = 0) -> str:
        async with self.session.get(f"http://127.0.0.1:{port or self.metrics_port}{path}") as answer:
            return await answer.text()

    async def schedule(self, pod: Json, names: Sequence[str]) -> str:
        """As kube-scheduler: filter, prioritize, bind; the node that the pod was bound to, empty if none fits.

        Raises:
            RuntimeError: With the error that the extender answers.
        """
        asked = {"Pod": pod, "Nodes": None, "NodeNames": list(names)}
        found = await self.ask("filter", asked)
        if found["Error"]:
            raise RuntimeError(found["Error"])
        if not found["NodeNames"]:
            return ""
        scores = await self.ask("prioritize", {**asked, "NodeNames": found["NodeNames"]})
        best = max(scores, key=lambda each: (each["Score"], each["Host"]))["Host"]
        metadata = pod["metadata"]
        binding = {"PodName": metadata["name"], "PodNamespace": metadata["namespace"], "PodUID": metadata["uid"]}
        if error := (await self.ask("bind", {**binding, "Node": best}))["Error"]:
            raise RuntimeError(error)
        return str(best)

    async def ready(self) -> None:
        async with asyncio.timeout(SECONDS):
            while True:
                assert self.process.returncode is None
                try:
                    if "[-]" not in await self.page("/readyz"):
                        return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.05)

    async def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), SECONDS)


@asynccontextmanager
async def extender(kubeconfig: str, folder: Path, *more: str) -> AsyncIterator[Extender]:
    """A process that has been started; `ready` waits until it is."""
    port, metrics_port, log = free_port(), free_port(), folder / f"extender-{free_port()}.log"
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tasuki.cli", "schedext", "--listen", f"127.0.0.1:{port}", "--explain-listen", ""),
            *("--metrics-address", f"127.0.0.1:{metrics_port}", "--drain-seconds", "0"),
            *more,
            stderr=errors,
            env={**os.environ, "KUBECONFIG": kubeconfig},
        )
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SECONDS)) as session:
        running = Extender(process, port, metrics_port, session)
        try:
            yield running
        finally:
            if process.returncode is None:
                await running.stop()
            print(log.read_text())
