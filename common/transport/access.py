"""Who may publish and hear what at the embedded broker: the access list that Mosquitto reads (``acl_file``)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from common.errors import ConfigError
from common.transport.routes import matches

_RIGHTS = {"read": {"read"}, "write": {"write"}, "readwrite": {"read", "write"}}


class _Grant(NamedTuple):
    user: str | None  # None: everybody, whose name then replaces %u
    rights: set[str]
    topic: str  # a filter

    def covers(self, right: str, user: str, topic: str) -> bool:
        if right not in self.rights or self.user not in (None, user):
            return False
        return matches(self.topic.replace("%u", user) if self.user is None else self.topic, topic)


class AccessList:
    """What each user may do; what no line grants is refused."""

    def __init__(self, grants: Sequence[_Grant]) -> None:
        self._grants = tuple(grants)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a list as 'dimee certs acl' prints it.

        Raises:
            ConfigError: The file cannot be read, or a line is none that is understood here.
        """
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"access list {path} cannot be read: {exc}") from exc
        return cls(list(_grants(path, lines)))

    def may_publish(self, user: str, topic: str) -> bool:
        """Whether a user may publish to a topic."""
        return self._covers("write", user, topic)

    def may_hear(self, user: str, topic: str) -> bool:
        """Whether a user may be sent what is published to a topic."""
        return self._covers("read", user, topic)

    def _covers(self, right: str, user: str, topic: str) -> bool:
        return any(grant.covers(right, user, topic) for grant in self._grants)


def _grants(path: Path, lines: Sequence[str]) -> Iterator[_Grant]:
    user = None
    for number, line in enumerate(lines, 1):
        match line.split(" ", 2):
            case [""]:
                continue
            case [word, *_] if word.startswith("#"):
                continue
            case ["user", *name]:
                user = " ".join(name)
            case ["pattern", right, topic] if right in _RIGHTS:
                yield _Grant(None, _RIGHTS[right], topic)
            case ["topic", right, topic] if right in _RIGHTS and user is not None:
                yield _Grant(user, _RIGHTS[right], topic)
            case _:
                raise ConfigError(
                    f"access list {path}, line {number}: {line[:80]!r} is not understood; a line is 'user NAME', below "
                    "it 'topic RIGHT FILTER', or 'pattern RIGHT FILTER', with the right read, write or readwrite"
                )
