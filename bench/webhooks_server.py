"""What bench.webhooks measures: our webhooks in a large cluster, or the same server that answers with a constant."""

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import uvloop
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tasuki.process.asgi import AsgiScope, Receive, Send
from tasuki.process.http_server import HttpServer
from tasuki.process.tls.live import LiveContext
from webhooks.application import Application
from webhooks.certificates.issuing import Times
from webhooks.certificates.minting import Mint
from webhooks.cluster import Cluster, PriorityClass
from webhooks.metrics import Metrics
from webhooks.nodes import NodeFacts, Taint
from webhooks.policy.model import Policy
from webhooks.policy.reading import read_policy
from webhooks.world import World

_NODES: Final = 5_000
_GPU: Final = Taint("nvidia.com/gpu", "present", "NoSchedule")


def cluster() -> Cluster:
    """5,000 nodes, a half of them with GPUs and a half of those tainted; 500 namespaces, 20 priority classes."""
    nodes = [
        NodeFacts(
            name=f"node-{i}",
            labels={
                "kubernetes.io/hostname": f"node-{i}",
                "topology.kubernetes.io/zone": f"zone-{i % 3}",
                "nvidia.com/gpu.sharing-strategy": "time-slicing" if i % 4 == 0 else "none",
            },
            taints=(_GPU,) if i % 4 == 0 else (),
            resources=frozenset({"nvidia.com/gpu"}) if i % 2 == 0 else frozenset(),
            kubelet_version=(1, 36),
        )
        for i in range(_NODES)
    ]
    classes = [PriorityClass(name=f"class-{i}", value=i * 1000) for i in range(20)]
    classes.append(PriorityClass(name="tasuki-cpu-on-accelerator-node", value=-10))
    return Cluster(
        priority_classes={each.name: each for each in classes},
        nodes={node.name: node for node in nodes},
        namespaces={f"namespace-{i}": {"team": f"team-{i % 10}"} for i in range(500)},
        server_version=(1, 36),
    )


class Constant:
    """Reads each request to its end, and always gives the same answer."""

    def __init__(self, answer: bytes) -> None:
        self._start: Final = {
            "type": "http.response.start",
            "status": 200,
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(answer)).encode()),
            ],
        }
        self._body: Final = {"type": "http.response.body", "body": answer}

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await send(self._start)
        await send(self._body)


def live() -> LiveContext:
    mint = Mint(["127.0.0.1"], Times(), datetime.now(UTC))
    server = mint.server(mint.authority())
    context = LiveContext()
    key = server.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    context.load(server.certificate.public_bytes(Encoding.PEM), key)
    return context


async def serve(policy: Policy, answer: bytes | None) -> None:
    world = World("tasuki-system")
    world.use_policy(policy)
    world.use_cluster(cluster())
    async with asyncio.TaskGroup() as group:
        group.create_task(world.run())
        # A thread indexes the nodes.
        while (scene := world.scene("namespace-1")) is None or scene.nodes is None:  # noqa: ASYNC110 - no event to await
            await asyncio.sleep(0.01)
        application = Application(world, Metrics()) if answer is None else Constant(answer)
        server = HttpServer(application, ("127.0.0.1", 0), live().context, "reviews")
        print(server.port, flush=True)
        await server.run()


if __name__ == "__main__":
    given = [Path(name).read_bytes() for name in sys.argv[1:]]
    uvloop.run(serve(read_policy(given[0]), given[1] if len(given) > 1 else None))
