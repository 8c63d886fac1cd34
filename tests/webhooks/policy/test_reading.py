"""Reading the policy file."""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasuki.kube import quantity
from tasuki.process.document import ConfigError
from webhooks.policy.model import (
    Cache,
    CpuOnly,
    Modules,
    ModuleVolume,
    Policy,
    Protection,
    Requests,
    SharedNodes,
    SliceOffer,
    Team,
    Toleration,
)
from webhooks.policy.reading import read_policy

MODULES = "modules: {modulePath: [/apps/modules], volumes: [{name: apps, mountPath: /apps, source: "
PVC = "{persistentVolumeClaim: {claimName: apps}}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", Policy(), id="empty file"),
        pytest.param("# nothing yet\n", Policy(), id="only a comment"),
        pytest.param("{apiVersion: tasuki.dev/v1alpha1, kind: AdmissionPolicy}", Policy(), id="version and kind"),
        pytest.param("cpuOnly: {}", Policy(cpu_only=CpuOnly()), id="a section with its defaults"),
        pytest.param(
            "sharedNodes: {requests: {cpu: 50m}, nodeSelector: {pool: '1'}, tolerations: [{operator: Exists}]}",
            Policy(
                shared_nodes=SharedNodes(
                    requests=Requests(cpu="50m"),
                    node_selector={"pool": "1"},
                    tolerations=(Toleration(operator="Exists"),),
                )
            ),
            id="sections in sections",
        ),
        pytest.param(
            "teams: [{namespaces: [a-*], maximumPriorityClass: high}, {}]",
            Policy(teams=(Team(namespaces=("a-*",), maximum_priority_class="high"), Team())),
            id="rules, the last for all",
        ),
        pytest.param(
            "protection: [{namespaceLabels: {gpu.example/tier: '!gold'}, privileged: deny, hidesUnrequested: false}]",
            Policy(
                protection=(
                    Protection(
                        namespace_labels={"gpu.example/tier": "!gold"}, privileged="deny", hides_unrequested=False
                    ),
                )
            ),
            id="a label that must not match",
        ),
        pytest.param(
            "gpuSlices: {timeshare: [], mig: [{resource: 'nvidia.com/mig-{profile}', nodeLabels: {a: '{profile}'}}]}",
            Policy(
                gpu_slices=msgspec.structs.replace(
                    Policy().gpu_slices,
                    timeshare=(),
                    mig=(SliceOffer(resource="nvidia.com/mig-{profile}", node_labels={"a": "{profile}"}),),
                )
            ),
            id="offers with a profile",
        ),
        pytest.param(
            MODULES + PVC + "}]}",
            Policy(
                modules=Modules(
                    module_path=("/apps/modules",),
                    volumes=(
                        ModuleVolume(
                            name="apps", mount_path="/apps", source={"persistentVolumeClaim": {"claimName": "apps"}}
                        ),
                    ),
                )
            ),
            id="modules from a claim",
        ),
        pytest.param(
            "cache: {url: 'http://cache.tasuki.svc:8080/v1', expirationSeconds: 600}",
            Policy(cache=Cache(url="http://cache.tasuki.svc:8080/v1", expiration_seconds=600)),
            id="the least seconds of a token",
        ),
    ],
)
def test_reads(text: str, expected: Policy) -> None:
    assert read_policy(text.encode()) == expected


REFUSED = [
    pytest.param("cpuonly: {}", "line 1: cpuonly is not a known key; did you mean 'cpuOnly'?", id="misspelt key"),
    pytest.param("\n\ncpuOnly: {priority: low}", "line 3: cpuOnly.priority is not a known key", id="misspelt below"),
    pytest.param(
        "maximumGpus: 4", "maximumGpus is not a known key; it belongs at sharedNodes.maximumGpus", id="misplaced key"
    ),
    pytest.param("cpuOnly:", "cpuOnly is empty; write {} for its defaults, or leave the key out", id="empty section"),
    pytest.param("cache:", "cache is empty; write a value, or leave the key out", id="empty section without defaults"),
    pytest.param("teams: [{namespaces: [~]}]", "teams[0].namespaces[0] is empty; write", id="empty value"),
    pytest.param("cache: {}", "line 1: cache.url is missing", id="missing key"),
    pytest.param("[]", "the file is a list; it must be a mapping", id="a list"),
    pytest.param("teams: {}", "teams is a mapping; it must be a list", id="no list"),
    pytest.param("apiVersion: v1", "apiVersion is 'v1'; it must be tasuki.dev/v1alpha1", id="another version"),
    pytest.param("kind: ConfigMap", "kind is 'ConfigMap'; it must be AdmissionPolicy", id="another kind"),
    pytest.param(
        "sharedNodes:\n  nodeSelector: {}",
        "line 2: sharedNodes.nodeSelector is empty, and would open the GPUs of every node to everybody; write",
        id="every node shared",
    ),
    pytest.param(
        "sharedNodes: {nodeSelector: {shared: true}}",
        "sharedNodes.nodeSelector.shared is true; it must be a label's value",
        id="a boolean for a label",
    ),
    pytest.param("sharedNodes: {nodeSelector: {shared: true}}", "put it in quotes", id="remedy for a boolean"),
    pytest.param("sharedNodes: {nodeSelector: {'a b': x}}", "it must be a label's key", id="no label key"),
    pytest.param("sharedNodes: {nodeSelector: {a: -x}}", "nodeSelector.a is '-x'; it must", id="no label value"),
    pytest.param("sharedNodes: {maximumGpus: 0}", "is 0; it must be a whole number from 1 to 64", id="no GPU"),
    pytest.param("sharedNodes: {maximumGpus: 65}", "is 65; it must be a whole number from 1 to 64", id="many GPUs"),
    pytest.param("sharedNodes: {maximumGpus: true}", "is true; it must be a whole number", id="a boolean for a number"),
    pytest.param("sharedNodes: {devices: index}", "is 'index'; it must be binding or indices", id="no such choice"),
    pytest.param("sharedNodes: {requests: {cpu: 1}}", "an amount of CPU", id="CPU as a number"),
    pytest.param("sharedNodes: {requests: {cpu: 0m}}", "more than none", id="no CPU"),
    pytest.param("sharedNodes: {requests: {memory: 100m}}", "is '100m'; it must be an amount", id="milli-bytes"),
    pytest.param("sharedNodes: {requests: {memory: 1 Gi}}", "is '1 Gi'; it must be an amount", id="a space"),
    pytest.param("exemptNamespaces: ['']", "exemptNamespaces[0] is ''; it must be a name", id="empty glob"),
    pytest.param("exemptNamespaces: kube", "exemptNamespaces is 'kube'; it must be a list", id="one word for a list"),
    pytest.param("accelerators: {resources: ['*']}", "has '*', which is also cpu", id="every resource"),
    pytest.param(
        "accelerators: {tolerations: [{resources: [a/b], tolerations: [{key: a, operator: exists}]}]}",
        "accelerators.tolerations[0].tolerations[0].operator is 'exists'; it must be",
        id="operator in another case",
    ),
    pytest.param("sharedNodes: {tolerations: [{key: a, effect: NoSchedul}]}", "is 'NoSchedul'", id="no such effect"),
    pytest.param(
        "sharedNodes: {tolerations: [{value: x}]}", "operator is '' without a key; write Exists", id="keyless Equal"
    ),
    pytest.param(
        "sharedNodes:\n  tolerations:\n    - key: a\n      operator: Exists\n      value: x",
        "line 5: sharedNodes.tolerations[0].value is 'x' with operator Exists",
        id="Exists with a value",
    ),
    pytest.param(
        "sharedNodes: {tolerations: [{key: a, tolerationSeconds: 5}]}",
        "tolerationSeconds is 5 with effect ''; it is only for NoExecute",
        id="seconds for NoSchedule",
    ),
    pytest.param("gpuSlices: {mig: [{resource: gpu}]}", "a resource's name with its domain", id="no domain"),
    pytest.param("gpuSlices: {mig: [{resource: 'a.b/c-{profil}'}]}", "{profile}", id="no such placeholder"),
    pytest.param("cpuOnly: {priorityClass: Low}", "the name of an object: lower-case", id="priority class in capitals"),
    pytest.param("cpuOnly: {priorityClass: ''}", "is ''; it must be the name of an object", id="no priority class"),
    pytest.param("protection: [{privileged: denied}]", "it must be allow, deny, strip or warn", id="no such verdict"),
    pytest.param(
        "teams: [{namespaces: ['*']}, {}]",
        "teams has at [0] a rule for every namespace, so that those after it never count; move it to the end",
        id="rules that never count",
    ),
    pytest.param("cache: {url: cache.svc}", "begins with http:// or https://", id="no scheme"),
    pytest.param("cache: {url: 'http://c?x=1'}", "without query", id="a query"),
    pytest.param("cache: {url: http://c, expirationSeconds: 599}", "from 600 to 4294967296", id="a short token"),
    pytest.param("cache: {url: http://c, audience: ''}", "cache.audience is ''", id="no audience"),
    pytest.param("cache: {url: http://c, mountPath: run}", "an absolute path", id="a relative path"),
    pytest.param("cache: {url: http://c, mountPath: /}", "not the root itself", id="the root"),
    pytest.param('cache: {url: "http://c\\n"}', "cache.url is 'http://c\\n'", id="a line's end"),
    pytest.param("chains: {schedulerName: My Scheduler}", "chains.schedulerName is 'My Scheduler'", id="no name"),
    pytest.param("vaccel: {session: session}", "a resource's name with its domain", id="a session without domain"),
    pytest.param("vaccel: {sidecar: {image: a, plugins: []}}", "it must name at least one", id="no plugin"),
    pytest.param(
        "vaccel: {sidecar: {image: a, resources: {limit: {}}}}", "did you mean 'limits'?", id="no such requirement"
    ),
    pytest.param(
        "vaccel: {sidecar: {image: a, resources: {limits: {cpu: lots}}}}", "has 'lots' as cpu", id="no quantity"
    ),
    pytest.param("vaccel: {sidecar: {image: a, resources: {limits: [a]}}}", "a mapping of resources", id="no mapping"),
    pytest.param(
        "vaccel: {sidecar: {image: a, resources: {requests: {cpu: 2}, limits: {cpu: 500m}}}}",
        "requests 2 of cpu, but limits it to '500m'; raise the limit",
        id="more requested than allowed",
    ),
    pytest.param(
        "vaccel: {sidecar: {image: a, resources: {requests: {nvidia.com/gpu: 1}}}}",
        "has nvidia.com/gpu in requests only; write 1 in limits, too",
        id="a GPU without a limit",
    ),
    pytest.param(
        "vaccel: {sidecar: {image: a, resources: {requests: {a/b: 1}, limits: {a/b: 2}}}}",
        "requests 1 of a/b, but limits it to 2; the two must be equal",
        id="a device beyond what is requested",
    ),
    pytest.param(
        "vaccel: {sidecar: {image: a, resources: {requests: {cpu: 1e99}, limits: {cpu: 1}}}}",
        "beyond all that is ever counted",
        id="an amount without end",
    ),
    pytest.param("modules: {volumes: [], modulePath: []}", "modulePath is an empty list", id="no module path"),
    pytest.param(MODULES + "{}}]}", "source has 0 keys; it must have exactly one of", id="no source"),
    pytest.param(MODULES + "{image: {reference: a}, nfs: {}}}]}", "source has 2 keys", id="two sources"),
    pytest.param(MODULES + "{persistantVolumeClaim: {}}}]}", "did you mean 'persistentVolumeClaim'?", id="a slip"),
    pytest.param(MODULES + "{secret: {secretName: a}}}]}", "known here are persistentVolumeClaim", id="a secret"),
    pytest.param(MODULES + "{persistentVolumeClaim: apps}}]}", "it must be a mapping", id="a source that is a word"),
    pytest.param(MODULES + "{persistentVolumeClaim: {claim: apps}}}]}", "did you mean 'claimName'?", id="claim"),
    pytest.param(MODULES + "{nfs: {server: a}}}]}", "lacks path in nfs; add it", id="half a source"),
    pytest.param(MODULES + "{hostPath: {path: ''}}}]}", "has '' as path in hostPath", id="empty path"),
    pytest.param(MODULES + "{hostPath: {path: /a, type: }}}]}", "has type in hostPath without a value", id="null"),
    pytest.param(MODULES + PVC + ", subPath: ../x}]}", "without '..'", id="a way out of the volume"),
    pytest.param(MODULES + PVC + ", mountPropagation: Both}]}", "HostToContainer", id="propagation back"),
    pytest.param(
        MODULES + PVC + "}, {name: apps, mountPath: /b, source: " + PVC + "}]}",
        "volumes has a volume called 'apps' twice",
        id="a volume's name twice",
    ),
    pytest.param(
        MODULES + PVC + "}, {name: more, mountPath: /apps/, source: " + PVC + "}]}",
        "volumes has a volume mounted at '/apps' twice",
        id="a mount's path twice",
    ),
    pytest.param("cpuOnly: {}\ncpuOnly: {}", "line 2: the key 'cpuOnly' is here twice", id="a key twice"),
]


@pytest.mark.parametrize(("text", "told"), REFUSED)
def test_refuses(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_policy(text.encode())

    assert told in str(error.value)


def test_all_problems_are_told_at_once_with_their_lines() -> None:
    text = "cpuOnly:\n  priorityClass: A\nteams:\n  - namespace: [x]\n    defaultPriorityClass: 5\nchain: {}\n"

    with pytest.raises(ConfigError) as error:
        read_policy(text.encode())

    assert [problem.partition(" is ")[0] for problem in error.value.problems] == [
        "line 2: cpuOnly.priorityClass",
        "line 4: teams[0].namespace",
        "line 5: teams[0].defaultPriorityClass",
        "line 6: chain",
    ]


def test_a_bomb_of_aliases_is_refused() -> None:
    levels = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]

    with pytest.raises(ConfigError, match="aliases counted in full"):
        read_policy("\n".join(levels).encode())


def test_a_policy_made_in_code_obeys_the_same_rules() -> None:
    with pytest.raises(ValueError, match="tolerationSeconds is 5"):
        Toleration(key="a", effect="NoSchedule", toleration_seconds=5)


whole = st.integers(min_value=-1, max_value=70)
words = st.sampled_from(["", "a", "a/b", "/a", "*", "Exists", "NoExecute", "warn", "100m", "1Gi", "http://a", "x y"])
labels = st.dictionaries(words, words, max_size=2)
toleration = st.fixed_dictionaries(
    {}, optional={"key": words, "operator": words, "value": words, "effect": words, "tolerationSeconds": whole}
)
policies = st.fixed_dictionaries(
    {},
    optional={
        "exemptNamespaces": st.lists(words, max_size=2),
        "sharedNodes": st.fixed_dictionaries(
            {},
            optional={
                "nodeSelector": labels,
                "tolerations": st.lists(toleration, max_size=2),
                "requests": st.fixed_dictionaries({}, optional={"cpu": words, "memory": words, "gpu": words}),
                "maximumGpus": st.one_of(whole, words, st.booleans()),
            },
        ),
        "teams": st.lists(st.fixed_dictionaries({}, optional={"namespaceLabels": labels, "namespaces": words})),
        "protection": st.lists(st.fixed_dictionaries({}, optional={"privileged": words, "visibleDevices": words})),
        "cache": st.fixed_dictionaries({}, optional={"url": words, "mountPath": words, "expirationSeconds": whole}),
    },
)


@settings(max_examples=300, deadline=None)
@given(policies)
def test_what_is_read_is_what_msgspec_would_read(written: dict[str, Any]) -> None:
    """An independent reading of the same model: neither takes what the other refuses."""
    try:
        expected: Policy | None = msgspec.convert(written, Policy)
    except msgspec.ValidationError:
        expected = None

    try:
        found: Policy | None = read_policy(msgspec.json.encode(written))
    except ConfigError:
        found = None

    assert found == expected


@settings(max_examples=200, deadline=None)
@given(st.from_regex(r"[0-9]{1,4}(\.[0-9]{0,3})?([mkMG]|[KMG]i)?", fullmatch=True), st.sampled_from(["cpu", "memory"]))
def test_every_amount_that_is_taken_is_more_than_none(amount: str, resource: str) -> None:
    text = msgspec.json.encode({"sharedNodes": {"requests": {resource: amount}}})

    try:
        read_policy(text)
    except ConfigError:
        return

    assert 0 < quantity.parse(amount) < math.inf
