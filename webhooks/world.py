"""The newest policy and the newest view of the cluster, as scenes for the pods that arrive."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from webhooks.catalogue import Catalogue
from webhooks.cluster import Cluster
from webhooks.node_index import index_nodes
from webhooks.nodes import AcceleratorNodes
from webhooks.policy.model import Policy, any_match
from webhooks.priority import missing_classes
from webhooks.scene import Scene

log: Final = logging.getLogger(__name__)

# Where pods are admitted as they are whatever the policy says: without these a cluster cannot repair itself.
NEVER_TOUCHED: Final = ("kube-system", "kube-node-lease", "kube-public")

# Names come from the API server, which knows them all, but a cluster that makes and drops them all day is no leak.
_MOST_SCENES: Final = 10_000


class World:
    """Written by watches and files, read by every review; each change swaps whole values.

    Args:
        own_namespace: That of the webhooks themselves, whose pods are never touched.
        report: Told what the policy names and the cluster lacks, "" when it lacks nothing.

    Attributes:
        generation: Another number whenever scenes may differ from before.
    """

    def __init__(self, own_namespace: str, report: Callable[[str], None] = lambda _: None) -> None:
        self._report: Final = report
        self._missing: tuple[str, ...] = ()
        self._exempt: Final = frozenset((*NEVER_TOUCHED, own_namespace))
        self._policy: Policy | None = None
        self._cluster = Cluster()
        self._nodes: AcceleratorNodes | None = None
        self._scenes: dict[str, Scene | None] = {}
        self._stale = asyncio.Event()
        self.generation = 0

    @property
    def has_policy(self) -> bool:
        return self._policy is not None

    def use_policy(self, policy: Policy) -> None:
        self._policy = policy
        self._renew()
        self._stale.set()

    def use_cluster(self, cluster: Cluster) -> None:
        """Take up what the watches see; the catalogue comes from elsewhere."""
        nodes_changed = cluster.nodes is not self._cluster.nodes
        self._cluster = replace(cluster, catalogue=self._cluster.catalogue)
        self._renew()
        if nodes_changed:
            self._stale.set()

    def use_catalogue(self, catalogue: Catalogue | None) -> None:
        self._cluster = replace(self._cluster, catalogue=catalogue)
        self._renew()

    async def run(self) -> None:
        """Index the nodes anew, in a thread, whenever they or the policy have changed."""
        while True:
            await self._stale.wait()
            self._stale.clear()
            if self._policy is None or self._cluster.nodes is None:
                continue
            self._nodes = await asyncio.to_thread(index_nodes, self._cluster.nodes.values(), self._policy)
            self._renew()
            log.debug("nodes indexed nodes=%d resources=%d", len(self._cluster.nodes), len(self._nodes.resources))

    def _renew(self) -> None:
        self._scenes = {}
        self.generation += 1
        if self._policy is None or self._cluster.priority_classes is None:
            return
        missing = missing_classes(self._policy, self._cluster.priority_classes)
        if missing != self._missing:
            self._missing = missing
            names = ", ".join(missing)
            if missing:
                log.warning("the policy names priority classes that the cluster lacks missing=%s", names)
            self._report(f"the cluster lacks {names}, which the policy names; apply or correct them" if missing else "")

    def scene(self, namespace: str) -> Scene | None:
        """Where a pod of the namespace arrives; None if its pods are left alone.

        Call it only once there is a policy.
        """
        try:
            return self._scenes[namespace]
        except KeyError:
            pass
        if len(self._scenes) >= _MOST_SCENES:
            self._scenes = {}
        made = self._scenes[namespace] = self._made(namespace)
        return made

    def _made(self, namespace: str) -> Scene | None:
        policy = self._policy
        if policy is None:
            raise RuntimeError("there is no policy yet")
        if namespace in self._exempt or any_match(policy.exempt_namespaces, namespace):
            return None
        return Scene(
            namespace=namespace,
            policy=policy,
            cluster=self._cluster,
            namespace_labels=(self._cluster.namespaces or {}).get(namespace),
            nodes=self._nodes,
        )
