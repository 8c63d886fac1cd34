"""The Secret through which the replicas share their certificates."""

from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

import msgspec

from tasuki.kube.client import Kube
from tasuki.kube.errors import ForbiddenError, NotFoundError
from tasuki.kube.objects import ObjectMeta
from webhooks.certificates.bundle import FIELD_MANAGER
from webhooks.certificates.chain import BrokenChainError, Chain, chain_of, secret_contents


class Secret(msgspec.Struct, frozen=True):
    metadata: ObjectMeta
    data: dict[str, str] | None = None

    def chain(self) -> Chain | None:
        """None if it is empty.

        Raises:
            BrokenChainError: It holds something else.
        """
        return chain_of({name: _decoded(name, text) for name, text in (self.data or {}).items()})


class ChainSecret:
    """Reads and writes one Secret; whoever is not the first to change it is told so."""

    def __init__(self, kube: Kube, name: str) -> None:
        self._kube: Final = kube
        self._name: Final = name
        self._collection: Final = f"/api/v1/namespaces/{quote(kube.namespace)}/secrets"

    def __str__(self) -> str:
        return f"Secret {self._kube.namespace}/{self._name}"

    async def find(self) -> Secret | None:
        """None if there is no such Secret.

        Raises:
            KubeError: The API server does not say.
        """
        try:
            return await self._kube.call("GET", f"{self._collection}/{quote(self._name)}", Secret)
        except NotFoundError:
            return None

    async def write(self, found: Secret | None, chain: Chain) -> Secret:
        """Put the chain into the Secret as it was found.

        Raises:
            ConflictError: It has changed since, or is there by now.
            KubeError: It cannot be written.
        """
        contents = _encoded(secret_contents(chain))
        query = f"?fieldManager={FIELD_MANAGER}"
        if found is not None:
            body = {"metadata": {"resourceVersion": found.metadata.resource_version}, "data": contents}
            return await self._kube.call("PATCH", f"{self._collection}/{quote(self._name)}{query}", Secret, body)
        present = {name: text for name, text in contents.items() if text is not None}
        new = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": self._name, "namespace": self._kube.namespace},
            "type": "Opaque",
            "data": present,
        }
        try:
            return await self._kube.call("POST", f"{self._collection}{query}", Secret, new)
        except ForbiddenError as error:
            # RBAC can allow changes of one name, but not its creation alone.
            command = f"kubectl -n {self._kube.namespace} create secret generic {self._name}"
            text = f"there is no {self}; apply manifests/webhooks, which has it, or create it empty: {command}"
            raise NotFoundError(text, error.status, error.reason) from error


def _encoded(contents: Mapping[str, bytes | None]) -> dict[str, str | None]:
    return {name: None if value is None else b64encode(value).decode() for name, value in contents.items()}


def _decoded(name: str, text: str) -> bytes:
    try:
        return b64decode(text)
    except ValueError:
        raise BrokenChainError(f"{name} is not base64") from None
