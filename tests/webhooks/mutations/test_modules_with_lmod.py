"""What real Lmod sets reaches a container, whichever way a cluster allows."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from tests.webhook_builders import Json, admit, container, pod, scene, without_accelerators
from webhooks.catalogue import find, read_catalogue
from webhooks.cluster import Cluster
from webhooks.mutations.modules import modules
from webhooks.nodes import NodeFacts
from webhooks.policy.model import Modules, ModuleVolume, Policy

LMOD: Final = "/usr/share/lmod/lmod"
PATH: Final = "/usr/local/bin:/usr/bin:/bin"
MOUNT_PATH: Final = "/var/run/tasuki.dev/modules"

pytestmark = pytest.mark.skipif(not Path(LMOD, "init/bash").exists(), reason=f"Lmod is not installed at {LMOD}")

MODULE_FILES: Final = {
    "gcc/12.3.lua": """
        prepend_path("PATH", "/apps/gcc/12.3/bin")
        prepend_path("LD_LIBRARY_PATH", "/apps/gcc/12.3/lib64")
        setenv("EBROOTGCC", "/apps/gcc/12.3")
        setenv("EBVERSIONGCC", "12.3")
        family("compiler")
    """,
    "gcc/13.1.lua": 'setenv("EBROOTGCC", "/apps/gcc/13.1")',
    "clang/18.lua": 'family("compiler")',
    "cuda/12.4": """#%Module1.0
        prepend-path PATH /apps/cuda/bin
        setenv CUDA_HOME /apps/cuda
    """,
    "pytorch/2.3.lua": """
        depends_on("gcc/12", "cuda")
        prepend_path("PYTHONPATH", "/apps/pytorch/site-packages")
        setenv("UNLISTED", "not in the policy")
    """,
    "rival/1.lua": 'conflict("gcc")',
    "quoted/1.lua": """setenv("CFLAGS", "-DWHO='me'") setenv("CXXFLAGS", "-O2")""",
    "long/1.lua": 'setenv("CFLAGS", string.rep("x", 70000)) setenv("CC", "gcc")',
    "second/1.lua": 'prepend_path("PATH", "/apps/second/bin")',
    "libfoo-bar++/1.0.lua": 'setenv("EBROOTLIBFOOMINBARPLUSPLUS", "/apps/libfoo")',
}


@pytest.fixture
def module_path(tmp_path: Path) -> Path:
    for name, text in MODULE_FILES.items():
        file = tmp_path / "modules" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path / "modules"


class Node:
    """Runs what a pod says as a kubelet and a container runtime would, without isolation."""

    def __init__(self, tmp_path: Path, module_path: Path, version: tuple[int, int]) -> None:
        self.results = tmp_path / "results"
        self.results.mkdir()
        self.image_env = {"PATH": PATH, "HOME": str(tmp_path)}
        self.policy = Modules(
            volumes=(ModuleVolume(name="apps", source={"hostPath": {"path": "/apps"}}, mount_path="/apps"),),
            module_path=(str(module_path),),
            lmod=LMOD,
        )
        nodes = {"n": NodeFacts(name="n", labels={}, taints=(), resources=frozenset(), kubelet_version=version)}
        self.where = scene(
            Policy(modules=self.policy),
            cluster=Cluster(server_version=version, nodes=nodes),
            nodes=without_accelerators(version),
        )

    def admit(self, names: str, **fields: Any) -> Json:
        asked = pod(container(**fields), annotations={"tasuki.dev/modules": names})
        text = json.dumps(admit(modules, asked, self.where).pod)
        admitted: Json = json.loads(text.replace(MOUNT_PATH, str(self.results)))
        return admitted

    def load(self, admitted: Json) -> subprocess.CompletedProcess[str]:
        [loader] = admitted["spec"]["initContainers"]
        return self.run(loader)

    def loaded(self, names: str, **fields: Any) -> Json:
        """The pod's only container, after its init container succeeded."""
        admitted = self.admit(names, **fields)
        ended = self.load(admitted)
        assert ended.returncode == 0, ended.stderr
        [main] = admitted["spec"]["containers"]
        return main if isinstance(main, dict) else {}

    def run(self, spec: Json, *command: str) -> subprocess.CompletedProcess[str]:
        env = self.env(spec)
        written = list(command) or [expanded(part, env) for part in (*spec["command"], *spec.get("args", ()))]
        return subprocess.run(written, env=env, capture_output=True, text=True, timeout=60, check=False)

    def env(self, spec: Json) -> dict[str, str]:
        env = dict(self.image_env)
        for entry in spec.get("env", ()):
            source = entry.get("valueFrom", {}).get("fileKeyRef")
            if source is None:
                env[entry["name"]] = expanded(entry.get("value", ""), env)
                continue
            assert source["volumeName"] == "tasuki-modules"
            value = read_env_file((self.results / source["path"]).read_text()).get(source["key"], "")
            assert value or source["optional"]
            if value:
                env[entry["name"]] = value
        return env

    def typed(self, spec: Json, *lines: str) -> str:
        """What an interactive bash on a terminal answers."""
        ours, theirs = pty.openpty()
        plain = {"TERM": "dumb", "PS1": "", "INPUTRC": "/dev/null", "LMOD_PAGER": "none", "LMOD_COLORIZE": "no"}
        with subprocess.Popen(
            ["timeout", "30", "bash", "--norc", "--noprofile", "-i"],
            env=self.env(spec) | plain,
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        ):  # fmt: skip
            os.close(theirs)
            os.write(ours, "".join(f"{line}\n" for line in (*lines, "exit")).encode())
            seen = bytearray()
            try:
                while more := os.read(ours, 4096):
                    seen += more
            except OSError:  # the terminal's other side is closed
                pass
        os.close(ours)
        return seen.decode()


@pytest.fixture(params=[(1, 36), (1, 33)], ids=["Kubernetes 1.36", "Kubernetes 1.33"])
def any_node(request: pytest.FixtureRequest, tmp_path: Path, module_path: Path) -> Node:
    return Node(tmp_path, module_path, request.param)


@pytest.fixture
def new_node(tmp_path: Path, module_path: Path) -> Node:
    return Node(tmp_path, module_path, (1, 36))


@pytest.fixture
def old_node(tmp_path: Path, module_path: Path) -> Node:
    return Node(tmp_path, module_path, (1, 33))


def expanded(text: str, env: Mapping[str, str]) -> str:
    """`$(NAME)` and `$$` as the kubelet takes them."""
    return re.sub(r"\$\$|\$\(([^)]*)\)", lambda found: "$" if found[0] == "$$" else env.get(found[1], found[0]), text)


def read_env_file(text: str) -> dict[str, str]:
    """The syntax of KEP-3721 by its grammar: blank lines, comments, and NAME='value' with at most a comment after."""
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?=(?:[^']*'[^']*')*[^']*\Z)", text):
        if not entry.strip() or entry.lstrip().startswith("#"):
            continue
        match = re.fullmatch(r"[ \t]*(?P<name>[^\s=']+)='(?P<value>[^']*)'[ \t]*(?:#.*)?", entry)
        assert match is not None, entry
        found.setdefault(match["name"], match["value"])
    # bufio.Scanner gives up at a line of 64 KiB, and drops \r before \n.
    assert all(len(line.encode()) < 65536 and not line.endswith("\r") for line in text.split("\n"))
    return found


SHOW: Final = "import json, os; print(json.dumps(dict(os.environ)))"


def environment(ended: subprocess.CompletedProcess[str]) -> dict[str, str]:
    assert ended.returncode == 0, ended.stderr
    shown: dict[str, str] = json.loads(ended.stdout)
    return shown


def test_a_process_gets_the_variables_from_the_kubelet(new_node: Node) -> None:
    main = new_node.loaded("gcc/12 cuda")

    env = environment(new_node.run(main, sys.executable, "-c", SHOW))

    assert env["PATH"] == f"/apps/cuda/bin:/apps/gcc/12.3/bin:{PATH}"
    assert env["EBROOTGCC"] == "/apps/gcc/12.3"
    assert env["EBVERSIONGCC"] == "12.3"
    assert env["CUDA_HOME"] == "/apps/cuda"
    assert env["LOADEDMODULES"] == "gcc/12.3:cuda/12.4"
    assert env["LMOD_CMD"] == f"{LMOD}/libexec/lmod"
    assert env["MODULESHOME"] == LMOD


def test_a_process_gets_the_variables_from_the_wrapper_of_its_command(old_node: Node) -> None:
    main = old_node.loaded("gcc/12 cuda", command=[sys.executable, "-c"], args=[SHOW])

    env = environment(old_node.run(main))

    assert env["PATH"] == f"/apps/cuda/bin:/apps/gcc/12.3/bin:{PATH}"
    assert env["EBROOTGCC"] == "/apps/gcc/12.3"
    assert env["BASH_FUNC_module%%"].startswith("() {")
    assert "POSIXLY_CORRECT" not in env


def test_the_wrapper_passes_arguments_and_exit_status_on_unchanged(old_node: Node) -> None:
    arguments = ["", "two words", "'\"`\\", "*", "-n", "ü\n"]
    show = "import json, sys; print(json.dumps(sys.argv[1:])); sys.exit(7)"
    main = old_node.loaded("gcc", command=[sys.executable, "-c", show, *arguments])

    ended = old_node.run(main)

    assert json.loads(ended.stdout) == arguments
    assert ended.returncode == 7


def test_a_bash_script_gets_the_variables_without_a_command(old_node: Node) -> None:
    main = old_node.loaded("gcc/12 cuda")

    ended = old_node.run(main, "bash", "-c", "echo $EBROOTGCC; module -t list; module load second; echo $PATH")

    assert ended.stdout.splitlines() == [
        "/apps/gcc/12.3",
        f"/apps/second/bin:/apps/cuda/bin:/apps/gcc/12.3/bin:{PATH}",
    ]
    assert ended.stderr.split() == ["gcc/12.3", "cuda/12.4"]


def test_a_script_keeps_what_the_script_that_started_it_changed(any_node: Node) -> None:
    main = any_node.loaded("gcc/12")

    ended = any_node.run(main, "bash", "-c", "module unload gcc; module load second; bash -c 'echo $PATH $EBROOTGCC'")

    assert ended.stdout.split() == [f"/apps/second/bin:{PATH}"]


def test_module_load_works_on_a_terminal(any_node: Node) -> None:
    main = any_node.loaded("gcc/12", command=["sleep", "inf"])

    answered = any_node.typed(main, "module load second", "echo =$PATH= =$EBROOTGCC=", "ml cuda", "module -t list")

    assert f"=/apps/second/bin:/apps/gcc/12.3/bin:{PATH}= =/apps/gcc/12.3=" in answered
    assert re.search(r"gcc/12.3\s+second/1\s+cuda/12.4", answered), answered


def test_module_load_on_a_terminal_knows_what_conflicts(any_node: Node) -> None:
    main = any_node.loaded("gcc/12", command=["sleep", "inf"])

    answered = any_node.typed(main, "module load rival", "echo status=$?")

    assert re.search(r"Cannot\s+load\s+module", answered), answered
    assert "status=1" in answered


def test_a_module_that_does_not_exist_ends_the_init_container_with_what_lmod_says(any_node: Node) -> None:
    ended = any_node.load(any_node.admit("gcc nothere/1.0"))

    assert ended.returncode == 1
    assert "The following module(s) are unknown" in ended.stderr
    assert '"nothere/1.0"' in ended.stderr
    assert list(any_node.results.iterdir()) == []


@pytest.mark.parametrize(
    ("names", "said"),
    [
        pytest.param("gcc/12 rival", "Cannot load module", id="one that conflicts with another"),
        pytest.param("gcc/12 clang", "You can only have one compiler module", id="two of a family"),
        pytest.param("gcc/12 gcc/13", "gcc/12 had to make way for another version", id="two versions"),
        pytest.param("gcc/13 pytorch", "gcc/13 had to make way for another version", id="another version is needed"),
    ],
)
def test_modules_that_cannot_be_loaded_together_end_the_init_container(new_node: Node, names: str, said: str) -> None:
    ended = new_node.load(new_node.admit(names))

    assert ended.returncode == 1
    assert said in ended.stderr


def test_a_module_without_version_takes_the_one_that_another_needs(new_node: Node) -> None:
    env = new_node.env(new_node.loaded("gcc pytorch"))

    assert sorted(env["LOADEDMODULES"].split(":")) == ["cuda/12.4", "gcc/12.3", "pytorch/2.3"]


def test_a_missing_lmod_is_named(tmp_path: Path, new_node: Node) -> None:
    admitted = new_node.admit("gcc")
    told = admitted["spec"]["initContainers"][0]["env"]
    told[0]["value"] = str(tmp_path / "nowhere")

    ended = new_node.load(admitted)

    assert ended.returncode == 1
    assert f"there is no {tmp_path}/nowhere/init/bash" in ended.stderr


def test_modules_that_others_depend_on_come_along(new_node: Node) -> None:
    env = new_node.env(new_node.loaded("pytorch/2.3"))

    assert env["LOADEDMODULES"] == "gcc/12.3:cuda/12.4:pytorch/2.3"
    assert env["PYTHONPATH"] == "/apps/pytorch/site-packages"
    assert "UNLISTED" not in env


def test_a_name_becomes_a_variable_as_easybuild_does_it(new_node: Node) -> None:
    env = new_node.env(new_node.loaded("libfoo-bar++/1.0"))

    assert env["EBROOTLIBFOOMINBARPLUSPLUS"] == "/apps/libfoo"


@pytest.mark.parametrize(
    ("module", "said", "seen"),
    [
        pytest.param("quoted", "it has a single quote", "-DWHO='me'", id="a single quote"),
        pytest.param("long", "its 70000 bytes are more than 60000", "xxxxxxxxxx", id="too long for the kubelet"),
    ],
)
def test_a_value_that_the_file_cannot_hold_reaches_bash_only(old_node: Node, module: str, said: str, seen: str) -> None:
    admitted = old_node.admit(module)
    [main] = admitted["spec"]["containers"]

    ended = old_node.load(admitted)
    written = read_env_file((old_node.results / "tasuki-modules.env").read_text())
    in_bash = old_node.run(main, "bash", "-c", 'printf %s "${CFLAGS:0:10}"')

    assert ended.returncode == 0
    assert f"CFLAGS reaches bash scripts only: {said}" in ended.stderr
    assert "CFLAGS" not in written
    assert written["PATH"]
    assert in_bash.stdout == seen


@pytest.mark.parametrize(
    "value",
    [
        # Lmod itself cannot hand on several lines: they have to be the user's own.
        pytest.param("-O2\n-g", id="several lines"),
        pytest.param("\n\n", id="empty lines"),
        pytest.param('# `whoami` ${HOME} $$(whoami) \\ " = !', id="shell syntax"),
        pytest.param("-DWHO='me'", id="a single quote"),
        pytest.param("a\r\nb", id="a carriage return"),
        pytest.param("ü€😀", id="more than ASCII"),
    ],
)
def test_the_users_own_value_arrives_whole(any_node: Node, value: str) -> None:
    main = any_node.loaded("gcc", command=[sys.executable, "-c", SHOW], env={"CFLAGS": value})

    env = environment(any_node.run(main))

    assert env["CFLAGS"] == value.replace("$$", "$")


def test_the_users_own_value_is_what_modules_add_to(any_node: Node) -> None:
    own = {"ROOT": "/mine", "LD_LIBRARY_PATH": "$(ROOT)/lib", "AFTER": "<$(LD_LIBRARY_PATH)>"}
    main = any_node.loaded("gcc/12", command=[sys.executable, "-c", SHOW], env=own)

    env = environment(any_node.run(main))

    assert env["LD_LIBRARY_PATH"] == "/apps/gcc/12.3/lib64:/mine/lib"


def test_later_variables_refer_to_what_the_modules_made(new_node: Node) -> None:
    own = {"LD_LIBRARY_PATH": "/mine/lib", "AFTER": "<$(LD_LIBRARY_PATH)>"}

    env = new_node.env(new_node.loaded("gcc/12", env=own))

    assert env["AFTER"] == "</apps/gcc/12.3/lib64:/mine/lib>"


def test_the_users_own_bash_env_is_still_read(tmp_path: Path, any_node: Node) -> None:
    (tmp_path / "mine").write_text("echo mine $EBVERSIONGCC")
    main = any_node.loaded("gcc/12", env={"BASH_ENV": str(tmp_path / "mine")}, command=["sleep", "inf"])

    ended = any_node.run(main, "bash", "-c", "echo ours")

    assert ended.stdout.split() == ["mine", "12.3", "ours"]


def test_an_image_without_other_programs_is_enough(any_node: Node) -> None:
    any_node.image_env["PATH"] = "/nowhere"
    del any_node.image_env["HOME"]

    main = any_node.loaded("gcc/12", command=[sys.executable, "-c", SHOW])
    env = environment(any_node.run(main))

    assert env["PATH"] == "/apps/gcc/12.3/bin:/nowhere"


def test_the_images_own_modules_stand_behind_the_clusters(tmp_path: Path, new_node: Node) -> None:
    new_node.image_env["MODULEPATH"] = str(tmp_path / "own")
    (tmp_path / "own/tool").mkdir(parents=True)
    (tmp_path / "own/tool/1.lua").write_text('setenv("CC", "tool")')

    env = new_node.env(new_node.loaded("gcc/12 tool"))

    assert env["MODULEPATH"] == f"{tmp_path}/modules:{tmp_path}/own"
    assert env["CC"] == "tool"


@pytest.mark.parametrize("command", ["avail", "spider"])
def test_the_catalogue_is_what_lmod_prints(module_path: Path, command: str) -> None:
    said = subprocess.run(
        ["bash", "-c", f". {LMOD}/init/bash; module -t {command}"],
        env={"PATH": PATH, "HOME": str(module_path), "MODULEPATH": str(module_path)},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip

    catalogue = read_catalogue(said.stderr)

    assert catalogue.versions["gcc"] == ("12.3", "13.1")
    assert sorted(catalogue.versions) == sorted({name.partition("/")[0] for name in MODULE_FILES})


@pytest.mark.parametrize(
    "name", ["gcc", "gcc/12", "gcc/1", "gcc/12.3", "gcc/default", "gcc/13.", "cuda/12.4", "gc", "gcc/14", "second/x"]
)
def test_the_catalogue_finds_what_lmod_finds(module_path: Path, name: str) -> None:
    ended = subprocess.run(
        ["bash", "-c", f'. {LMOD}/init/bash; module -t spider; module load "$1" 2>/dev/null', "sh", name],
        env={"PATH": PATH, "HOME": str(module_path), "MODULEPATH": str(module_path)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert find(read_catalogue(ended.stderr), name) == (ended.returncode == 0)
