"""Settings from a command line and an environment."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasuki.process.options import (
    Option,
    OptionError,
    address,
    arguments,
    check_variables,
    fields,
    one_of,
    path,
    words,
)

OPTIONS = (
    Option("policy", "policy", "TASUKI_POLICY", path, "what is done, 100% of it (/policy)"),
    Option("drain_seconds", "drain-seconds", "TASUKI_DRAIN_SECONDS", int, "how long (5)"),
    Option("folder", "folder", "TASUKI_FOLDER", path, "where; empty: nowhere (/here)", empty=(None,)),
    Option("kinds", "kinds", "TASUKI_KINDS", words, "which (gpu)", is_list=True),
    Option("hooks", "hooks", "TASUKI_HOOKS", words, "which; empty: none (all)", empty=((),), is_list=True),
)


def given_on(*argv: str) -> Mapping[str, str]:
    parser = argparse.ArgumentParser(prog="tasuki", allow_abbrev=False)
    group = parser.add_argument_group("settings")
    for option in OPTIONS:
        option.add_to(group)
    return arguments(parser, argv)


def ended(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[object, str]:
    """The status with which the process ends, and what it has said on one line."""
    with pytest.raises(SystemExit) as end:
        given_on(*argv)

    said = capsys.readouterr()
    return end.value.code, " ".join((said.out + said.err).split())


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        pytest.param([], {}, id="nothing"),
        pytest.param(["--policy", "a"], {"policy": "a"}, id="a value apart"),
        pytest.param(["--policy=a"], {"policy": "a"}, id="a value after an equals sign"),
        pytest.param(["--drain-seconds=5"], {"drain-seconds": "5"}, id="a name of several words"),
        pytest.param(["--policy="], {"policy": ""}, id="an empty value"),
        pytest.param(["--policy=a=b"], {"policy": "a=b"}, id="an equals sign in a value"),
        pytest.param(["--policy=a", "--policy=b"], {"policy": "b"}, id="the last of several"),
        pytest.param(["--kinds=a", "--kinds", "b,c"], {"kinds": "a,b,c"}, id="a list that is repeated"),
    ],
)
def test_flags_are_read_by_name(argv: Sequence[str], expected: Mapping[str, str]) -> None:
    assert given_on(*argv) == expected


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        pytest.param(["--polcy", "a"], "unknown argument --polcy; did you mean --policy?", id="a slip"),
        pytest.param(["--polcy=a"], "unknown argument --polcy=a; did you mean --policy?", id="a slip with a value"),
        pytest.param(["-policy", "a"], "unknown argument -policy; did you mean --policy?", id="one dash"),
        pytest.param(["--pol", "a"], "unknown argument --pol; did you mean --policy?", id="an abbreviation"),
        pytest.param(["--zzz"], "unknown argument --zzz", id="nothing like it"),
        pytest.param(["serve"], "unknown argument serve", id="a word"),
        pytest.param([""], "unknown argument ''", id="an empty word"),
        pytest.param(["--"], "unknown argument --", id="two dashes"),
        pytest.param(["--policy"], "argument --policy: expected one argument", id="no value"),
    ],
)
def test_what_is_no_flag_ends_the_process(argv: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, said = ended(capsys, *argv)

    assert status == 2
    assert told in said
    assert ("did you mean" in said) == ("did you mean" in told)


def test_help_names_each_flag_with_its_variable(capsys: pytest.CaptureFixture[str]) -> None:
    status, said = ended(capsys, "--help")

    assert status == 0
    assert "--policy VALUE what is done, 100% of it (/policy) [TASUKI_POLICY]" in said
    assert all(f"--{option.name} VALUE" in said and f"[{option.variable}]" in said for option in OPTIONS)


@pytest.mark.parametrize(
    ("flags", "variables", "expected"),
    [
        pytest.param({}, {}, {}, id="nothing leaves the defaults"),
        pytest.param({"policy": "a"}, {}, {"policy": Path("a")}, id="a flag"),
        pytest.param({}, {"TASUKI_POLICY": "b"}, {"policy": Path("b")}, id="a variable"),
        pytest.param({"policy": "a"}, {"TASUKI_POLICY": "b"}, {"policy": Path("a")}, id="a flag before its variable"),
        pytest.param({"drain-seconds": "1"}, {"TASUKI_DRAIN_SECONDS": "x"}, {"drain_seconds": 1},
                     id="a bad variable behind a flag"),
        pytest.param({"policy": ""}, {}, {}, id="an empty flag means the default"),
        pytest.param({}, {"TASUKI_POLICY": ""}, {}, id="an empty variable means the default"),
        pytest.param({"policy": ""}, {"TASUKI_POLICY": "b"}, {}, id="an empty flag before its variable"),
        pytest.param({}, {"TASUKI_FOLDER": ""}, {"folder": None}, id="an empty variable that means something"),
        pytest.param({"folder": ""}, {"TASUKI_FOLDER": "b"}, {"folder": None}, id="an empty flag that means something"),
        pytest.param({}, {"TASUKI_KINDS": " a , b,"}, {"kinds": ("a", "b")}, id="a list"),
        pytest.param({"kinds": ","}, {}, {}, id="a list without a word means the default"),
        pytest.param({}, {"TASUKI_KINDS": " , "}, {}, id="a variable of blanks and commas means the default"),
        pytest.param({"hooks": ","}, {}, {"hooks": ()}, id="a list without a word that means something"),
        pytest.param({}, {"TASUKI_OTHER": "a"}, {}, id="variables of others"),
    ],
)  # fmt: skip
def test_a_setting_is_what_its_flag_or_else_its_variable_says(
    flags: Mapping[str, str], variables: Mapping[str, str], expected: Mapping[str, Any]
) -> None:
    assert fields(OPTIONS, flags, variables) == expected


@pytest.mark.parametrize(
    ("flags", "variables", "named"),
    [
        pytest.param({"kind": "tpu"}, {"TASUKI_KIND": "gpu"}, "--kind", id="a flag"),
        pytest.param({}, {"TASUKI_KIND": "tpu"}, "TASUKI_KIND", id="a variable"),
    ],
)
def test_a_bad_setting_is_named_as_it_was_given(
    flags: Mapping[str, str], variables: Mapping[str, str], named: str
) -> None:
    kind = Option("kind", "kind", "TASUKI_KIND", one_of(["gpu", "fpga"]), "which (gpu)")

    with pytest.raises(OptionError) as error:
        fields([kind], flags, variables)

    assert str(error.value) == f"{named} is 'tpu'; it must be gpu or fpga"


LINKS = {
    "TASUKI_SERVICE_HOST": "10.0.0.1",
    "TASUKI_SERVICE_PORT": "443",
    "TASUKI_SERVICE_PORT_HTTPS": "443",
    "TASUKI_PORT": "tcp://10.0.0.1:443",
    "TASUKI_PORT_443_TCP": "tcp://10.0.0.1:443",
    "TASUKI_WEBHOOKS_SERVICE_HOST": "10.0.0.1",
    "TASUKI_WEBHOOKS_PORT": "udp://10.0.0.1:443",
    "TASUKI_WEBHOOKS_PORT_443_UDP_ADDR": "10.0.0.1",
}


@pytest.mark.parametrize(
    "environ",
    [
        pytest.param({"TASUKI_POLICY": "a"}, id="a known one"),
        pytest.param({"TASUKI_POD_NAME": "a"}, id="one that is passed over"),
        pytest.param({"PATH": "/bin", "tasuki": "x", "TASUKI": "x", "MY_TASUKI_POLICY": "x"}, id="those of others"),
        pytest.param(LINKS, id="links to Services of ours"),
    ],
)
def test_a_variable_that_is_no_slip_is_let_be(environ: Mapping[str, str]) -> None:
    check_variables(environ, ["TASUKI_POLICY"], lambda name: name == "TASUKI_POD_NAME")


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        pytest.param({"TASUKI_POLCY": "a"}, "TASUKI_POLCY is not a known environment variable; the nearest is "
                     "TASUKI_POLICY", id="a slip"),
        pytest.param({"TASUKI_POLCY": ""}, "TASUKI_POLCY", id="an empty one"),
        pytest.param({"TASUKI_LISTEN_PORT": "9443"}, "the nearest is TASUKI_LISTEN", id="a port that is no link"),
        pytest.param({"TASUKI_B": "", "TASUKI_A": ""}, "TASUKI_A is", id="the first by name of several"),
    ],
)  # fmt: skip
def test_a_variable_that_looks_like_ours_is_refused(environ: Mapping[str, str], told: str) -> None:
    with pytest.raises(OptionError, match=told):
        check_variables(environ, ["TASUKI_POLICY", "TASUKI_LISTEN"], lambda _: False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("a", ("a",), id="one"),
        pytest.param("a,b", ("a", "b"), id="two"),
        pytest.param(" a\t,, b ", ("a", "b"), id="blanks and empty parts"),
        pytest.param("b,a,b", ("b", "a", "b"), id="as they stand"),
        pytest.param(" , ", (), id="none"),
    ],
)
def test_words_are_separated_by_commas(text: str, expected: tuple[str, ...]) -> None:
    assert words(text) == expected


LISTEN = address("9443", ", or empty for none")


@pytest.mark.parametrize(
    ("read", "text", "expected"),
    [
        pytest.param(one_of(["auto", "off"]), "off", "off", id="a word"),
        pytest.param(one_of(["auto", "off"]), "AUTO", "auto", id="a word in another case"),
        pytest.param(path, "/a/b", Path("/a/b"), id="a path"),
        pytest.param(path, "a", Path("a"), id="a path from here"),
        pytest.param(LISTEN, "127.0.0.1:1", ("127.0.0.1", 1), id="IPv4"),
        pytest.param(LISTEN, "[::1]:9443", ("::1", 9443), id="IPv6"),
        pytest.param(LISTEN, ":9443", ("0.0.0.0", 9443), id="every address"),
        pytest.param(LISTEN, "localhost:0", ("localhost", 0), id="a name, and a port of the system's choice"),
        pytest.param(LISTEN, "node.example.com.:65535", ("node.example.com.", 65535), id="a name from the root on"),
        pytest.param(LISTEN, "bücher.example:1", ("bücher.example", 1), id="a name in another script"),
    ],
)
def test_texts_are_read(read: Callable[[str], object], text: str, expected: object) -> None:
    assert read(text) == expected


@pytest.mark.parametrize(
    ("read", "text", "must_be"),
    [
        pytest.param(one_of(["auto", "off"]), "on", "auto or off", id="another word"),
        pytest.param(one_of(["auto", "off"]), " off", "auto or off", id="a blank before a word"),
        pytest.param(path, "a\0b", "a path", id="a null character in a path"),
        *(
            pytest.param(LISTEN, text, "host:port, such as 0.0.0.0:9443 or [::]:9443, or empty for none", id=what)
            for what, text in {
                "no port": "localhost",
                "only a port": "9443",
                "an empty port": "localhost:",
                "a port out of range": "localhost:65536",
                "a port with a sign": "localhost:+1",
                "a port in other digits": "localhost:٣",
                "IPv6 without brackets": "::1:9443",
                "a name in brackets": "[localhost]:9443",
                "empty brackets": "[]:9443",
                "a URL": "http://localhost:9443",
                "a name with an empty part": "ü..x:9443",
                "a name with a part that is too long": "x" * 64 + ":9443",
            }.items()
        ),
    ],
)
def test_texts_that_cannot_be_meant_are_refused(read: Callable[[str], object], text: str, must_be: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the sentence is compared as a whole
        read(text)

    assert str(error.value) == must_be


@given(st.text())
def test_any_text_is_an_address_or_refused_with_a_sentence(text: str) -> None:
    try:
        host, port = LISTEN(text)
    except ValueError as error:
        assert "host:port" in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert host
        assert 0 <= port <= 65535
