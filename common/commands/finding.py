"""What a check of ``dimee doctor`` found."""

from collections.abc import Iterator
from typing import Literal

import msgspec

State = Literal["ok", "warning", "failed", "skipped"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the report; what failed comes with its remedy."""

    check: str
    state: State
    detail: str
    remedy: str = ""

    def __post_init__(self) -> None:
        if (self.state in ("failed", "warning")) != bool(self.remedy):
            raise ValueError(f"check {self.check!r} is {self.state} and its remedy is {self.remedy!r}")


Findings = Iterator[Finding]


def ok(check: str, detail: str) -> Finding:
    """Nothing needs doing."""
    return Finding(check=check, state="ok", detail=detail)


def failed(check: str, detail: str, remedy: str) -> Finding:
    """Somebody must act."""
    return Finding(check=check, state="failed", detail=detail, remedy=remedy)


def warning(check: str, detail: str, remedy: str) -> Finding:
    """It works, and would work better otherwise."""
    return Finding(check=check, state="warning", detail=detail, remedy=remedy)


def skipped(check: str, detail: str) -> Finding:
    """It cannot be told."""
    return Finding(check=check, state="skipped", detail=detail)
