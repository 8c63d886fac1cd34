"""`tasuki.fpga` in the configuration file: the catalogue of functions, good and bad."""

from pathlib import Path

import pytest

from deviceplugin.config.model import (
    FpgaFunction,
    FpgaImplementation,
    FpgaOptions,
    FpgaPrewarm,
    FpgaProgrammer,
    PeerNames,
)
from deviceplugin.config.precedence import Overrides, load
from deviceplugin.config.values import canonical_id
from deviceplugin.fpga import Family
from tasuki.process.document import ConfigError
from tests.fpga_builders import INTERFACE, RESIZE, SHARPEN

EXAMPLE = Path(__file__).parents[3] / "examples/config/fpga.yaml"

EVERYTHING = f"""
tasuki:
  fpga:
    functions:
      resize:
        implementations:
        - family: dfl
          interface: 69528DB6-eb31-577a-8c36-68f9faa081f6
          id: {RESIZE}
          bitstream: resize.gbs
          channels: 4
          users: 2
          programmingSeconds: 8
        - {{family: xrt, interface: xilinx_u280_xdma_201920_3, id: 2a6b7d1c-0f3e-4b52-9c1d-7e8f90a1b2c3,
            bitstream: resize.xclbin, programmingSeconds: 40}}
      blur-5x5:
        implementations:
        - {{family: fpga-region, id: blur.bit.bin, bitstream: blur.bit.bin, channels: 2, programmingSeconds: 0.5}}
    peerNames: all
    programmer:
      command: [xbutil, program, --device, "{{pci}}", --user, "{{image}}"]
      families: [xrt]
      firmwareFolder: /host/lib/firmware
    prewarm:
    - {{function: resize, regions: 2}}
    - function: blur-5x5
"""


def options(text: str) -> FpgaOptions:
    return load(text.encode(), Overrides()).tasuki.fpga


def problems(text: str) -> str:
    with pytest.raises(ConfigError) as error:
        options(text)
    return "\n".join(error.value.problems)


def test_every_key_arrives() -> None:
    assert options(EVERYTHING) == FpgaOptions(
        functions=(
            FpgaFunction(
                name="resize",
                implementations=(
                    FpgaImplementation(
                        family=Family.DFL,
                        interface=INTERFACE,
                        id=RESIZE,
                        bitstream="resize.gbs",
                        channels=4,
                        users=2,
                        programming_seconds=8.0,
                    ),
                    FpgaImplementation(
                        family=Family.XRT,
                        interface="xilinx_u280_xdma_201920_3",
                        id="2a6b7d1c0f3e4b529c1d7e8f90a1b2c3",
                        bitstream="resize.xclbin",
                        programming_seconds=40.0,
                    ),
                ),
            ),
            FpgaFunction(
                name="blur-5x5",
                implementations=(
                    FpgaImplementation(
                        family=Family.FPGA_REGION,
                        interface="",
                        id="blur.bit.bin",
                        bitstream="blur.bit.bin",
                        channels=2,
                        users=2,
                        programming_seconds=0.5,
                    ),
                ),
            ),
        ),
        peer_names=PeerNames.ALL,
        programmer=FpgaProgrammer(
            command=("xbutil", "program", "--device", "{pci}", "--user", "{image}"),
            families=(Family.XRT,),
            firmware_folder="/host/lib/firmware",
        ),
        prewarm=(FpgaPrewarm(function="resize", regions=2), FpgaPrewarm(function="blur-5x5")),
    )


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("tasuki: {fpga: }", id="an empty block"),
        pytest.param("tasuki: {fpga: {functions: , peerNames: , programmer: , prewarm: }}", id="empty values"),
        pytest.param("tasuki: {fpga: {functions: {}, prewarm: [], programmer: sysfs, peerNames: none}}", id="defaults"),
    ],
)
def test_a_file_that_says_nothing_gives_an_empty_catalogue(text: str) -> None:
    assert options(text) == FpgaOptions()


def test_the_example_is_accepted() -> None:
    assert load(EXAMPLE.read_bytes(), Overrides()).tasuki.fpga.functions


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("69528DB6-EB31-577A-8C36-68F9FAA081F6", INTERFACE, id="a UUID in capitals with dashes"),
        pytest.param(INTERFACE, INTERFACE, id="canonical already"),
        pytest.param("Xilinx_U250", "xilinx_u250", id="a name"),
        pytest.param("", "", id="nothing"),
    ],
)
def test_ids_have_one_spelling(text: str, expected: str) -> None:
    assert canonical_id(text) == expected


def one(text: str) -> str:
    """A file with one implementation of one function, of which parts are replaced or added."""
    entry = {
        "family": "dfl",
        "interface": INTERFACE,
        "id": RESIZE,
        "bitstream": "resize.gbs",
        "programmingSeconds": "8",
    }
    for part in filter(None, text.split(", ")):
        key, _, value = part.partition(": ")
        if value == "-":
            del entry[key]
        else:
            entry[key] = value
    written = ", ".join(f"{key}: {value}" for key, value in entry.items())
    return f"tasuki: {{fpga: {{functions: {{resize: {{implementations: [{{{written}}}]}}}}}}}}"


def two(first: str, second: str, *, same: bool) -> str:
    """A file with two implementations, of one function or of two."""
    base = "bitstream: a.gbs, programmingSeconds: 8"
    entries = [f"{{{first}, {base}}}", f"{{{second}, {base}}}"]
    if same:
        return f"tasuki: {{fpga: {{functions: {{a: {{implementations: [{', '.join(entries)}]}}}}}}}}"
    functions = ", ".join(f"{n}: {{implementations: [{e}]}}" for n, e in zip("ab", entries, strict=True))
    return f"tasuki: {{fpga: {{functions: {{{functions}}}}}}}"


def block(text: str) -> str:
    return f"tasuki: {{fpga: {{{text}}}}}"


FIRST = "tasuki.fpga.functions.resize.implementations[0]"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param(
            one("family: altera"),
            f"{FIRST}.family is 'altera'; it must be dfl, opae, xrt or fpga-region",
            id="another family",
        ),
        pytest.param(one("family: -"), f"{FIRST}.family is missing", id="no family"),
        pytest.param(
            one("interface: -"), f"{FIRST}.interface is ''; it must be 32 hexadecimal digits", id="no interface"
        ),
        pytest.param(one("interface: 69528db6"), "it must be 32 hexadecimal digits", id="short interface"),
        pytest.param(
            one("id: " + "9" * 32),
            f"{FIRST}.id is {'9' * 32}; it must be a string; put it in quotes",
            id="an id of digits alone",
        ),
        pytest.param(
            one("id: resize"), f"{FIRST}.id is 'resize'; it must be 32 hexadecimal digits", id="a name for an id"
        ),
        pytest.param(one("family: xrt, id: resize"), f"{FIRST}.id is 'resize'", id="a name for an xclbin's id"),
        pytest.param(
            one("family: xrt, interface: a b"), f"{FIRST}.interface is 'a b'; it must be a word", id="no word"
        ),
        pytest.param(
            one("family: fpga-region, id: a/b"), f"{FIRST}.id is 'a/b'; it must be a word", id="a path for an id"
        ),
        pytest.param(one("bitstream: -"), f"{FIRST}.bitstream is missing", id="no bitstream"),
        pytest.param(
            one("bitstream: /lib/firmware/resize.gbs"),
            f"{FIRST}.bitstream is '/lib/firmware/resize.gbs'; it must be a file's name without folder",
            id="a path for a bitstream",
        ),
        pytest.param(one("bitstream: '..'"), "it must be a file's name without folder", id="the folder above"),
        pytest.param(one("bitstream: ../resize.gbs"), "it must be a file's name without folder", id="a file above"),
        pytest.param(one("bitstream: .resize.gbs"), "it must be a file's name without folder", id="a hidden file"),
        pytest.param(one("bitstream: ''"), "it must be a file's name without folder", id="an empty name"),
        pytest.param(one("channels: 0"), f"{FIRST}.channels is 0; it must be from 1 to 256", id="no channels"),
        pytest.param(one("channels: 257"), "it must be from 1 to 256", id="too many channels"),
        pytest.param(one("channels: 1.5"), "it must be a whole number", id="half a channel"),
        pytest.param(one("users: 0"), f"{FIRST}.users is 0; it must be from 1", id="no users"),
        pytest.param(
            one("channels: 2, users: 3"),
            f"{FIRST}.users is 3, but a region has only 2 channels",
            id="more users than channels",
        ),
        pytest.param(one("programmingSeconds: -"), f"{FIRST}.programmingSeconds is missing", id="no time"),
        pytest.param(one("programmingSeconds: 0"), "it must be a number from 0.001 to 3600", id="no time at all"),
        pytest.param(
            one("programmingSeconds: 26"),
            f"{FIRST}.programmingSeconds is 26, but a container that starts can be "
            "kept waiting for 25 at most; have it loaded beforehand: add {function: resize} to tasuki.fpga.prewarm",
            id="longer than the kubelet waits",
        ),
        pytest.param(one("channel: 4"), f"{FIRST}.channel is not a known key; did you mean 'channels'?", id="a slip"),
        pytest.param(one("sessions: 4"), f"{FIRST}.sessions is not a known key", id="a key of another block"),
        pytest.param(
            block("functions: {Resize: {implementations: []}}"),
            "tasuki.fpga.functions.Resize is 'Resize'; it must be at most 63 lower-case letters",
            id="capitals in a name",
        ),
        pytest.param(block("functions: {re.size: {implementations: []}}"), "must be at most 63", id="a dot in a name"),
        pytest.param(
            block(f"functions: {{{'a' * 48}: {{implementations: []}}}}"), "64 characters; at most 63", id="long"
        ),
        pytest.param(block("functions: {a: {implementations: []}}"), "name at least one implementation", id="none"),
        pytest.param(block("functions: {a: {}}"), "functions.a.implementations is missing", id="no implementations"),
        pytest.param(block("functions: [a]"), "tasuki.fpga.functions is a list; it must be a mapping", id="a list"),
        pytest.param(
            block("implementations: []"),
            "tasuki.fpga.implementations is not a known key; it belongs at tasuki.fpga.functions.*.implementations",
            id="a level too high",
        ),
        pytest.param(
            block("peerNames: nvidia"),
            "tasuki.fpga.peerNames is 'nvidia'; it must be none, intel, amd or all",
            id="another peer",
        ),
        pytest.param(
            two(
                f"family: dfl, interface: {INTERFACE}, id: {RESIZE}",
                f"family: dfl, interface: {INTERFACE}, id: {SHARPEN}",
                same=True,
            ),
            f"implementations[1].interface is '{INTERFACE}', for which an implementation of family dfl above",
            id="two implementations for one interface",
        ),
        pytest.param(
            two(
                f"family: dfl, interface: {INTERFACE}, id: {RESIZE}",
                f"family: dfl, interface: {SHARPEN}, id: {RESIZE.upper()}",
                same=False,
            ),
            f"functions.b.implementations[0].id is '{RESIZE}', which is 'a' already",
            id="an id of two functions",
        ),
        pytest.param(
            block("prewarm: [{function: resize}]"),
            "tasuki.fpga.prewarm[0].function is 'resize', which is no "
            "function of tasuki.fpga.functions; the catalogue is empty",
            id="pre-warming nothing",
        ),
        pytest.param(block("prewarm: [{regions: 1}]"), "prewarm[0].function is missing", id="pre-warming without name"),
        pytest.param(block("prewarm: [{function: a, regions: some}]"), "it must be all or a number", id="some regions"),
        pytest.param(block("prewarm: [{function: a, regions: 0}]"), "regions is 0; it must be from 1", id="no regions"),
        pytest.param(block("prewarm: resize"), "tasuki.fpga.prewarm is 'resize'; it must be a list", id="one word"),
        pytest.param(block("programmer: fpgaconf"), "is 'fpgaconf'; it must be sysfs, or a mapping", id="a name alone"),
        pytest.param(
            block("programmer: {command: fpgaconf}"),
            "programmer.command is 'fpgaconf'; it must be a list",
            id="a command as a text",
        ),
        pytest.param(block("programmer: {command: []}"), "programmer.command names no program", id="an empty command"),
        pytest.param(block("programmer: {command: [fpgaconf, image]}"), "has no {image}", id="no image"),
        pytest.param(block("programmer: {command: ['{image}']}"), "the program itself must be named", id="no program"),
        pytest.param(
            block("programmer: {command: [x, '{image}', '{card}']}"),
            "programmer.command[2] has {card}; what is filled in is {image} or {pci}",
            id="another placeholder",
        ),
        pytest.param(
            block("programmer: {command: [x, '{image}', 5]}"), "command[2] is 5; it must be a string", id="a number"
        ),
        pytest.param(
            block("programmer: {command: [x, '{image}'], families: []}"), "families is an empty list", id="none"
        ),
        pytest.param(block("programmer: {families: [xrt]}"), "is for a command, and there is none", id="no command"),
        pytest.param(block("programmer: {firmwareFolder: firmware}"), "must be an absolute path", id="relative folder"),
    ],
)
def test_refuses(text: str, problem: str) -> None:
    assert problem in problems(text)


def test_a_function_that_takes_long_is_accepted_when_it_is_prewarmed() -> None:
    text = one("programmingSeconds: 60").removesuffix("}}") + ", prewarm: [{function: resize}]}}"

    assert options(text).functions[0].implementations[0].programming_seconds == 60


def test_one_afu_may_be_built_for_two_interfaces() -> None:
    text = two(
        f"family: dfl, interface: {INTERFACE}, id: {RESIZE}",
        f"family: dfl, interface: {SHARPEN}, id: {RESIZE}",
        same=True,
    )

    assert len(options(text).functions[0].implementations) == 2


def test_a_function_twice_in_prewarm_is_refused() -> None:
    text = one("").removesuffix("}}") + ", prewarm: [{function: resize}, {function: resize, regions: 1}]}}"

    assert "prewarm[1].function is 'resize' again" in problems(text)


def test_every_problem_of_a_catalogue_is_told_at_once() -> None:
    found = problems(two("family: x, id: none", "family: dfl, interface: z, id: none", same=False))

    assert "functions.a.implementations[0].family" in found
    assert "functions.b.implementations[0].id" in found
    assert "functions.b.implementations[0].interface" in found
