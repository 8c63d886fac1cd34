"""`tasuki.vaccel` in the configuration file."""

import pytest

from deviceplugin.config.model import VaccelAgent, VaccelOptions, VaccelTransport
from deviceplugin.config.precedence import Overrides, load
from tasuki.process.document import ConfigError


def options(text: str) -> VaccelOptions:
    return load(text.encode(), Overrides()).tasuki.vaccel


def agents(*texts: str) -> str:
    return f"tasuki: {{vaccel: {{agents: [{', '.join(f'{{{text}}}' for text in texts)}]}}}}"


def test_every_key_arrives() -> None:
    found = options(
        agents(
            "name: local, address: 'unix:///run/vaccel/vaccel.sock', sessions: 16, plugins: [noop, exec],"
            " version: v0.5.0"
        )
    )

    assert found.agents == (
        VaccelAgent(
            name="local",
            address="unix:///run/vaccel/vaccel.sock",
            sessions=16,
            plugins=("noop", "exec"),
            version="v0.5.0",
        ),
    )


@pytest.mark.parametrize(
    ("address", "transport", "host", "port"),
    [
        pytest.param("tcp://10.0.0.1:65500", VaccelTransport.TCP, "10.0.0.1", 65500, id="TCP"),
        pytest.param("tcp://[::1]:1", VaccelTransport.TCP, "::1", 1, id="TCP over IPv6"),
        pytest.param("tcp://vaccel-agent:8888", VaccelTransport.TCP, "vaccel-agent", 8888, id="TCP by name"),
        pytest.param("vsock://2:2048", VaccelTransport.VSOCK, "2", 2048, id="vsock"),
    ],
)
def test_addresses(address: str, transport: VaccelTransport, host: str, port: int) -> None:
    (agent,) = options(agents(f"name: a, address: '{address}', sessions: 1")).agents

    assert (agent.transport, agent.host, agent.port) == (transport, host, port)


def test_a_socket_is_a_path() -> None:
    (agent,) = options(agents("name: a, address: 'unix:///run/v/v.sock', sessions: 1")).agents

    assert (agent.transport, agent.socket) == (VaccelTransport.UNIX, "/run/v/v.sock")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("address: 'tcp://a:1', sessions: 1", "agents[0].name is missing", id="no name"),
        pytest.param("name: A, address: 'tcp://a:1', sessions: 1", "name is 'A'; it must be at most 63", id="capitals"),
        pytest.param("name: a, sessions: 1", "agents[0].address is missing", id="no address"),
        pytest.param(
            "name: a, address: /run/a.sock, sessions: 1", "must be such as unix:///run/vaccel", id="a bare path"
        ),
        pytest.param("name: a, address: 'http://a:1', sessions: 1", "must be such as unix:///", id="another scheme"),
        pytest.param("name: a, address: 'unix://run/a.sock', sessions: 1", "three slashes", id="a relative path"),
        pytest.param(
            "name: a, address: 'unix:///a.sock', sessions: 1", "a folder of its own", id="a socket in the root"
        ),
        pytest.param(
            "name: a, address: 'unix:///run/../a.sock', sessions: 1", "without '.', '..'", id="a path upwards"
        ),
        pytest.param(f"name: a, address: 'unix:///run/{'a' * 103}', sessions: 1", "has 108 bytes", id="a long path"),
        pytest.param("name: a, address: 'tcp://a', sessions: 1", "must come host:port", id="no port"),
        pytest.param("name: a, address: 'tcp://a:65536', sessions: 1", "must come host:port", id="a port too large"),
        pytest.param("name: a, address: 'tcp://::1:80', sessions: 1", "in brackets", id="bare IPv6"),
        pytest.param(
            "name: a, address: 'vsock://host:1', sessions: 1", "the context id and the port", id="vsock by name"
        ),
        pytest.param("name: a, address: 'vsock://2:0', sessions: 1", "the context id and the port", id="vsock port 0"),
        pytest.param("name: a, address: 'tcp://a:1'", "agents[0].sessions is missing", id="no sessions"),
        pytest.param("name: a, address: 'tcp://a:1', sessions: 0", "sessions is 0; it must be from 1", id="0 sessions"),
        pytest.param(
            "name: a, address: 'tcp://a:1', sessions: 1, plugins: noop",
            "plugins is 'noop'; it must be a list",
            id="one plugin",
        ),
        pytest.param("name: a, address: 'tcp://a:1', sessions: 1, plugins: [a/b]", "plugins[0] is 'a/b'", id="plugin"),
        pytest.param("name: a, address: 'tcp://a:1', sessions: 1, version: a b", "version is 'a b'", id="version"),
        pytest.param("name: a, address: 'tcp://a:1', session: 1", "did you mean 'sessions'?", id="a slip"),
    ],
)
def test_refuses(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        options(agents(text))

    assert problem in "\n".join(error.value.problems)


@pytest.mark.parametrize(
    ("second", "problem"),
    [
        pytest.param("name: a, address: 'tcp://b:1', sessions: 1", "name is 'a', as an agent above it", id="a name"),
        pytest.param(
            "name: b, address: 'tcp://a:1', sessions: 1", "which is 'a' already; raise its `sessions`", id="an address"
        ),
    ],
)
def test_no_two_agents_share(second: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        options(agents("name: a, address: 'tcp://a:1', sessions: 1", second))
