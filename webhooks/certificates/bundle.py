"""The authorities that a webhook configuration makes the API server trust."""

from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import quote

import msgspec
from cryptography import x509

from tasuki.kube.client import Kube
from tasuki.kube.errors import NotFoundError
from tasuki.kube.objects import ObjectMeta
from tasuki.process.tls.pem import pem_certificates

# Who changes things, as the API server notes it on them.
FIELD_MANAGER: Final = "tasuki-webhooks"

_PATH: Final = "/apis/admissionregistration.k8s.io/v1"

ConfigurationKind = Literal["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"]
_PLURALS: Final[Mapping[ConfigurationKind, str]] = {
    "MutatingWebhookConfiguration": "mutatingwebhookconfigurations",
    "ValidatingWebhookConfiguration": "validatingwebhookconfigurations",
}


@dataclass(frozen=True, slots=True)
class Configuration:
    """A webhook configuration, all of whose webhooks are ours."""

    kind: ConfigurationKind
    name: str

    @property
    def path(self) -> str:
        return f"{_PATH}/{_PLURALS[self.kind]}/{quote(self.name)}"

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class WebhookConfiguration(msgspec.Struct, frozen=True):
    """As found; of each webhook, only the bundle is ours."""

    metadata: ObjectMeta = ObjectMeta()
    # What is written is the whole list, so all that a webhook holds is kept, also what we do not know.
    webhooks: list[dict[str, Any]] | None = None

    @property
    def bundles(self) -> tuple[bytes, ...]:
        """Of each webhook; empty where it has none that can be read."""
        return tuple(_bundle(webhook) for webhook in self.webhooks or [])

    def trusts(self, bundle: bytes) -> bool:
        return all(found == bundle for found in self.bundles)

    @property
    def authorities(self) -> tuple[x509.Certificate, ...]:
        return tuple(certificate for bundle in self.bundles for certificate in _certificates(bundle))


async def find(kube: Kube, configuration: Configuration) -> WebhookConfiguration | None:
    """The configuration; None if there is none.

    Raises:
        KubeError: The API server does not say.
    """
    try:
        return await kube.call("GET", configuration.path, WebhookConfiguration)
    except NotFoundError:
        return None


async def set_bundle(kube: Kube, configuration: Configuration, found: WebhookConfiguration, bundle: bytes) -> None:
    """Make all of its webhooks trust the bundle, and leave everything else as it was found.

    Raises:
        ConflictError: It has changed since it was found.
        KubeError: It cannot be written.
    """
    body = {
        "metadata": {"resourceVersion": found.metadata.resource_version},
        # A merge patch replaces a list as a whole (RFC 7386).
        "webhooks": [_trusting(webhook, bundle) for webhook in found.webhooks or []],
    }
    await kube.call("PATCH", f"{configuration.path}?fieldManager={FIELD_MANAGER}", WebhookConfiguration, body)


def _trusting(webhook: Mapping[str, Any], bundle: bytes) -> dict[str, Any]:
    return {**webhook, "clientConfig": {**_client_config(webhook), "caBundle": b64encode(bundle).decode()}}


def _client_config(webhook: Mapping[str, Any]) -> Mapping[str, Any]:
    found = webhook.get("clientConfig")
    return found if isinstance(found, dict) else {}


def _bundle(webhook: Mapping[str, Any]) -> bytes:
    try:
        return b64decode(_client_config(webhook).get("caBundle") or "")
    except (ValueError, TypeError):
        return b""


def _certificates(bundle: bytes) -> list[x509.Certificate]:
    try:
        return pem_certificates(bundle)
    except ValueError:
        return []  # empty, or a placeholder: cert-manager's manifests write a line feed
