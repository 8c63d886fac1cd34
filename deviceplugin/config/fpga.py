"""`tasuki.fpga`: the catalogue of functions that a node's FPGAs can be programmed with."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from deviceplugin.config import values
from deviceplugin.config.model import (
    PROGRAMMING_BUDGET_SECONDS,
    FpgaFunction,
    FpgaImplementation,
    FpgaOptions,
    FpgaPrewarm,
    FpgaProgrammer,
    PeerNames,
)
from deviceplugin.fpga import Family
from tasuki.kube.names import FPGA_DOMAIN
from tasuki.process.document import ConfigError, Node
from tasuki.process.keys import Key, Table, converted, described, each, fail, fields, items, join, mapping
from tasuki.process.sentences import alternatives, shown

# A region of today's largest designs has tens of channels; far more is a slip of the pen.
_MOST_CHANNELS: Final = 256

_LONGEST_PROGRAMMING_SECONDS: Final = 3_600.0

_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_PLACEHOLDER: Final = re.compile(r"\{[^{}]*\}")
_PLACEHOLDERS: Final = ("{image}", "{pci}")


def options(node: Node, path: str) -> FpgaOptions:
    """The catalogue, checked as a whole.

    Raises:
        ConfigError: With every problem of its parts; or, if they have none, every contradiction between them.
    """
    found = FpgaOptions(**fields(TABLE, ROOT, node, path))
    problems = [*_shared_ids(found, node, path), *_too_slow(found, node, path), *_unknown_prewarm(found, node, path)]
    if problems:
        raise ConfigError(*problems)
    return found


def _shared_ids(found: FpgaOptions, root: Node, path: str) -> Iterator[str]:
    """What is loaded in a region must tell which function it is."""
    first: dict[str, str] = {}
    for name, node, here, implementation in _implementations(found, root, path):
        owner = first.setdefault(implementation.id, name)
        if owner != name:
            yield from _problems(
                node,
                here,
                "id",
                f"is {implementation.id!r}, which is {owner!r} already; an id stands for one function",
            )


def _too_slow(found: FpgaOptions, root: Node, path: str) -> Iterator[str]:
    prewarmed = {entry.function for entry in found.prewarm}
    for name, node, here, implementation in _implementations(found, root, path):
        if implementation.programming_seconds > PROGRAMMING_BUDGET_SECONDS and name not in prewarmed:
            yield from _problems(
                node,
                here,
                "programmingSeconds",
                f"is {implementation.programming_seconds:g}, but a container that starts can be kept waiting for "
                f"{PROGRAMMING_BUDGET_SECONDS:g} at most; have it loaded beforehand: add {{function: {name}}} to "
                f"{path}.prewarm",
            )


def _unknown_prewarm(found: FpgaOptions, root: Node, path: str) -> Iterator[str]:
    known = [function.name for function in found.functions]
    listed = mapping(root, path).get("prewarm", Node(()))
    for i, (node, here) in enumerate(items(listed, f"{path}.prewarm") if found.prewarm else ()):
        name = found.prewarm[i].function
        if name not in known:
            there = f"the catalogue has {', '.join(known)}" if known else "the catalogue is empty"
            yield from _problems(
                node, here, "function", f"is {name!r}, which is no function of {path}.functions; {there}"
            )
        if name in (entry.function for entry in found.prewarm[:i]):
            yield from _problems(node, here, "function", f"is {name!r} again; give each function one entry")


def _implementations(found: FpgaOptions, root: Node, path: str) -> Iterator[tuple[str, Node, str, FpgaImplementation]]:
    """Each function's name and implementation, with the node and path of the latter."""
    if not found.functions:
        return
    functions = mapping(mapping(root, path)["functions"], path)
    for function in found.functions:
        entry = mapping(functions[function.name], path)["implementations"]
        there = f"{join(f'{path}.functions', function.name)}.implementations"
        for (node, here), implementation in zip(items(entry, there), function.implementations, strict=True):
            yield function.name, node, here, implementation


def _problems(node: Node, path: str, key: str, problem: str) -> tuple[str, ...]:
    return fail(mapping(node, path).get(key, node), f"{path}.{key}", problem).problems


def _functions(node: Node, path: str) -> tuple[FpgaFunction, ...]:
    """Every function by its name, in the order of the file."""
    names = {join(path, name): name for name in mapping(node, path)}

    def one(entry: Node, here: str) -> FpgaFunction:
        name = values.dns_label(Node(names[here], entry.line), here)
        values.check_resource_name(f"{FPGA_DOMAIN}/{name}", entry, here)
        return FpgaFunction(name=name, **fields(_FUNCTION, ROOT, entry, here))

    return converted([(entry, join(path, name)) for name, entry in mapping(node, path).items()], one)


def _listed(node: Node, path: str) -> tuple[FpgaImplementation, ...]:
    found: tuple[FpgaImplementation, ...] = each(node, path, _implementation)
    if not found:
        raise fail(node, path, "is an empty list; name at least one implementation")
    for i, (item, here) in enumerate(items(node, path)):
        mine = found[i]
        if any((mine.family, mine.interface) == (other.family, other.interface) for other in found[:i]):
            raise fail(
                item,
                f"{here}.interface",
                f"is {mine.interface!r}, for which an implementation of family {mine.family} above it is already",
            )
    return found


def _implementation(node: Node, path: str) -> FpgaImplementation:
    found = fields(_IMPLEMENTATION, ROOT, node, path)
    family: Family = found["family"]
    spelled = mapping(node, path)
    ids = {"id": (_ID, spelled["id"]), "interface": (_INTERFACE, spelled.get("interface", Node("", node.line)))}
    problems: list[str] = []
    for key, (converts, child) in ids.items():
        try:
            found[key] = converts[family](child, f"{path}.{key}")
        except ConfigError as error:
            problems.extend(error.problems)
    channels = found.get("channels", 1)
    users = found.setdefault("users", channels)
    if users > channels:
        problems.extend(
            _problems(
                node, path, "users", f"is {users}, but a region has only {channels} channels; each user needs one"
            )
        )
    if problems:
        raise ConfigError(*problems)
    return FpgaImplementation(**found)


def _word(node: Node, path: str) -> str:
    """A name that a card gives, such as a platform's (`xilinx_u250_gen3x16_base_4`)."""
    text = values.string(node, path)
    if _WORD.fullmatch(text) is None:
        raise fail(node, path, f"{described(node)}; it must be a word of letters, digits, '.', '_', ':' and '-'")
    return values.canonical_id(text)


def _word_or_nothing(node: Node, path: str) -> str:
    return _word(node, path) if node.value != "" else ""


_ID: Final = {
    Family.DFL: values.hex_id,
    Family.OPAE: values.hex_id,
    Family.XRT: values.hex_id,
    Family.FPGA_REGION: _word,
}

_INTERFACE: Final = {
    Family.DFL: values.hex_id,
    Family.OPAE: values.hex_id,
    Family.XRT: _word,
    Family.FPGA_REGION: _word_or_nothing,
}


def _command(node: Node, path: str) -> tuple[str, ...]:
    arguments: tuple[str, ...] = each(node, path, values.string)
    if not arguments or not arguments[0]:
        raise fail(node, path, "names no program; write a list such as [fpgaconf, '{image}']")
    for (item, here), argument in zip(items(node, path), arguments, strict=True):
        if "\0" in argument:
            raise fail(item, here, f"{described(item)}; a program's argument cannot hold a null character")
        unknown = [found for found in _PLACEHOLDER.findall(argument) if found not in _PLACEHOLDERS]
        if unknown:
            raise fail(item, here, f"has {unknown[0]}; what is filled in is {alternatives(_PLACEHOLDERS)}")
    if _PLACEHOLDER.search(arguments[0]):
        raise fail(node, f"{path}[0]", f"is {shown(arguments[0])}; the program itself must be named")
    if not any("{image}" in argument for argument in arguments):
        raise fail(node, path, "has no {image}; put it where the program takes the bitstream's path")
    return arguments


def _families(node: Node, path: str) -> tuple[Family, ...]:
    found: tuple[Family, ...] = each(node, path, values.choice(Family))
    if not found:
        raise fail(node, path, f"is an empty list; it must name {alternatives(Family)}")
    return tuple(dict.fromkeys(found))


def _programmer(node: Node, path: str) -> FpgaProgrammer:
    if node.value == "sysfs":
        return FpgaProgrammer()
    if not isinstance(node.value, Mapping):
        raise fail(node, path, f"{described(node)}; it must be sysfs, or a mapping with a command")
    found: dict[str, Any] = fields(_PROGRAMMER, ROOT, node, path)
    if "families" in found and "command" not in found:
        raise fail(node.value["families"], f"{path}.families", "is for a command, and there is none; add the command")
    return FpgaProgrammer(**found)


def _regions(node: Node, path: str) -> Literal["all"] | int:
    if node.value == "all":
        return "all"
    if isinstance(node.value, str):
        raise fail(node, path, f"{described(node)}; it must be all or a number of regions")
    return values.count(values.MOST_REPLICAS)(node, path)


def _prewarm(node: Node, path: str) -> tuple[FpgaPrewarm, ...]:
    return each(node, path, lambda item, here: FpgaPrewarm(**fields(_PREWARM, ROOT, item, here)))


def _seconds(node: Node, path: str) -> float:
    return values.number(0.001, _LONGEST_PROGRAMMING_SECONDS)(node, path)


_IMPLEMENTATION: Final = Table(
    {
        "family": Key("family", values.choice(Family), nullable=False),
        # Read again once the family is known, which says what they may be.
        "interface": Key("interface", values.string, nullable=False),
        "id": Key("id", values.string, nullable=False),
        "bitstream": Key("bitstream", values.file_name, nullable=False),
        "channels": Key("channels", values.count(_MOST_CHANNELS), nullable=False),
        "users": Key("users", values.count(_MOST_CHANNELS), nullable=False),
        "programmingSeconds": Key("programming_seconds", _seconds, nullable=False),
    },
    required=("family", "id", "bitstream", "programmingSeconds"),
)

_FUNCTION: Final = Table(
    {"implementations": Key("implementations", _listed, nullable=False, table=_IMPLEMENTATION)},
    required=("implementations",),
)

_PROGRAMMER: Final = Table(
    {
        "command": Key("command", _command, nullable=False),
        "families": Key("families", _families, nullable=False),
        "firmwareFolder": Key("firmware_folder", values.absolute_path, nullable=False),
    }
)

_PREWARM: Final = Table(
    {
        "function": Key("function", values.string, nullable=False),
        "regions": Key("regions", _regions, nullable=False),
    },
    required=("function",),
)

TABLE: Final = Table(
    {
        "functions": Key("functions", _functions, table=Table({"*": Key("", _functions, table=_FUNCTION)})),
        "peerNames": Key("peer_names", values.choice(PeerNames)),
        "programmer": Key("programmer", _programmer, table=_PROGRAMMER),
        "prewarm": Key("prewarm", _prewarm, table=_PREWARM),
    }
)

# For the full paths of misplaced keys.
ROOT: Final = Table({"tasuki": Key("tasuki", options, table=Table({"fpga": Key("fpga", options, table=TABLE)}))})
