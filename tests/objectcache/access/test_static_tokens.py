"""Tokens from a file, over real files."""

import logging
from hashlib import sha256
from pathlib import Path

import pytest

from objectcache.access.reviewing import MOST_TOKEN_BYTES
from objectcache.access.static_tokens import StaticTokens, read_tokens
from objectcache.link import Identity
from tasuki.process.document import ConfigError
from tests.objectcache.access.cluster import QUICK, Told, running

EXAMPLE = Path(__file__).parents[3] / "examples" / "objectcache" / "tokens.yaml"
SECRET = "s3cret-token-value"
HASH = sha256(SECRET.encode()).hexdigest()
TRAINER = Identity("vision", "trainer")


def entry(token: str = SECRET, namespace: str = "vision") -> str:
    return f"- {{token: {token}, namespace: {namespace}, serviceAccount: trainer}}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "tokens.yaml"
    made.write_text(entry())
    made.chmod(0o640)
    return made


def replace(file: Path, content: str) -> None:
    new = file.with_name("new")
    new.write_text(content)
    new.chmod(0o640)
    new.replace(file)


async def test_a_token_of_the_file_names_its_identity(file: Path) -> None:
    told = Told()
    tokens = StaticTokens(file, told, QUICK)

    async with running(tokens.run()):
        await told.until(bool)
        known, unknown, malformed = [await tokens.review(each) for each in (SECRET, "other", "")]

    assert (known.identity, known.status, known.lasts_seconds) == (TRAINER, 200, 10.0)
    assert (unknown.identity, unknown.status) == (None, 401)
    assert (malformed.identity, malformed.status) == (None, 401)
    assert told.all == [""]


async def test_before_the_file_is_read_nobody_can_say(file: Path) -> None:
    verdict = await StaticTokens(file, print, QUICK).review(SECRET)

    assert (verdict.identity, verdict.status, verdict.lasts_seconds) == (None, 503, 0.0)


async def test_a_rotated_token_takes_the_place_of_the_one_before(file: Path) -> None:
    told = Told()
    tokens = StaticTokens(file, told, QUICK)

    async with running(tokens.run()):
        await told.until(bool)
        replace(file, entry("another"))
        await told.until(lambda all_: len(all_) == 2)
        old, new = await tokens.review(SECRET), await tokens.review("another")

    assert (old.status, new.identity) == (401, TRAINER)


async def test_a_bad_file_leaves_the_tokens_before_in_force(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    told = Told()
    tokens = StaticTokens(file, told, QUICK)

    async with running(tokens.run()):
        await told.until(bool)
        replace(file, f"{SECRET}: vision\n")
        await told.until(lambda all_: len(all_) == 2)
        kept = await tokens.review(SECRET)

    assert kept.identity == TRAINER
    assert "line 1: the file has a key that is none of tokens" in told.all[1]
    assert told.all[1].endswith("; what was in force stays in force")
    assert SECRET not in f"{told.all}{caplog.text}"


async def test_an_absent_file_is_told_of(tmp_path: Path) -> None:
    told = Told()

    async with running(StaticTokens(tmp_path / "absent", told, QUICK).run()):
        await told.until(bool)

    assert "there is no such file; mount the tokens' Secret there" in told.all[0]


async def test_a_file_that_others_may_use_counts_and_is_told_of(file: Path) -> None:
    file.chmod(0o644)
    told = Told()
    tokens = StaticTokens(file, told, QUICK)

    async with running(tokens.run()):
        await told.until(bool)
        verdict = await tokens.review(SECRET)

    assert verdict.identity == TRAINER
    assert "others than its owner and group may use it; take that away (chmod o-rwx" in told.all[0]


def test_a_token_can_be_given_by_its_hash() -> None:
    content = f"tokens: [{{tokenSHA256: '{HASH.upper()}', namespace: vision, serviceAccount: trainer}}]"

    assert read_tokens(content.encode()) == read_tokens(entry().encode()) == {bytes.fromhex(HASH): TRAINER}


@pytest.mark.parametrize("content", ["", "[]", "tokens:", "tokens: []"])
def test_an_empty_file_has_no_tokens(content: str) -> None:
    assert read_tokens(content.encode()) == {}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        pytest.param(f"- {SECRET}", "tokens[0] is no mapping", id="a list of tokens"),
        pytest.param(f"- {SECRET}: vision", "has a key that is none of token, tokenSHA256", id="a token as key"),
        pytest.param(f"{SECRET}: vision", "has a key that is none of tokens", id="a token as the file's key"),
        pytest.param(f"tokens: {{{SECRET}: a}}", "tokens is no list", id="a mapping of tokens"),
        pytest.param(SECRET, "the file is no mapping", id="only a token"),
        pytest.param(f"- {{tokens: {SECRET}}}", "tokens is not a known key; it belongs at tokens", id="typo"),
        pytest.param(f"- {{token: {SECRET}, namespace: a}}", "serviceAccount is missing", id="no service account"),
        pytest.param("- {namespace: a, serviceAccount: b}", "has 0 of token and tokenSHA256", id="no token"),
        pytest.param(
            f"- {{token: {SECRET}, tokenSHA256: '{HASH}', namespace: a, serviceAccount: b}}",
            "has 2 of token and tokenSHA256",
            id="token and hash",
        ),
        pytest.param(
            "- {token: 123456, namespace: a, serviceAccount: b}", "is no string; put it in quotes", id="digits"
        ),
        pytest.param(
            f"- {{token: '{SECRET} x', namespace: a, serviceAccount: b}}",
            "cannot be used: the token has ch",
            id="space",
        ),
        pytest.param(
            f"- {{token: {'a' * (MOST_TOKEN_BYTES + 1)}, namespace: a, serviceAccount: b}}",
            "has 16385 bytes",
            id="long",
        ),
        pytest.param(
            f"- {{tokenSHA256: {SECRET}, namespace: a, serviceAccount: b}}", "is no SHA-256", id="token as hash"
        ),
        pytest.param(f"- {{token: a, namespace: {SECRET}_, serviceAccount: b}}", "is no name", id="namespace"),
        pytest.param("- {token: a, namespace: a.b, serviceAccount: b}", "is no namespace's name", id="a dot"),
        pytest.param(
            entry() + entry(namespace="other"), "line 2: tokens[1] has the same token as tokens[0]", id="twice"
        ),
        pytest.param(f"- *{SECRET}", "is neither YAML nor JSON", id="an alias"),
        pytest.param(f"{SECRET}: a\n{SECRET}: b", "line 2: the file is neither YAML nor JSON", id="a key twice"),
        pytest.param(f"- !{SECRET} a", "line 1: the file is neither YAML nor JSON", id="a tag"),
        pytest.param(f"[{SECRET}", "is neither YAML nor JSON", id="no YAML"),
    ],
)
def test_what_is_wrong_is_told_without_what_may_be_a_token(content: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_tokens(content.encode())

    assert told in str(caught.value)
    assert SECRET not in str(caught.value)


async def test_tokens_are_neither_logged_nor_shown(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    told = Told()
    tokens = StaticTokens(file, told, QUICK)

    async with running(tokens.run()):
        await told.until(bool)
        verdicts = [await tokens.review(each) for each in (SECRET, f"{SECRET}x")]

    assert SECRET not in f"{caplog.text}{verdicts}{tokens.__dict__}"


def test_the_example_is_read() -> None:
    assert len(read_tokens(EXAMPLE.read_bytes())) == 2
