"""A chain survives the Secret; anything else in there is told from one, without a word of what it was."""

from collections.abc import Callable
from traceback import format_exception

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from tests.webhooks.certificates.tls import a_chain
from webhooks.certificates.chain import BrokenChainError, Chain, chain_of, secret_contents
from webhooks.certificates.issuing import Step, Times
from webhooks.certificates.minting import Mint, carried_out

Contents = dict[str, bytes]


def in_secret(chain: Chain) -> Contents:
    return {name: value for name, value in secret_contents(chain).items() if value is not None}


def an_rsa_key() -> bytes:
    key = rsa.generate_private_key(65537, 2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def an_encrypted_key() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word"))


@pytest.mark.parametrize("steps", [(), ("prepare",), ("prepare", "promote")], ids=["fresh", "prepared", "promoted"])
def test_a_chain_survives_the_secret(steps: tuple[str, ...]) -> None:
    chain = a_chain()
    for action in steps:
        mint = Mint(("a",), Times(), chain.server.certificate.not_valid_after_utc)
        chain = carried_out(Step(action, "", chain), mint)  # type: ignore[arg-type]

    found = chain_of(in_secret(chain))

    assert found is not None
    assert in_secret(found) == in_secret(chain)
    assert found.trusted == chain.trusted
    assert found.server.certificate == chain.server.certificate


@pytest.mark.parametrize(
    "contents",
    [{}, {"tls.crt": b"", "tls.key": b""}, {"unrelated": b"x"}],
    ids=["nothing", "the empty keys of a kubernetes.io/tls Secret", "something unrelated"],
)
def test_a_secret_that_nobody_has_filled_is_empty(contents: Contents) -> None:
    assert chain_of(contents) is None


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        pytest.param(lambda c: c | {"tls.crt": b"nonsense"}, "tls.crt holds no PEM certificate", id="certificate"),
        pytest.param(lambda c: c | {"tls.crt": c["tls.crt"][:300]}, "tls.crt holds no PEM", id="cut certificate"),
        pytest.param(lambda c: c | {"tls.key": b"\xff\x00"}, "tls.key holds no unencrypted", id="bytes for a key"),
        pytest.param(lambda c: c | {"tls.key": an_encrypted_key()}, "tls.key holds no unencrypted", id="encrypted"),
        pytest.param(lambda c: c | {"tls.key": an_rsa_key()}, "tls.key is no elliptic curve key", id="RSA key"),
        pytest.param(lambda c: c | {"tls.key": c["ca.key"]}, "tls.key is not the key of tls.crt", id="wrong key"),
        pytest.param(lambda c: c | {"ca.key": c["tls.key"]}, "ca.key is the key of none", id="wrong authority key"),
        pytest.param(lambda c: {k: v for k, v in c.items() if k != "ca.crt"}, "ca.crt holds no PEM", id="no bundle"),
        pytest.param(lambda c: c | {"ca-next.key": b"x"}, "ca-next.key holds no unencrypted", id="next key"),
    ],
)
def test_a_broken_secret_is_told_without_its_contents(broken: Callable[[Contents], Contents], reason: str) -> None:
    contents = broken(in_secret(a_chain()))

    with pytest.raises(BrokenChainError, match=reason) as refused:
        chain_of(contents)

    told = "".join(format_exception(refused.value))
    assert not any(line in told for value in contents.values() for line in secret_lines(value))


def secret_lines(value: bytes) -> list[str]:
    return [line for line in value.decode("latin1").split("\n") if len(line) > 20 and not line.startswith("---")]


def test_a_key_is_not_shown_by_a_representation() -> None:
    chain = a_chain()

    assert not any(line in repr(chain) for line in secret_lines(chain.server.key_pem))
