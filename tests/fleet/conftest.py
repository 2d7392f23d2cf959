"""The command line as a user meets it."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from common.cli.root import main


class Done(NamedTuple):
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Read the one JSON document on stdout."""
        return json.loads(self.out)


@pytest.fixture
def dimee(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run a command in this process."""

    def run(*arguments: object) -> Done:
        capsys.readouterr()
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as exc:
            status = exc.code if isinstance(exc.code, int) else 1
        else:
            status = 0
        return Done(status, *capsys.readouterr())

    return run
