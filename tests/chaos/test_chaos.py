"""The short form of ``make chaos``: a minute of faults, with each broker, and the promise kept."""

import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.application import Question
from tests.chaos.nemesis import run
from tests.chaos.verdict import judge

pytestmark = pytest.mark.e2e


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("broker", "duration_s", "rate"),
    [pytest.param("mosquitto", 40.0, 60.0, marks=pytest.mark.broker), ("embedded", 25.0, 15.0)],
)
def test_nothing_accepted_is_lost_or_answered_twice(  # noqa: PLR0917 - parameters and fixtures
    broker: str, duration_s: float, rate: float, tiny_bundle: Path, tmp_path: Path, request: Any
) -> None:
    if broker == "mosquitto":
        request.getfixturevalue("make_mosquitto")  # skips, or fails in CI, where there is none

    report = run(
        str(tiny_bundle),
        duration_s=duration_s,
        seed=4,
        broker=broker,
        total=10**9,
        rate=rate,
        directory=tmp_path / "run",
    )

    assert report["kept"], report
    assert report["requests"] > 100
    assert report["faults"] >= 1  # about ten on a machine at ease; each is waited for until all is well


class _Heard:
    """An application that got answers which the log below does not have."""

    def __init__(self) -> None:
        self.counts, self.reasons = Counter[str](), Counter[str]()
        self.questions = {name: Question(name, "device1", "text", "1") for name in ("once", "twice", "never")}
        self.questions["once"].answers = {("r1", "final", "1")}
        self.questions["twice"].answers = {("r2", "final", "1"), ("r3", "degraded", "0")}


def test_the_verdict_sees_every_way_to_break_the_promise(tmp_path: Path) -> None:
    log = tmp_path / "log.sqlite"
    with sqlite3.connect(log) as database:
        database.execute("CREATE TABLE request_log (request_id, device_id)")
        database.executemany("INSERT INTO request_log VALUES (?, 'device1')", [("r1",), ("r1",), ("r2",), ("r9",)])

    verdict = judge(_Heard(), log)  # type: ignore[arg-type]

    assert verdict["lost_answers"] == 1  # never
    assert verdict["lost_rows"] == 1  # r3
    assert verdict["answered_twice"] == 1  # twice
    assert verdict["logged_twice"] == 2  # r1 twice, and r9, of which nobody was told
