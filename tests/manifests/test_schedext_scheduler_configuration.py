"""What kube-scheduler is told of the extender, by kube-scheduler's own rules for its configuration."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import pytest
import yaml

from tasuki.kube.resources import is_extended

Objects = list[dict[str, Any]]

API: Final = "kubescheduler.config.k8s.io/v1"
# kubernetes 1.36: MaxNodeScore, MaxExtenderPriority, and the default plugins' weights together.
MOST_OF_A_PLUGIN: Final = 100
MOST_OF_AN_EXTENDER: Final = 10
DEFAULT_WEIGHTS: Final = (3, 2, 2, 2, 1, 1, 1)
LOOPBACK: Final = "http://127.0.0.1:9445"
FILES: Final = ("default-scheduler", "default-scheduler-tls")

# As staging/src/k8s.io/kube-scheduler/config/v1/types.go spells them; kube-scheduler, too, refuses unknown fields.
_GO: Final = {"url_prefix": "urlPrefix", "enable_https": "enableHTTPS", "tls_config": "tlsConfig"}


def go_name(name: str) -> str:
    first, *rest = name.split("_")
    return _GO.get(name, first + "".join(each.capitalize() for each in rest))


class Strict(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, rename=go_name, frozen=True):
    pass


class TLSConfig(Strict, frozen=True):
    insecure: bool = False
    server_name: str = ""
    cert_file: str = ""
    key_file: str = ""
    ca_file: str = ""
    cert_data: str = ""
    key_data: str = ""
    ca_data: str = ""


class ManagedResource(Strict, frozen=True):
    name: str
    ignored_by_scheduler: bool = False


class Extender(Strict, frozen=True):
    url_prefix: str
    filter_verb: str = ""
    preempt_verb: str = ""
    prioritize_verb: str = ""
    weight: int = 0
    bind_verb: str = ""
    enable_https: bool = False
    tls_config: TLSConfig | None = None
    http_timeout: str = "5s"
    node_cache_capable: bool = False
    managed_resources: tuple[ManagedResource, ...] = ()
    ignorable: bool = False


class LeaderElection(Strict, frozen=True):
    leader_elect: bool = True
    lease_duration: str = "15s"
    renew_deadline: str = "10s"
    retry_period: str = "2s"
    resource_lock: str = "leases"
    resource_name: str = "kube-scheduler"
    resource_namespace: str = "kube-system"


class Profile(Strict, frozen=True):
    scheduler_name: str = "default-scheduler"
    percentage_of_nodes_to_score: int | None = None
    plugins: dict[str, Any] | None = None
    plugin_config: tuple[dict[str, Any], ...] = ()


class Configuration(Strict, frozen=True):
    api_version: Literal["kubescheduler.config.k8s.io/v1"]
    kind: Literal["KubeSchedulerConfiguration"]
    parallelism: int = 16
    leader_election: LeaderElection = LeaderElection()
    client_connection: dict[str, Any] = {}
    percentage_of_nodes_to_score: int | None = None
    profiles: tuple[Profile, ...] = (Profile(),)
    extenders: tuple[Extender, ...] = ()


def read(text: str) -> Configuration:
    return msgspec.convert(yaml.safe_load(text), Configuration)


def mistakes(configuration: Configuration) -> Iterator[str]:
    """What kube-scheduler's validation refuses, and what it accepts but nobody wants."""
    if sum(bool(each.bind_verb) for each in configuration.extenders) > 1:
        yield "more than one bindVerb"
    managed = Counter(each.name for extender in configuration.extenders for each in extender.managed_resources)
    yield from (f"{name} is managed twice" for name, count in managed.items() if count > 1)
    yield from (f"{name} is no extended resource" for name in managed if not is_extended(name))
    for extender in configuration.extenders:
        if extender.prioritize_verb and extender.weight <= 0:
            yield "prioritizeVerb without a weight"
        if extender.enable_https != extender.url_prefix.startswith("https://"):
            yield "enableHTTPS is not what urlPrefix says"
        tls = extender.tls_config or TLSConfig()
        if extender.enable_https and (tls.insecure or not (tls.ca_file or tls.ca_data)):
            yield "any certificate would be believed"
        if bool(tls.cert_file) != bool(tls.key_file):
            yield "a certificate without its key"
        if not re.fullmatch(r"[1-9][0-9]*s", extender.http_timeout):
            yield "httpTimeout is no duration"
    if not 0 <= (configuration.percentage_of_nodes_to_score or 0) <= 100:
        yield "percentageOfNodesToScore is none"


@pytest.fixture
def second(render_schedext: Callable[[str], Objects]) -> Configuration:
    """From the ConfigMap that the pod mounts."""
    [found] = [each for each in render_schedext("second-scheduler") if each["kind"] == "ConfigMap"]
    return read(found["data"]["config.yaml"])


@pytest.fixture(params=FILES)
def file(request: pytest.FixtureRequest, schedext_folder: Path) -> Configuration:
    """To be copied to the control plane's nodes."""
    return read((schedext_folder / request.param / "kube-scheduler-config.yaml").read_text())


@pytest.fixture(params=["second-scheduler", *FILES])
def any_of_them(request: pytest.FixtureRequest, second: Configuration, schedext_folder: Path) -> Configuration:
    if request.param == "second-scheduler":
        return second
    return read((schedext_folder / request.param / "kube-scheduler-config.yaml").read_text())


EXTENDER: Final = {"urlPrefix": LOOPBACK}


@pytest.mark.parametrize(
    ("extenders", "mistake"),
    [
        pytest.param([EXTENDER | {"prioritizeVerb": "prioritize"}], "prioritizeVerb without a weight", id="weight"),
        pytest.param([EXTENDER | {"bindVerb": "bind"}] * 2, "more than one bindVerb", id="two binders"),
        pytest.param(
            [EXTENDER | {"managedResources": [{"name": "kubernetes.io/gpu"}]}], "is no extended resource", id="domain"
        ),
        pytest.param([EXTENDER | {"managedResources": [{"name": "a.b/c"}] * 2}], "managed twice", id="managed twice"),
        pytest.param([{"urlPrefix": "https://x:1"}], "enableHTTPS", id="https without saying so"),
        pytest.param([{"urlPrefix": "https://x:1", "enableHTTPS": True}], "any certificate", id="no authority"),
        pytest.param([EXTENDER | {"httpTimeout": "15"}], "httpTimeout", id="timeout without a unit"),
        pytest.param([EXTENDER | {"tlsConfig": {"certFile": "x"}}], "without its key", id="no key"),
    ],
)
def test_mistakes_are_found(extenders: list[dict[str, Any]], mistake: str) -> None:
    text = yaml.safe_dump({"apiVersion": API, "kind": "KubeSchedulerConfiguration", "extenders": extenders})

    assert any(mistake in found for found in mistakes(read(text)))


@pytest.mark.parametrize(
    "extender",
    [
        pytest.param({"filterverb": "filter"}, id="another case"),
        pytest.param({"enableHttps": True}, id="another abbreviation"),
        pytest.param({"weight": "5"}, id="a text for a number"),
    ],
)
def test_fields_are_spelled_as_in_go(extender: dict[str, Any]) -> None:
    document = {"apiVersion": API, "kind": "KubeSchedulerConfiguration", "extenders": [EXTENDER | extender]}

    with pytest.raises(msgspec.ValidationError):
        read(yaml.safe_dump(document))


def test_kube_scheduler_would_accept_it(any_of_them: Configuration) -> None:
    assert list(mistakes(any_of_them)) == []


def test_every_verb_is_asked_by_name(any_of_them: Configuration) -> None:
    [extender] = any_of_them.extenders

    assert (extender.filter_verb, extender.prioritize_verb) == ("filter", "prioritize")
    assert (extender.bind_verb, extender.preempt_verb) == ("bind", "preempt")
    assert extender.node_cache_capable


def test_a_refused_binding_is_not_made_after_all(any_of_them: Configuration) -> None:
    [extender] = any_of_them.extenders

    assert not extender.ignorable


def test_the_extender_outvotes_any_plugin_but_not_all_of_them(any_of_them: Configuration) -> None:
    [extender] = any_of_them.extenders
    factor = MOST_OF_A_PLUGIN // MOST_OF_AN_EXTENDER
    most = MOST_OF_AN_EXTENDER * extender.weight * factor

    assert max(DEFAULT_WEIGHTS) * MOST_OF_A_PLUGIN < most < sum(DEFAULT_WEIGHTS) * MOST_OF_A_PLUGIN


def test_every_node_is_looked_at(any_of_them: Configuration) -> None:
    assert any_of_them.percentage_of_nodes_to_score == 100


def test_the_second_scheduler_asks_about_every_pod_that_chose_it(second: Configuration) -> None:
    [profile] = second.profiles
    [extender] = second.extenders

    assert profile.scheduler_name == "tasuki-scheduler"
    assert extender.managed_resources == ()
    assert extender.url_prefix == LOOPBACK


def test_the_second_scheduler_has_a_lease_of_its_own(second: Configuration) -> None:
    assert second.leader_election.leader_elect
    assert second.leader_election.resource_name == "tasuki-scheduler"


def test_the_default_scheduler_asks_about_pods_with_accelerators_only(file: Configuration) -> None:
    [extender] = file.extenders
    managed = {each.name for each in extender.managed_resources}

    assert file.profiles == (Profile(),)
    assert {"nvidia.com/gpu", "nvidia.com/gpu.shared", "vaccel.tasuki.dev/session"} < managed
    assert not any(each.ignored_by_scheduler for each in extender.managed_resources)


def test_functions_of_fpgas_can_be_added(schedext_folder: Path) -> None:
    """The comment's line, without its mark, is an entry of the list."""
    text = (schedext_folder / "default-scheduler" / "kube-scheduler-config.yaml").read_text()
    [extender] = read(text.replace("# - {name: fpga", "- {name: fpga")).extenders

    assert extender.managed_resources[-1].name == "fpga.tasuki.dev/sharpen"


def test_the_two_files_differ_in_how_the_extender_is_reached(schedext_folder: Path) -> None:
    near, far = (read((schedext_folder / each / "kube-scheduler-config.yaml").read_text()) for each in FILES)
    [beside], [elsewhere] = near.extenders, far.extenders

    assert beside.url_prefix == LOOPBACK
    reached = {"url_prefix": LOOPBACK, "enable_https": False, "tls_config": None}
    assert msgspec.structs.replace(elsewhere, **reached) == beside
    assert msgspec.structs.replace(far, extenders=()) == msgspec.structs.replace(near, extenders=())
