"""`tasuki cache warm`, over real sockets."""

import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectcache.client.errors import RefusedError, UnreachableError
from objectcache.client.filesystem import CachedFileSystem
from objectcache.client.warm import main
from objectcache.client.warming import Owners, Shard, Tally, node_names, own_files, progress, shard, summary
from tasuki.routing.maglev import Maglev
from tests.objectcache.caches import TOKEN, RunningCache
from tests.objectcache.client.odd_server import Said, odd_server
from tests.objectcache.client.origins import ListedFileSystem


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "data"
    (found / "below").mkdir(parents=True)
    for number in range(6):
        (found / ("below" if number % 2 else ".") / f"{number}.bin").write_bytes(b"%d" % number * 100)
    (found / "empty").touch()
    return found


@pytest.fixture
def flags(cache: RunningCache, tmp_path: Path) -> list[str]:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    return ["--cache", cache.url, "--bucket", "bk", "--token-path", str(token)]


def puts(cache: RunningCache) -> int:
    return sum((method, status) == ("PUT", 201) for method, _, status in cache.log)


def test_what_was_warmed_is_a_hit(
    cache: RunningCache, folder: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    status = main([str(folder), *flags, "--parallel", "3"])

    fs = CachedFileSystem("file", cache_url=cache.url, bucket="bk", token_path=flags[-1], skip_instance_cache=True)
    assert fs.cat(fs.find(folder)) == {str(path): path.read_bytes() for path in folder.rglob("*.*")} | {
        f"{folder}/empty": b""
    }
    assert (status, fs.counts.misses, fs.counts.hits, puts(cache)) == (0, 0, 7, 7)
    said = capsys.readouterr().err
    assert "7 objects of 7 files, 600 B" in said
    assert "7 objects (600 B) put, 0 (0 B) were there" in said
    assert TOKEN not in said


def test_started_again_it_brings_what_is_missing(cache: RunningCache, folder: Path, flags: list[str]) -> None:
    main([str(folder), *flags])
    (folder / "new").write_bytes(b"1")
    os.utime(folder / "0.bin", ns=(1, 1))
    before = puts(cache)

    assert main([f"file://{folder}", *flags]) == 0

    assert puts(cache) - before == 2


def test_what_changed_behind_a_listing_is_not_put_as_what_it_was(
    cache: RunningCache, flags: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = ListedFileSystem()
    monkeypatch.setattr("fsspec.url_to_fs", lambda url, **_: (origin, url))
    origin.write("/d/a", b"old")
    origin.info("/d/a")
    origin.write("/d/a", b"new")

    assert main(["/d", *flags]) == 1

    assert "it changed while it was read" in capsys.readouterr().err
    assert puts(cache) == 0


def test_a_file_that_cannot_be_looked_at_fails_alone(
    cache: RunningCache, flags: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = ListedFileSystem()
    monkeypatch.setattr("fsspec.url_to_fs", lambda url, **_: (origin, url))
    for name in ("a", "b", "c"):
        origin.write(f"/e/{name}", b"abc")
    answers = origin.info

    def info(path: str) -> dict[str, Any]:
        if path == "/e/b":
            raise PermissionError(f"{path} is another's")
        if path == "/e/c":
            raise FileNotFoundError(path)
        return answers(path)

    monkeypatch.setattr(origin, "find", lambda path: ["/e/a", "/e/b", "/e/c"])
    monkeypatch.setattr(origin, "info", info)

    assert main(["/e", *flags]) == 1

    said = capsys.readouterr().err
    assert "/e/b is another's" in said
    assert "1 objects (3 B) put, 0 (0 B) were there, 1 failed; 0 s" in said
    assert puts(cache) == 1


def test_progress_is_said_while_nothing_ends(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("objectcache.client.warm._LINE_SECONDS", 0.0)
    monkeypatch.setattr("objectcache.client.warm._TERMINAL_SECONDS", 0.01)

    with odd_server([Said(b"", hangs=True)]) as server:

        class Screen(io.StringIO):
            def write(self, text: str) -> int:
                if "0/7 objects" in text:
                    server.released.set()
                return super().write(text)

        monkeypatch.setattr(sys, "stderr", Screen())
        main([str(folder), "--cache", server.url, "--bucket", "bk", "--token-path", "", "--parallel", "1"])

        assert server.released.is_set()


def test_a_dry_run_puts_nothing(
    cache: RunningCache, folder: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder), *flags, "--dry-run"]) == 0

    assert {method for method, _, _ in cache.log} == {"HEAD"}
    assert "7 objects (600 B) would be put" in capsys.readouterr().err


def test_shards_share_the_work(cache: RunningCache, folder: Path, flags: list[str]) -> None:
    statuses = [main([str(folder), *flags, "--shard", f"{index}/3"]) for index in range(3)]

    assert statuses == [0, 0, 0]
    assert puts(cache) == 7
    assert len({target for method, target, _ in cache.log if method == "PUT"}) == 7


def test_large_files_are_brought_in_blocks_or_not_at_all(
    cache: RunningCache, folder: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "large").write_bytes(bytes(150_000))

    assert main([str(folder / "large"), *flags, "--max-object", "64Ki", "--block-size", "64Ki"]) == 0
    assert puts(cache) == 3
    assert main([str(folder / "large"), *flags, "--max-object", "64Ki", "--version", "none"]) == 0
    assert "1 files are not kept" in capsys.readouterr().err


@pytest.mark.parametrize(("bucket", "status"), [("other", "403"), ("bk", "401")])
def test_a_refusal_ends_it_at_once(
    cache: RunningCache, folder: Path, bucket: str, status: str, capsys: pytest.CaptureFixture[str]
) -> None:
    token = folder.with_name("token")
    token.write_text("wrong" if status == "401" else TOKEN)

    found = main([str(folder), "--cache", cache.url, "--bucket", bucket, "--token-path", str(token), "--parallel", "1"])

    said = capsys.readouterr().err
    assert found == 1
    assert f"given up: the cache answers {status}" in said
    assert "not tried" in said


def test_a_cache_that_is_down_is_given_up(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(20):
        (folder / f"more{number}").write_bytes(b"1")

    assert main([str(folder), "--cache", "http://127.0.0.1:1", "--bucket", "bk", "--token-path", ""]) == 1

    assert "10 objects failed in a row" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--shard", "4/4"], "i from 0 to n - 1"),
        (["--parallel", "0"], "1 to 256"),
        (["--max-object", "many"], "such as 64Mi"),
        (["--option", "anon"], "name=value"),
        (["--nodes", "a,b,a"], "'a' is there twice"),
        (["--nodes", " , "], "names of nodes with commas"),
        (["--nodes", "a b", "--owner", "c"], "'c': it must be one of --nodes (a, b)"),
        (["--owner", "c"], "one of --nodes (none)"),
    ],
)
def test_bad_arguments(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["/data", *arguments])

    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("url", ["nosuch://a/b", "/data", "zip://*::file:///none.zip"])
def test_what_cannot_be_begun(url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TASUKI_CACHE_URL", raising=False)

    assert main([url, "--bucket", "bk"]) == 2

    assert "tasuki cache warm: " in capsys.readouterr().err


def test_no_file_is_a_mistake(flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nothing"), *flags]) == 1

    assert "is it spelled right?" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_what_is_under_way_end(folder: Path, number: signal.Signals) -> None:
    with odd_server([Said(b"", hangs=True)]) as server:
        command = [sys.executable, "-m", "objectcache.client.warm", str(folder), "--cache", server.url]
        options = ["--bucket", "bk", "--parallel", "1"]
        with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            while not server.requests:
                assert process.poll() is None
            process.send_signal(number)
            said = ""
            while "stopping" not in said:
                said += process.stderr.readline()
            server.released.set()
            said += process.stderr.read()

    assert process.returncode == 128 + number
    assert "stopping after what is under way" in said
    assert "6 not tried" in said


@given(st.sets(st.text(min_size=1), max_size=30), st.integers(1, 7))
def test_every_file_is_exactly_one_shards(names: set[str], count: int) -> None:
    found = [
        path for index in range(count) for path in own_files(((each, each) for each in names), Shard(index, count))
    ]

    assert sorted(found) == sorted(names)


@given(st.sets(st.text("abc/", min_size=1), max_size=40), st.integers(1, 5))
def test_every_object_is_exactly_one_owners_and_owners_take_turns(names: set[str], count: int) -> None:
    nodes = tuple(f"node-{number}" for number in range(count))
    table = Maglev(nodes)
    work = sorted(names)

    together = Owners(nodes).part(work, key=str)
    parts = [Owners(nodes, node).part(work, key=str) for node in nodes]

    assert sorted(together) == sorted(each for part in parts for each in part) == work
    for node, part in zip(nodes, parts, strict=True):
        assert {table.owner(each) for each in part} <= {node}
        assert [each for each in together if table.owner(each) == node] == part == sorted(part)
    # Whoever has anything left is written to once before anybody is written to again.
    begin = 0
    while begin < len(work):
        turn = [len(part) for part in parts if len(part) > 0]
        owners = [table.owner(each) for each in together[begin : begin + len(turn)]]
        assert len({*owners}) == len(turn)
        begin += len(turn)
        parts = [part[1:] for part in parts]


def test_without_nodes_the_order_stays() -> None:
    assert Owners().part(["b", "a"], key=str) == ["b", "a"]


def test_each_owners_job_brings_its_own(
    cache: RunningCache, folder: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = ("node-a", "node-b", "node-c")
    statuses = [main([str(folder), *flags, "--nodes", ",".join(nodes), "--owner", node]) for node in nodes]
    first = capsys.readouterr().err
    again = main([str(folder), *flags, "--nodes", " ".join(nodes), "--dry-run"])

    assert (statuses, again) == ([0, 0, 0], 0)
    assert puts(cache) == 7
    assert sum(int(each) for each in re.findall(r"^(\d+) objects of", first, re.MULTILINE)) == 7
    assert "7 (" in capsys.readouterr().err


def test_names_of_nodes() -> None:
    assert node_names("a, b\nc,d") == ("a", "b", "c", "d")


@pytest.mark.parametrize("text", ["1/1", "-1/2", "1", "0/0", "0/99999999"])
def test_what_is_no_shard(text: str) -> None:
    with pytest.raises(ValueError, match="0/4"):
        shard(text)


def test_progress_says_how_far_how_fast_and_how_long() -> None:
    tally = Tally(4, 4 * 2**20).after("put", 2**20).after("failed", 2**20, OSError())

    assert progress(tally, 2.0) == "2/4 objects, 2.0 MiB of 4.0 MiB, 1.0 MiB/s, 2 s left, 1 failed"
    assert progress(Tally(1, 5), 0.0) == "0/1 objects, 0 B of 5 B, 0 B/s, no end in sight yet"
    assert summary(tally, 8000, is_dry=False).endswith("1 failed, 2 not tried; 2 h 13 min")


def test_an_outage_is_told_from_a_hiccup() -> None:
    tally = Tally(100, 0)
    for _ in range(9):
        tally = tally.after("failed", 0, UnreachableError("down"))

    assert tally.hopeless == ""
    assert tally.after("put", 0).after("failed", 0, UnreachableError("down")).hopeless == ""
    assert "10 objects failed" in tally.after("failed", 0, UnreachableError("down")).hopeless
    assert Tally(1, 0).after("failed", 0, RefusedError("no", 403)).hopeless == "no"
