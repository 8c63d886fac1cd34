"""AdmissionReview (admission.k8s.io/v1): bytes to values and back."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from tasuki.kube.objects import UNREADABLE
from tasuki.process import sentences
from webhooks.patch import Operations

# The API server takes requests of 3 MiB (MaxRequestBodyBytes in staging/src/k8s.io/apiserver/pkg/server/config.go), and
# Go's JSON encoder writes each `<`, `>` and `&` of them with six bytes. What we refuse to read is admitted untouched
# where the failurePolicy is Ignore, so nothing may be too large that Kubernetes takes.
MOST_BYTES: Final = 20 * 2**20

# The API server cuts a single warning after 256 characters and drops the rest of them after 4,096
# (staging/src/k8s.io/apiserver/pkg/endpoints/filters/warning.go).
_WARNING_CHARACTERS: Final = 256

_API_VERSION: Final = "admission.k8s.io/v1"
_KIND: Final = "AdmissionReview"


class ReviewError(ValueError):
    """The request is no AdmissionReview that can be answered; the text says what is wrong with it."""


class _Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Go writes null for what is empty, and leaves it out as it likes."""


class GroupVersionResource(_Part, frozen=True, kw_only=True):
    group: str | None = None
    version: str | None = None
    resource: str | None = None


class UserInfo(_Part, frozen=True, kw_only=True):
    groups: tuple[str, ...] | None = None


class Request(_Part, frozen=True, kw_only=True):
    """What the API server asks.

    Attributes:
        namespace: Empty for cluster-scoped objects; the object's own may be missing.
        object: As it was sent; `null` for a deletion.
    """

    uid: str
    resource: GroupVersionResource = GroupVersionResource()
    sub_resource: str | None = None
    name: str | None = None
    namespace: str | None = None
    operation: str | None = None
    user_info: UserInfo = UserInfo()
    object: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def creates_pod(self) -> bool:
        resource = self.resource
        is_pod = resource.resource == "pods" and not resource.group and not self.sub_resource
        return is_pod and self.operation == "CREATE"

    @property
    def is_from_node(self) -> bool:
        """Whether a kubelet asks; the only pods that it may create are mirrors of its static ones.

        A mirror that differs is deleted and created again, for ever
        (https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction).
        """
        return "system:nodes" in (self.user_info.groups or ())


class _Review(_Part, frozen=True, kw_only=True):
    api_version: str | None = None
    kind: str | None = None
    request: Request | None = None


class _Status(_Part, frozen=True, kw_only=True):
    message: str
    code: int = 403
    reason: str = "Forbidden"


class _Response(_Part, frozen=True, kw_only=True, omit_defaults=True):
    """`patch` becomes base64, as msgspec writes bytes."""

    uid: str
    allowed: bool
    status: _Status | None = None
    patch: bytes | None = None
    patch_type: str | None = None
    audit_annotations: Mapping[str, str] | None = None
    warnings: Sequence[str] | None = None


class _Answer(_Part, frozen=True, kw_only=True):
    api_version: str = _API_VERSION
    kind: str = _KIND
    response: _Response


_decoder: Final = msgspec.json.Decoder(_Review)
_encoder: Final = msgspec.json.Encoder()


def request(content: bytes) -> Request:
    """The request of an AdmissionReview.

    Raises:
        ReviewError: It is none, or of another version.
    """
    try:
        review = _decoder.decode(content)
    except UNREADABLE as error:
        raise ReviewError(f"the body is no AdmissionReview: {error}") from error
    if (review.api_version, review.kind) != (_API_VERSION, _KIND):
        found = f"{review.api_version} {review.kind}"
        raise ReviewError(f"the body is {found!r}; write admissionReviewVersions: [v1] to get {_API_VERSION} {_KIND}")
    if review.request is None or not review.request.uid:
        raise ReviewError("the AdmissionReview has no request.uid, so that it cannot be answered")
    return review.request


def patch(operations: Operations) -> bytes:
    """Operations as a JSON Patch; empty if there are none."""
    return _encoder.encode(operations) if operations else b""


def allowed(
    uid: str, patch: bytes = b"", warnings: Sequence[str] = (), notes: Mapping[str, str] | None = None
) -> bytes:
    """The answer that lets an object pass, perhaps changed."""
    return _answer(
        _Response(
            uid=uid,
            allowed=True,
            patch=patch or None,
            patch_type="JSONPatch" if patch else None,
            audit_annotations=notes or None,
            warnings=[shortened(warning) for warning in warnings] or None,
        )
    )


def refused(uid: str, message: str, warnings: Sequence[str] = (), notes: Mapping[str, str] | None = None) -> bytes:
    """The answer that keeps an object out; the user sees the message."""
    return _answer(
        _Response(
            uid=uid,
            allowed=False,
            status=_Status(message=message),
            audit_annotations=notes or None,
            warnings=[shortened(warning) for warning in warnings] or None,
        )
    )


def _answer(response: _Response) -> bytes:
    return _encoder.encode(_Answer(response=response))


def shortened(warning: str) -> str:
    """A warning that fits an HTTP header: one line, printable, of at most 256 characters."""
    line = "".join(each if each.isprintable() else " " for each in warning)
    return sentences.shortened(line, _WARNING_CHARACTERS)


def without_nulls(value: Any) -> Any:
    """A document without the keys that are null, which say the same as absent ones."""
    if isinstance(value, dict):
        return {key: without_nulls(each) for key, each in value.items() if each is not None}
    if isinstance(value, list):
        return [without_nulls(each) for each in value]
    return value
