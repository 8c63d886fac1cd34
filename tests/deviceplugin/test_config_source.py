"""Noticing changed configurations, over real files laid out as the kubelet lays out a ConfigMap."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from deviceplugin.config.model import Config, MigStrategy
from deviceplugin.config.precedence import Overrides
from deviceplugin.config_source import ConfigOutcome, ConfigSource, Origin, Pace

# Long enough that only a noticed change ends a wait.
UNNOTICED_SECONDS = 60.0
QUICK = Pace(poll_seconds=UNNOTICED_SECONDS, settle_seconds=0.01)


def sharing(replicas: int) -> str:
    return f"sharing: {{timeSlicing: {{resources: [{{name: gpu, replicas: {replicas}}}]}}}}"


def replicas(outcome: ConfigOutcome) -> int:
    """Of the configuration in force; 0 if it shares nothing."""
    assert outcome.config is not None
    return sum(entry.replicas for entry in outcome.config.sharing.resources)


class ConfigMap:
    """A mounted ConfigMap: each version is a folder, to which `..data` points, to which each key's link points."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._version = 0
        folder.mkdir(exist_ok=True)

    def put(self, files: Mapping[str, str]) -> None:
        self._version += 1
        version = self.folder / f"..2024_{self._version}"
        version.mkdir()
        for name, text in files.items():
            (version / name).write_text(text)
        (self.folder / "..data_tmp").symlink_to(version.name)
        (self.folder / "..data_tmp").rename(self.folder / "..data")
        for name in files:
            link = self.folder / name
            if not link.is_symlink():
                link.symlink_to(f"..data/{name}")
        for link in self.folder.iterdir():
            if not link.name.startswith("..") and link.name not in files:
                link.unlink()


@pytest.fixture
def config_map(tmp_path: Path) -> ConfigMap:
    return ConfigMap(tmp_path / "configs")


async def following(source: AsyncIterator[ConfigOutcome]) -> ConfigOutcome:
    async with asyncio.timeout(10):
        return await anext(source)


async def nothing_follows(source: AsyncIterator[ConfigOutcome]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.3):
            outcome = await anext(source)
            raise AssertionError(outcome)


async def test_without_a_file_there_are_the_defaults_and_the_overrides() -> None:
    source = ConfigSource(Origin(), Overrides(mig_strategy=MigStrategy.MIXED), QUICK)

    async with contextlib.aclosing(source.outcomes()) as outcomes:
        first = await following(outcomes)
        await nothing_follows(outcomes)

    assert first.config is not None
    assert first.config.flags.mig_strategy is MigStrategy.MIXED
    assert (first.error, first.origin) == ("", "built-in defaults")


async def test_a_swapped_config_map_is_noticed(config_map: ConfigMap) -> None:
    config_map.put({"config.yaml": sharing(2)})
    source = ConfigSource(Origin(file=config_map.folder / "config.yaml"), Overrides(), QUICK)

    async with contextlib.aclosing(source.outcomes()) as outcomes:
        seen = [await following(outcomes)]
        for count in (3, 4):
            config_map.put({"config.yaml": sharing(count)})
            seen.append(await following(outcomes))

    assert [replicas(outcome) for outcome in seen] == [2, 3, 4]
    assert [outcome.error for outcome in seen] == ["", "", ""]
    assert len({outcome.digest for outcome in seen}) == 3


async def test_the_same_content_again_is_no_change(config_map: ConfigMap) -> None:
    config_map.put({"config.yaml": sharing(2)})
    source = ConfigSource(Origin(file=config_map.folder / "config.yaml"), Overrides(), QUICK)

    async with contextlib.aclosing(source.outcomes()) as outcomes:
        await following(outcomes)
        config_map.put({"config.yaml": sharing(2)})
        task = asyncio.ensure_future(following(outcomes))
        await asyncio.sleep(0.2)
        assert not task.done()
        config_map.put({"config.yaml": sharing(3)})

        assert replicas(await task) == 3


async def test_a_link_into_another_folder_is_followed(tmp_path: Path, config_map: ConfigMap) -> None:
    """As NVIDIA's config-manager makes it: a link to a key of a mounted ConfigMap."""
    config_map.put({"a": sharing(2), "b": sharing(5)})
    link = tmp_path / "config" / "config.yaml"
    link.parent.mkdir()
    link.symlink_to(config_map.folder / "a")
    source = ConfigSource(Origin(file=link), Overrides(), QUICK)

    async with contextlib.aclosing(source.outcomes()) as outcomes:
        first = await following(outcomes)
        config_map.put({"a": sharing(3), "b": sharing(5)})
        edited = await following(outcomes)
        (link.parent / "tmp").symlink_to(config_map.folder / "b")
        (link.parent / "tmp").rename(link)
        repointed = await following(outcomes)
        config_map.put({"a": sharing(3), "b": sharing(6)})
        edited_again = await following(outcomes)
        link.unlink()
        link.symlink_to("/dev/null")
        emptied = await following(outcomes)
        while emptied.error:  # seen between the two steps above
            emptied = await following(outcomes)

    assert [replicas(o) for o in (first, edited, repointed, edited_again, emptied)] == [2, 3, 5, 6, 0]


async def test_a_file_written_in_place_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(sharing(2))
    source = ConfigSource(Origin(file=path), Overrides(), QUICK)

    async with contextlib.aclosing(source.outcomes()) as outcomes:
        await following(outcomes)
        path.write_text(sharing(7))

        assert replicas(await following(outcomes)) == 7


async def test_a_half_written_file_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(sharing(2))
    source = ConfigSource(Origin(file=path), Overrides(), Pace(UNNOTICED_SECONDS, settle_seconds=0.3))

    async with contextlib.aclosing(source.outcomes()) as outcomes:
        await following(outcomes)
        task = asyncio.ensure_future(following(outcomes))
        await asyncio.sleep(0)
        path.write_text("")
        await asyncio.sleep(0.05)
        path.write_text(sharing(9))

        assert replicas(await task) == 9


async def test_without_a_notice_the_file_is_looked_at_anyway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_inotify() -> None:
        raise OSError("no more watches")

    monkeypatch.setattr("tasuki.process.watching.Inotify", no_inotify)
    path = tmp_path / "config.yaml"
    path.write_text(sharing(2))
    source = ConfigSource(Origin(file=path), Overrides(), Pace(poll_seconds=0.05, settle_seconds=0.01))

    async with contextlib.aclosing(source.outcomes()) as outcomes:
        await following(outcomes)
        path.write_text(sharing(3))

        assert replicas(await following(outcomes)) == 3


async def test_a_bad_file_leaves_the_last_good_configuration_in_force(config_map: ConfigMap) -> None:
    config_map.put({"config.yaml": sharing(2)})
    path = config_map.folder / "config.yaml"
    source = ConfigSource(Origin(file=path), Overrides(), QUICK)

    async with contextlib.aclosing(source.outcomes()) as outcomes:
        good = await following(outcomes)
        config_map.put({"config.yaml": sharing(1)})
        bad = await following(outcomes)
        config_map.put({"config.yaml": "a: b: c"})
        worse = await following(outcomes)
        config_map.put({})
        gone = await following(outcomes)
        config_map.put({"config.yaml": sharing(2)})
        good_again = await following(outcomes)

    assert [o.config for o in (bad, worse, gone, good_again)] == [good.config] * 4
    assert bad.error == "line 1: sharing.timeSlicing.resources[0].replicas is 1; it must be from 2 to 65536"
    assert bad.digest not in ("", good.digest)
    assert "not valid YAML" in worse.error
    assert (gone.origin, gone.error) == (str(path), "cannot be read: No such file or directory")
    assert gone.digest == ""
    assert good_again == good


@pytest.mark.parametrize("first", [None, "flags: {migStrategy: both}"], ids=["absent", "bad"])
async def test_without_a_good_file_since_the_start_there_is_no_configuration(tmp_path: Path, first: str | None) -> None:
    path = tmp_path / "later" / "config.yaml"
    if first is not None:
        path.parent.mkdir()
        path.write_text(first)
    source = ConfigSource(Origin(file=path), Overrides(), Pace(poll_seconds=0.2, settle_seconds=0.01))

    async with contextlib.aclosing(source.outcomes()) as outcomes:
        at_start = await following(outcomes)
        path.parent.mkdir(exist_ok=True)
        path.write_text(sharing(2))
        later = await following(outcomes)

    assert at_start.config is None
    assert at_start.origin == str(path)
    assert at_start.error
    assert str(path) not in at_start.error, "whoever tells of it begins with the origin"
    assert (replicas(later), later.error) == (2, "")


async def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.touch()
    source = ConfigSource(Origin(file=path), Overrides(), QUICK)

    async with contextlib.aclosing(source.outcomes()) as outcomes:
        assert (await following(outcomes)).config == Config()


@pytest.mark.parametrize("kind", ["pipe", "folder", "loop", "endless", "too large"])
async def test_what_is_no_configuration_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "config.yaml"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "loop":
            path.symlink_to(path)
        case "endless":
            path.symlink_to("/dev/zero")
        case _:
            path.write_bytes(b"#" * 2_000_000)
    source = ConfigSource(Origin(file=path), Overrides(), QUICK)

    async with contextlib.aclosing(source.outcomes()) as outcomes:
        outcome = await following(outcomes)

    assert outcome.config is None
    assert outcome.origin == str(path)
    assert outcome.error
    assert str(path) not in outcome.error


async def test_the_node_label_chooses_by_name(config_map: ConfigMap) -> None:
    config_map.put({"plain": "", "shared": sharing(4), "default": sharing(2)})
    source = ConfigSource(Origin(folder=config_map.folder), Overrides(), QUICK)

    async with contextlib.aclosing(source.outcomes()) as outcomes:
        seen = [await following(outcomes)]
        for name in ("shared", "plain", None):
            source.choose(name)
            seen.append(await following(outcomes))
        source.choose("")
        await nothing_follows(outcomes)

    assert [replicas(outcome) for outcome in seen] == [2, 4, 0, 2]
    assert [outcome.origin for outcome in seen] == [
        'configuration "default" (no node label)',
        'configuration "shared" (node label)',
        'configuration "plain" (node label)',
        'configuration "default" (no node label)',
    ]


async def test_the_chosen_configurations_content_is_watched(config_map: ConfigMap) -> None:
    config_map.put({"a": sharing(2), "b": sharing(3)})
    source = ConfigSource(Origin(folder=config_map.folder, default="a"), Overrides(), QUICK)

    async with contextlib.aclosing(source.outcomes()) as outcomes:
        assert replicas(await following(outcomes)) == 2
        source.choose("b")
        assert replicas(await following(outcomes)) == 3
        config_map.put({"a": sharing(2), "b": sharing(8)})
        assert replicas(await following(outcomes)) == 8


@pytest.mark.parametrize("name", ["unknown", "../secret", "..data", "/etc/passwd", "sub", ".", "..", "shared/"])
async def test_a_name_that_is_not_in_the_folder_keeps_the_last_good(
    tmp_path: Path, config_map: ConfigMap, name: str
) -> None:
    (tmp_path / "secret").write_text(sharing(9))
    config_map.put({"shared": sharing(4)})
    (config_map.folder / "sub").mkdir()
    source = ConfigSource(Origin(folder=config_map.folder, default="shared"), Overrides(), QUICK)

    async with contextlib.aclosing(source.outcomes()) as outcomes:
        await following(outcomes)
        source.choose(name)
        unknown = await following(outcomes)

    assert replicas(unknown) == 4
    assert unknown.error == (
        f"the node label nvidia.com/device-plugin.config is {name!r}, which does not exist; "
        f"{config_map.folder} has shared"
    )


async def test_an_entry_that_leads_nowhere_hides_no_other(config_map: ConfigMap) -> None:
    config_map.put({"shared": sharing(4)})
    (config_map.folder / "loop").symlink_to("loop")
    (config_map.folder / "dangling").symlink_to("absent")
    source = ConfigSource(Origin(folder=config_map.folder), Overrides(), QUICK)

    async with contextlib.aclosing(source.outcomes()) as outcomes:
        outcome = await following(outcomes)

    assert (replicas(outcome), outcome.error) == (4, "")


async def test_a_configuration_that_appears_after_the_label_is_taken(config_map: ConfigMap) -> None:
    config_map.put({"shared": sharing(4)})
    source = ConfigSource(Origin(folder=config_map.folder, default="shared"), Overrides(), QUICK)
    source.choose("new")

    async with contextlib.aclosing(source.outcomes()) as outcomes:
        before = await following(outcomes)
        config_map.put({"shared": sharing(4), "new": sharing(6)})
        after = await following(outcomes)

    assert before.config is None
    assert (replicas(after), after.error) == (6, "")


@pytest.mark.parametrize(
    ("origin", "names", "expected", "error"),
    [
        pytest.param({"default": "b"}, "a b default", 'configuration "b" (default)', "", id="the given default"),
        pytest.param({"default": "x"}, "a", 'configuration "x" (default)', "default configuration is 'x', which",
                     id="a default that is not there"),
        pytest.param({}, "a default", 'configuration "default" (no node label)', "", id="the one named default"),
        pytest.param({}, "a", 'configuration "a" (the only one)', "", id="the only one"),
        pytest.param({}, "a b", "no configuration", "and there is no default", id="no way to choose"),
        pytest.param({}, "", "no configuration", "is empty", id="an empty folder"),
        pytest.param({"fallbacks": ("single", "empty")}, "a b", "built-in defaults", "", id="the empty fallback"),
    ],
)  # fmt: skip
async def test_without_a_label(
    config_map: ConfigMap, origin: Mapping[str, str], names: str, expected: str, error: str
) -> None:
    config_map.put(dict.fromkeys(names.split(), sharing(2)))
    source = ConfigSource(Origin(folder=config_map.folder, **origin), Overrides(), QUICK)  # type: ignore[arg-type]

    async with contextlib.aclosing(source.outcomes()) as outcomes:
        outcome = await following(outcomes)

    assert outcome.origin == expected
    assert error in outcome.error
    assert bool(outcome.error) is bool(error)


async def test_a_folder_that_cannot_be_listed_is_told(tmp_path: Path) -> None:
    source = ConfigSource(Origin(folder=tmp_path / "absent"), Overrides(), QUICK)

    async with contextlib.aclosing(source.outcomes()) as outcomes:
        first = await following(outcomes)
        ConfigMap(tmp_path / "absent").put({"a": sharing(2)})
        outcome = await following(outcomes)
        while outcome.error:  # seen while the folder was still being filled
            outcome = await following(outcomes)

    assert (first.origin, first.error) == (str(tmp_path / "absent"), "cannot be listed: No such file or directory")
    assert replicas(outcome) == 2


async def test_at_start_the_label_is_waited_for(config_map: ConfigMap) -> None:
    config_map.put({"a": sharing(2), "b": sharing(3)})
    pace = Pace(UNNOTICED_SECONDS, 0.01, first_choice_seconds=UNNOTICED_SECONDS)
    source = ConfigSource(Origin(folder=config_map.folder, default="a"), Overrides(), pace)

    async with contextlib.aclosing(source.outcomes()) as outcomes:
        task = asyncio.ensure_future(following(outcomes))
        await asyncio.sleep(0.05)
        assert not task.done()
        source.choose("b")

        assert replicas(await task) == 3


async def test_where_no_label_comes_the_default_is_taken_after_a_while(config_map: ConfigMap) -> None:
    config_map.put({"a": sharing(2), "b": sharing(3)})
    pace = Pace(UNNOTICED_SECONDS, 0.01, first_choice_seconds=0.05)
    source = ConfigSource(Origin(folder=config_map.folder, default="a"), Overrides(), pace)

    async with contextlib.aclosing(source.outcomes()) as outcomes:
        assert replicas(await following(outcomes)) == 2


async def test_notices_come_with_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("sharing: {mps: {resources: [{name: gpu, replicas: 2}]}}")
    source = ConfigSource(Origin(file=path), Overrides(mps_root="/run/mps"), QUICK)

    async with contextlib.aclosing(source.outcomes()) as outcomes:
        outcome = await following(outcomes)

    assert len(outcome.notices) == 1
    assert "Tasuki starts none" in outcome.notices[0]


async def test_being_cancelled_leaves_nothing_behind(tmp_path: Path) -> None:
    source = ConfigSource(Origin(file=tmp_path / "config.yaml"), Overrides(), QUICK)

    async def follow() -> None:
        async with contextlib.aclosing(source.outcomes()) as outcomes:
            async for _ in outcomes:
                continue

    task = asyncio.create_task(follow())
    await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert task.cancelled()
    assert asyncio.all_tasks() == {asyncio.current_task()}
