import pytest

from objectcache.xds.endpoints import read_endpoints
from objectcache.xds.member import Member
from tasuki.process.document import ConfigError


def test_a_list_is_members() -> None:
    text = b"""
    - {node: b, zone: z1, address: "2001:DB8::1", port: 8480, weight: 3, leaving: true}
    - {node: a, address: 10.0.0.1, port: 80}
    """

    assert read_endpoints(text) == (
        Member("a", "10.0.0.1", 80),
        Member("b", "2001:db8::1", 8480, "z1", 3, leaving=True),
    )
    assert read_endpoints(b"[]") == ()


GOOD = "{node: a, address: 10.0.0.1, port: 80}"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param(None, "no such file", id="no file"),
        pytest.param("", "must be a list", id="an empty file"),
        pytest.param("- a", "mapping", id="a list of names"),
        pytest.param("- {node: a, port: 80}", "address is missing", id="no address"),
        pytest.param("- {node: a, address: cache.example, port: 80}", "looks up no names", id="a name as address"),
        pytest.param("- {node: a, address: 10.0.0.1, port: 0}", "from 1 to 65535", id="port 0"),
        pytest.param("- {node: a, address: 10.0.0.1, port: true}", "port is true", id="a port that is none"),
        pytest.param("- {node: '', address: 10.0.0.1, port: 80}", "must be a name", id="an empty name"),
        pytest.param("- {node: a, address: 10.0.0.1, port: 80, weight: 0}", "weight is 0", id="no weight"),
        pytest.param("- {node: a, address: 10.0.0.1, port: 80, leaving: soon}", "true or false", id="leaving soon"),
        pytest.param("- {node: a, address: 10.0.0.1, prot: 80}", "did you mean 'port'", id="a slip"),
        pytest.param(f"[{GOOD}, {GOOD}]", "'a' is here twice", id="a node twice"),
        pytest.param(
            f"[{GOOD}, {GOOD.replace('a,', 'b,', 1)}]", "10.0.0.1 port 80 is here twice", id="an address twice"
        ),
    ],
)
def test_what_is_wrong_is_said(text: str | None, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        read_endpoints(None if text is None else text.encode())
