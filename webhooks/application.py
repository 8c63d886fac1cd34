"""The application that answers AdmissionReviews, whatever server it runs in."""

import logging
from dataclasses import replace
from time import perf_counter
from typing import Final

from tasuki.process.asgi import AsgiScope, Bodies, Receive, RequestError, Send, refuse, reply
from webhooks import wire
from webhooks.memo import Decided, Memo
from webhooks.metrics import Metrics
from webhooks.review import CHECKS, MUTATIONS, Stages, review
from webhooks.scene import Scene
from webhooks.world import World

log: Final = logging.getLogger(__name__)

# What is held of bodies for all requests together: whoever reaches the port must not be able to take the memory.
_MOST_HELD_BYTES: Final = 64 * 2**20

PATHS: Final[dict[str, tuple[str, Stages]]] = {
    "/mutate": ("mutate", MUTATIONS),
    "/validate": ("validate", CHECKS),
}


class Application:
    """An ASGI application that answers AdmissionReviews.

    Decisions take microseconds and are made between two turns of the loop; no call leaves the process.
    """

    def __init__(self, world: World, metrics: Metrics) -> None:
        self._world: Final = world
        self._metrics: Final = metrics
        self._memo: Final = Memo()
        self._bodies: Final = Bodies("an AdmissionReview", wire.MOST_BYTES, _MOST_HELD_BYTES)

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        webhook, stages = PATHS.get(scope["path"], ("", ()))
        if not webhook:
            text = f"there is nothing here; try {' or '.join(PATHS)}"
            await refuse(scope, receive, send, RequestError(404, text, unread=True))
            return
        try:
            content = await self._bodies.read(scope, receive)
            started = perf_counter()
            answer = self._answer(webhook, stages, content)
            self._metrics.took(webhook, perf_counter() - started)
        except RequestError as error:
            self._metrics.reviewed(webhook, error.outcome)
            await refuse(scope, receive, send, error)
            return
        await reply(send, answer)

    def _answer(self, webhook: str, stages: Stages, content: bytes) -> bytes:
        try:
            asked = wire.request(content)
        except wire.ReviewError as error:
            raise RequestError(400, str(error)) from error
        if not asked.creates_pod:
            return self._passed(webhook, asked.uid, "passed")
        if not self._world.has_policy:
            raise RequestError(503, "no policy has been read yet; see /readyz", "error")
        scene = self._world.scene(asked.namespace or "")
        if scene is None or asked.is_from_node:
            return self._passed(webhook, asked.uid, "exempt")
        try:
            key = (webhook, scene.namespace, bytes(asked.object))
            decided = self._memo.decided(self._world.generation, key, lambda: _decide(key[2], scene, stages))
        except Exception as error:
            # Whether the pod gets in untouched or not at all is the failurePolicy's to say.
            log.exception("a review failed webhook=%s namespace=%s name=%s", webhook, asked.namespace, asked.name)
            text = f"Tasuki could not review this pod, which is a defect of Tasuki: {type(error).__name__}"
            raise RequestError(500, text, "error") from error
        return self._encoded(webhook, asked.uid, decided)

    def _passed(self, webhook: str, uid: str, outcome: str) -> bytes:
        self._metrics.reviewed(webhook, outcome)
        return wire.allowed(uid)

    def _encoded(self, webhook: str, uid: str, decided: Decided) -> bytes:
        metrics, outcome = self._metrics, decided.outcome
        if outcome.refusal:
            metrics.reviewed(webhook, "refused")
            metrics.mutated(outcome.refused_by, "refused")
            return wire.refused(uid, outcome.refusal, outcome.warnings, outcome.notes)
        metrics.reviewed(webhook, "patched" if decided.patch else "untouched")
        for name in outcome.changed:
            metrics.mutated(name, "changed")
        return wire.allowed(uid, decided.patch, outcome.warnings, outcome.notes)


def _decide(pod: bytes, scene: Scene, stages: Stages) -> Decided:
    outcome = review(pod, scene, stages)
    return Decided(replace(outcome, operations=()), wire.patch(outcome.operations))
