from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.webhook_builders import Json, admit, container, pod, scene
from tests.webhooks.mutations.api_server import again
from webhooks.editing import ReservedNameError
from webhooks.mutations.cache import cache
from webhooks.policy.model import Cache, Policy
from webhooks.scene import NOTHING, RefusedError

WITH_CACHE = scene(Policy(cache=Cache(url="http://cache.tasuki-system:8080/v1/objects/")))
FOLDER = "/var/run/secrets/tasuki.dev/cache"
MOUNT = {"name": "tasuki-cache-token", "mountPath": FOLDER, "readOnly": True}


def wanting(buckets: str, *containers: Json, **fields: Any) -> Json:
    return pod(*containers, annotations={"tasuki.dev/cache": buckets}, **fields)


def env_of(found: Json) -> dict[str, str]:
    return {variable["name"]: variable.get("value", "") for variable in found.get("env", [])}


def test_a_pod_gets_the_address_a_token_and_its_bucket() -> None:
    admitted = admit(cache, wanting("imagenet"), WITH_CACHE)

    [main] = admitted.pod["spec"]["containers"]
    assert env_of(main) == {
        "PFIO_HTTP_BEARER_TOKEN_PATH": f"{FOLDER}/token",
        "TASUKI_CACHE_URL": "http://cache.tasuki-system:8080/v1/objects",
        "TASUKI_CACHE_BUCKET": "imagenet",
    }
    assert main["volumeMounts"] == [MOUNT]
    [volume] = admitted.pod["spec"]["volumes"]
    token = {"audience": "cache.tasuki.dev", "expirationSeconds": 3600, "path": "token"}
    assert volume == {"name": "tasuki-cache-token", "projected": {"sources": [{"serviceAccountToken": token}]}}
    assert admitted.pod["metadata"]["annotations"]["tasuki.dev/cache-buckets"] == "imagenet"
    assert admitted.change.warnings == ()


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        pytest.param("b,a", "a,b", id="sorted"),
        pytest.param("a,b,a", "a,b", id="each once"),
        pytest.param(" a , b,,", "a,b", id="white space and commas too many"),
        pytest.param("a\nb", "a,b", id="on two lines"),
        pytest.param("x" * 63, "x" * 63, id="as long as may be"),
    ],
)
def test_the_extender_reads_buckets_sorted_and_once(written: str, expected: str) -> None:
    admitted = admit(cache, wanting(written), WITH_CACHE)

    assert admitted.pod["metadata"]["annotations"]["tasuki.dev/cache-buckets"] == expected


def test_a_pod_without_an_account_gets_the_default_one_since_nobody_else_has_a_token() -> None:
    admitted = admit(cache, wanting("imagenet"), WITH_CACHE)

    assert admitted.pod["spec"]["serviceAccountName"] == "default"


def test_a_pod_keeps_its_account() -> None:
    before = wanting("imagenet")
    before["spec"]["serviceAccountName"] = "trainer"

    admitted = admit(cache, before, WITH_CACHE)

    assert admitted.pod["spec"]["serviceAccountName"] == "trainer"


def test_several_buckets_have_no_single_bucket_variable() -> None:
    admitted = admit(cache, wanting("a,b"), WITH_CACHE)

    [main] = admitted.pod["spec"]["containers"]
    assert "TASUKI_CACHE_BUCKET" not in env_of(main)


def test_init_containers_reach_the_cache_too_but_not_those_that_tasuki_adds() -> None:
    loader = container("tasuki-modules", volumeMounts=[{"name": "tasuki-modules", "mountPath": "/modules"}])
    agent = container("tasuki-vaccel-agent", volumeMounts=[{"name": "tasuki-vaccel", "mountPath": "/vaccel"}])
    users = (container("fetch"), container("tasuki-mine"), container("tasuki-modules-1"))

    admitted = admit(cache, wanting("a", container("one"), init=(agent, loader, *users)), WITH_CACHE)

    spec = admitted.pod["spec"]
    reached = [each["name"] for each in (*spec["initContainers"], *spec["containers"]) if "env" in each]
    assert reached == ["fetch", "tasuki-mine", "tasuki-modules-1", "one"]


def test_a_container_keeps_its_own_variables() -> None:
    before = wanting("a", container(env={"TASUKI_CACHE_URL": "http://mine"}))

    admitted = admit(cache, before, WITH_CACHE)

    [main] = admitted.pod["spec"]["containers"]
    assert env_of(main)["TASUKI_CACHE_URL"] == "http://mine"
    assert admitted.change.warnings == (
        "container 'main' keeps its own TASUKI_CACHE_URL, not the one of tasuki.dev/cache",
    )


def test_the_second_round_of_admission_finds_nothing_to_do() -> None:
    admitted = admit(cache, wanting("a", init=(container("fetch"),)), WITH_CACHE)

    change = again(cache, admitted.pod, WITH_CACHE)

    assert (change.operations, change.warnings) == ((), ())


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        pytest.param(" , ", "names no bucket", id="only separators"),
        pytest.param("My_Data", "is it 'my-data'?", id="upper case and underscore"),
        pytest.param("a,-b", "is it 'b'?", id="begins with a dash"),
        pytest.param("a/b", "is it 'a-b'?", id="a slash"),
        pytest.param("___", "'___' is no bucket's name", id="nothing to make a name of"),
        pytest.param("x" * 64, "at most 63", id="too long"),
    ],
)
def test_a_bad_bucket_is_refused_with_what_to_write(written: str, expected: str) -> None:
    with pytest.raises(RefusedError, match=r"tasuki\.dev/cache") as refused:
        admit(cache, wanting(written), WITH_CACHE)

    assert expected in str(refused.value)


def test_a_cluster_without_a_cache_refuses() -> None:
    with pytest.raises(RefusedError, match="this cluster offers no object cache"):
        admit(cache, wanting("a"), scene())


@pytest.mark.parametrize(
    "annotations",
    [
        pytest.param({"example.com/x": "y"}, id="no annotation"),
        pytest.param({"tasuki.dev/cache": ""}, id="an empty one"),
        pytest.param({"tasuki.dev/cache": " \n", "tasuki.dev/cache-buckets": " "}, id="nothing but white space"),
    ],
)
def test_a_pod_that_asks_for_nothing_is_left_alone(annotations: dict[str, str]) -> None:
    assert admit(cache, pod(annotations=annotations), WITH_CACHE).change is NOTHING


def test_buckets_that_a_user_wrote_for_the_scheduler_are_left() -> None:
    admitted = admit(cache, pod(annotations={"tasuki.dev/cache-buckets": "a"}), WITH_CACHE)

    assert admitted.operations == []
    [warning] = admitted.change.warnings
    assert "only guides the scheduler" in warning


def test_buckets_that_a_user_wrote_otherwise_are_replaced() -> None:
    before = pod(annotations={"tasuki.dev/cache": "a", "tasuki.dev/cache-buckets": "z"})

    admitted = admit(cache, before, WITH_CACHE)

    assert admitted.pod["metadata"]["annotations"]["tasuki.dev/cache-buckets"] == "a"
    [warning] = admitted.change.warnings
    assert "was replaced" in warning


def test_another_volume_under_our_name_is_refused() -> None:
    before = wanting("a", volumes=[{"name": "tasuki-cache-token", "emptyDir": {}}])

    with pytest.raises(ReservedNameError, match="tasuki-cache-token"):
        admit(cache, before, WITH_CACHE)


def test_another_volume_at_our_path_is_refused() -> None:
    mounting = container(volumeMounts=[{"name": "own", "mountPath": FOLDER}])

    with pytest.raises(ReservedNameError, match=FOLDER):
        admit(cache, wanting("a", mounting, volumes=[{"name": "own", "emptyDir": {}}]), WITH_CACHE)


@settings(max_examples=60, deadline=None)
@given(written=st.lists(st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?", fullmatch=True), min_size=1, max_size=5))
def test_any_buckets_names_are_taken(written: list[str]) -> None:
    admitted = admit(cache, wanting(",".join(written)), WITH_CACHE)

    assert admitted.pod["metadata"]["annotations"]["tasuki.dev/cache-buckets"].split(",") == sorted(set(written))


@settings(max_examples=100, deadline=None)
@given(written=st.text(max_size=300))
def test_any_other_value_is_refused_on_one_line(written: str) -> None:
    with pytest.raises(RefusedError) as refused:
        admit(cache, wanting(f"{written}_"), WITH_CACHE)

    assert str(refused.value).isprintable()
