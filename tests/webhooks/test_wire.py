"""AdmissionReview, as the API server writes it and as it reads the answer."""

import base64
import json
from typing import Any

import pytest

from tests.webhook_builders import admission_review
from webhooks.patch import add, remove
from webhooks.wire import ReviewError, allowed, patch, refused, request, shortened, without_nulls

Json = dict[str, Any]


def review(**changes: Any) -> Json:
    return admission_review({"kind": "Pod"}, **changes)


def encoded(**changes: Any) -> bytes:
    return json.dumps(review(**changes)).encode()


def test_a_request_is_read() -> None:
    asked = request(encoded())

    assert asked.uid == "9f0d3b1c-0000-4000-8000-000000000001"
    assert asked.namespace == "research"
    assert bytes(asked.object) == b'{"kind": "Pod"}'
    assert asked.creates_pod


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"operation": "UPDATE"}, id="update"),
        pytest.param({"operation": "DELETE", "object": None}, id="deletion"),
        pytest.param({"operation": "CONNECT", "subResource": "exec"}, id="exec"),
        pytest.param({"subResource": "binding"}, id="binding"),
        pytest.param({"resource": {"group": "apps", "version": "v1", "resource": "pods"}}, id="another group's pods"),
        pytest.param({"resource": {"group": "", "version": "v1", "resource": "services"}}, id="another resource"),
        pytest.param({"resource": {}, "operation": None}, id="hardly anything"),
    ],
)
def test_only_the_creation_of_a_pod_is_ours(changes: Json) -> None:
    assert not request(encoded(**changes)).creates_pod


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        pytest.param(["system:nodes", "system:authenticated"], True, id="a kubelet"),
        pytest.param(["system:authenticated"], False, id="a person"),
        pytest.param(None, False, id="nobody"),
    ],
)
def test_a_kubelets_mirror_pods_are_told_by_who_asks(groups: list[str] | None, *, expected: bool) -> None:
    asked = request(encoded(userInfo={"username": "u", "groups": groups}))

    assert asked.is_from_node is expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(b"", "no AdmissionReview", id="empty"),
        pytest.param(encoded()[:-40], "no AdmissionReview", id="truncated"),
        pytest.param(b"[]", "no AdmissionReview", id="a list"),
        pytest.param(b"\xff\xfe", "no AdmissionReview", id="not text"),
        pytest.param(b"{}", "admissionReviewVersions", id="empty object"),
        pytest.param(
            json.dumps(review() | {"apiVersion": "admission.k8s.io/v1beta1"}).encode(), "v1beta1", id="an old version"
        ),
        pytest.param(json.dumps(review() | {"request": None}).encode(), "request.uid", id="no request"),
        pytest.param(encoded(uid=""), "request.uid", id="no uid"),
        pytest.param(encoded(uid=7), r"\$\.request\.uid", id="uid of another type"),
    ],
)
def test_what_is_no_review_is_refused_with_the_reason(body: bytes, expected: str) -> None:
    with pytest.raises(ReviewError, match=expected):
        request(body)


def test_a_patch_is_sent_as_base64_with_its_type() -> None:
    answer = json.loads(
        allowed("u", patch((add("/spec/a", {"b": 1}), remove("/spec/c"))), ["look"], {"changed": "cache"})
    )

    response = answer["response"]
    assert (answer["apiVersion"], answer["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    assert json.loads(base64.b64decode(response.pop("patch"))) == [
        {"op": "add", "path": "/spec/a", "value": {"b": 1}},
        {"op": "remove", "path": "/spec/c"},
    ]
    assert response == {
        "uid": "u",
        "allowed": True,
        "patchType": "JSONPatch",
        "auditAnnotations": {"changed": "cache"},
        "warnings": ["look"],
    }


def test_patch_and_its_type_are_both_or_neither() -> None:
    assert json.loads(allowed("u", patch(())))["response"] == {"uid": "u", "allowed": True}


def test_a_refusal_carries_its_message() -> None:
    response = json.loads(refused("u", "write less"))["response"]

    assert response == {
        "uid": "u",
        "allowed": False,
        "status": {"message": "write less", "code": 403, "reason": "Forbidden"},
    }


@pytest.mark.parametrize(
    ("warning", "expected"),
    [
        pytest.param("plain", "plain", id="plain"),
        pytest.param("two\nlines\x00", "two lines ", id="control characters"),
        pytest.param("x" * 300, "x" * 255 + "…", id="long"),
    ],
)
def test_a_warning_fits_its_header(warning: str, expected: str) -> None:
    assert shortened(warning) == expected


def test_nulls_are_absent() -> None:
    assert without_nulls({"a": None, "b": [None, {"c": None, "d": 1}]}) == {"b": [None, {"d": 1}]}
