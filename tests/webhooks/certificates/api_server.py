"""The Kubernetes tests' API server, with Secrets and webhook configurations that are changed conditionally."""

import binascii
import json
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from cryptography import x509

from tests.tasuki.kube.api_server import ApiServer, Json, Kind, RefusedError
from webhooks.certificates.bundle import Configuration

SECRETS = "/api/v1/namespaces/gpus/secrets"
_ADMISSION = "/apis/admissionregistration.k8s.io/v1"
MUTATING = f"{_ADMISSION}/mutatingwebhookconfigurations"
VALIDATING = f"{_ADMISSION}/validatingwebhookconfigurations"

SECRET = "webhooks-tls"
HOOKS = "tasuki-webhooks"
CONFIGURATIONS = (
    Configuration("MutatingWebhookConfiguration", HOOKS),
    Configuration("ValidatingWebhookConfiguration", HOOKS),
)


def check_secret(secret: Json) -> None:
    """As kubernetes, pkg/apis/core/validation: ValidateSecret."""
    for value in (secret.get("data") or {}).values():
        try:
            b64decode(value, validate=True)
        except (binascii.Error, ValueError, TypeError) as error:
            raise RefusedError(400, "BadRequest", "illegal base64 data") from error


def check_configuration(configuration: Json) -> None:
    """As kubernetes, pkg/apis/admissionregistration/validation: unique names, and a way to call each."""
    hooks = configuration.get("webhooks") or []
    if len({hook["name"] for hook in hooks}) != len(hooks):
        raise RefusedError(422, "Invalid", "webhooks: Duplicate value")
    for hook in hooks:
        client = hook["clientConfig"]
        if ("service" in client) == ("url" in client):
            raise RefusedError(422, "Invalid", "exactly one of url or service is required")
        b64decode(client.get("caBundle", ""), validate=True)


class AdmissionApiServer(ApiServer):
    """Also remembers what was trusted, and lets something happen just after an answer was given.

    Attributes:
        after_reading: By a collection's path; called once, after the next GET of an object in it.
        history: The bundle of each webhook at each change of a configuration, in order.
        issued: The server certificate at each change of a Secret, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.after_reading: dict[str, Callable[[], Awaitable[None]]] = {}
        self.history: list[str] = []
        self.issued: list[str] = []
        # First, for the longest path counts: a Secret's begins as a Namespace's does.
        ours = {SECRETS: check_secret, MUTATING: check_configuration, VALIDATING: check_configuration}
        self.kinds = {**{path: Kind(check) for path, check in ours.items()}, **self.kinds}

    async def _update(self, request: web.Request, path: str, name: str, subresource: str, body: Json) -> None:
        # A resource version in a patch is a precondition.
        # https://kubernetes.io/docs/reference/using-api/api-concepts/#patch-and-update
        wanted = body["metadata"].get("resourceVersion") if "metadata" in body else None
        if wanted not in {None, self.kinds[path].objects[name]["metadata"]["resourceVersion"]}:
            raise RefusedError(409, "Conflict", "the object has been modified")
        await super()._update(request, path, name, subresource, body)

    async def _route(self, request: web.Request, body: Any) -> web.StreamResponse:
        answer = await super()._route(request, body)
        happens = self.after_reading.pop(request.path.rpartition("/")[0], None) if request.method == "GET" else None
        if happens is not None:
            await happens()
        return answer

    async def _store(self, path: str, stored: Json, change: str) -> Json:
        self.history += [bundle_of(hook) for hook in stored.get("webhooks", ())]
        self.issued += [stored["data"]["tls.crt"]] if "tls.crt" in stored.get("data", {}) else []
        return await super()._store(path, stored, change)

    async def put_secret(self, contents: dict[str, str] | None = None) -> None:
        await self.put(SECRETS, SECRET, type="Opaque", **({"data": contents} if contents is not None else {}))

    async def put_configurations(self, bundle: bytes = b"") -> None:
        """As `kubectl replace` of the manifests does: without any bundle."""
        hooks = [a_hook(name) for name in ("pods.tasuki.dev", "gates.tasuki.dev", "checks.tasuki.dev")]
        if bundle:
            for hook in hooks:
                hook["clientConfig"]["caBundle"] = b64encode(bundle).decode()
        await self.put(MUTATING, HOOKS, webhooks=hooks[:2])
        await self.put(VALIDATING, HOOKS, webhooks=hooks[2:])

    @property
    def secret(self) -> dict[str, str]:
        contents: dict[str, str] = self.objects(SECRETS)[SECRET].get("data", {})
        return contents

    def bundles(self) -> list[str]:
        """What the API server trusts, of each webhook."""
        return [bundle_of(hook) for path in (MUTATING, VALIDATING) for hook in self._hooks(path)]

    def trusted(self) -> int:
        """How many authorities all webhooks trust; 0 while they differ."""
        bundles = set(self.bundles())
        return bundles.pop().count("BEGIN CERTIFICATE") if len(bundles) == 1 else 0

    def served(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(b64decode(self.secret["tls.crt"]))

    def _hooks(self, path: str) -> list[Any]:
        configuration = self.objects(path).get(HOOKS)
        return configuration["webhooks"] if configuration else []


def bundle_of(hook: Json) -> str:
    return b64decode(hook["clientConfig"].get("caBundle", "")).decode()


def a_hook(name: str) -> Json:
    """As it is stored: with what the server has filled in, and what this program has never heard of."""
    text = """{
        "clientConfig": {"service": {"name": "hooks", "namespace": "gpus", "path": "/mutate", "port": 443}},
        "admissionReviewVersions": ["v1"], "sideEffects": "None", "timeoutSeconds": 5, "failurePolicy": "Ignore",
        "matchConditions": [{"name": "not-ours", "expression": "true"}], "namespaceSelector": {}, "objectSelector": {},
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
        "unheardOf": {"ratio": 0.5, "nothing": null}
    }"""
    return {"name": name, **json.loads(text)}
