"""The policy in force: read from its file, and again whenever that is replaced."""

from collections.abc import Callable
from pathlib import Path

from tasuki.process.document import ConfigError
from tasuki.process.file_source import DEFAULT_PACE, FileSource, Pace
from webhooks.policy.model import Policy
from webhooks.policy.reading import read_policy


class PolicySource(FileSource[Policy]):
    """Reports an absent file as a problem: what is not there may be a mount that failed, not a wish for defaults."""

    def __init__(
        self, file: Path, changed: Callable[[Policy], None], report: Callable[[str], None], pace: Pace = DEFAULT_PACE
    ) -> None:
        super().__init__(file, _policy, changed, report, pace)


def _policy(content: bytes | None) -> Policy:
    if content is None:
        raise ConfigError("there is no such file; mount the policy's ConfigMap there (an empty file means defaults)")
    return read_policy(content)
