"""Which media type a manifest's bytes say that they have."""

import re
from typing import Any, Final

import msgspec

# containerd resolves nothing larger either (core/remotes/docker/resolver.go, MaxManifestSize); the distribution spec
# asks registries to take 4 MiB.
MOST_BYTES: Final = 8 * 2**20

_OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
_OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_MEDIA_TYPE: Final = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}", re.ASCII
)


class _Manifest(msgspec.Struct, frozen=True):
    schema_version: int = msgspec.field(default=0, name="schemaVersion")
    media_type: str = msgspec.field(default="", name="mediaType")
    manifests: list[Any] | None = None
    layers: list[Any] | None = None


def media_type_of(content: bytes) -> str:
    """Empty if it cannot be told; such a manifest is served as the registry sends it, and never stored.

    Docker's manifests name their own; OCI's should (image spec v1.1, manifest.md) but need not, and then what is in
    them tells an index from a manifest. What has both lists is neither: it is how CVE-2021-41190 was exploited.
    """
    try:
        found = msgspec.json.decode(content, type=_Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    if found.schema_version != 2 or (found.manifests is not None and found.layers is not None):
        return ""
    if found.media_type:
        return found.media_type if _MEDIA_TYPE.fullmatch(found.media_type) else ""
    if found.manifests is not None:
        return _OCI_INDEX
    return _OCI_MANIFEST if found.layers is not None else ""


def essence(content_type: str) -> str:
    """A media type without its parameters; empty if it is none."""
    found = content_type.partition(";")[0].strip()
    return found if _MEDIA_TYPE.fullmatch(found) else ""
