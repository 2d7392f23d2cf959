"""Every command that stands whole in a page is run, in the order of the page; what is not run says why, here alone."""

import io
import os
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer
from pages import PAGES, ROOT, commands_of, parse

from common.cli.root import app, main
from common.commands.demo_inputs import SHIPPED_INPUTS
from common.store.engine import writable_log
from common.store.writer import RequestLogWriter
from common.types import Answer, Reason, Record, Tier

NUM_TEXTS = 80
REQUEST_ID = "01a1fbd77c0fca0d89743ac3"
NOT_RUN = {  # by the beginning of the command
    "audit leak": "trains attackers; tests/evaluation/test_leaking.py runs them",
    "bench": "measures for minutes; tests/bench runs it",
    "dashboard": "runs until stopped; tests/dashboard serves it",
    "demo": "three processes each; tests/e2e/test_demo.py runs it",
    "device run": "runs until stopped; tests/e2e starts it as a process",
    "evaluate --codec": "the data set is not here; tests/evaluation runs it",
    "plan": "the profile is not here; tests/evaluation runs it",
    "service install": "wants the paths of a service; tests/fleet writes its unit",
    "model calibrate": "the data set is not here; tests/evaluation runs it",
    "model compress": "trains; tests/training runs it on a tiny backbone",
    "model export": "needs a training run; tests/training exports one",
    "model operate own": "needs a policy of that name; tests/service/test_steering.py runs it",
    "model recover": "trains; tests/training runs it on a tiny backbone",
    "model tasks": "trains for hours; tests/training runs it on a tiny list",
    "model train-split": "trains between two machines; tests/training runs both parts",
    "model train": "trains; tests/training runs it on a tiny backbone",
}
VALUES = {"REQUEST_ID": REQUEST_ID, "LABEL": "positive", "FILE": "dev.tsv", "NAME": "pi-1", "BUNDLE": "bundle"}
MAY_FIND_FAULT = ("doctor",)  # status 1 is its finding
PREPARED = (  # before anything else of a page, wherever it says so
    "init edge --yes --out edge.toml",
    "certs init",
    "certs issue pi-1 --role device",
)


def _whole_commands(page: Path) -> list[list[str]]:
    """Give the commands of a page that have all their arguments, with real values in the place of capitals."""
    found = []
    for line, is_in_block in dict.fromkeys(commands_of(page)):
        words = [VALUES.get(word, word) for word in shlex.split(line)[1:]]
        if words not in found and _is_whole(words, is_in_block=is_in_block):
            found.append(words)
    return found


def _is_whole(words: list[str], *, is_in_block: bool) -> bool:
    command: Any = typer.main.get_command(app)
    names = 0
    while names < len(words) and hasattr(command, "get_command"):
        command = command.get_command(None, words[names])
        names += 1
    if hasattr(command, "get_command") or (not is_in_block and names == len(words)):
        return False  # a group, or a command by its name alone
    try:
        parse(typer.main.get_command(app), words)
    except Exception as exc:
        if type(exc).__name__ == "MissingParameter":  # a mention in a sentence
            return False
        raise
    return True


def _reason_not_to_run(words: list[str]) -> str | None:
    line = " ".join(words)
    return next((why for start, why in NOT_RUN.items() if line == start or line.startswith(f"{start} ")), None)


RUN = {page: run for page in PAGES if page.name != "CHANGELOG.md" and (run := _whole_commands(page))}


@pytest.fixture
def folder(mosquitto: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the pages take it for granted: a bundle, texts, settings, a log, and a broker in reach."""
    shutil.copytree(ROOT / "common" / "model" / "bundles" / "sst2", tmp_path / "bundle")
    texts = SHIPPED_INPUTS.read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "dev.tsv").write_text("".join(texts[:NUM_TEXTS]), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DIMEE_MQTT__HOST", "127.0.0.1")
    monkeypatch.setenv("DIMEE_MQTT__PORT", str(mosquitto.settings().port))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"y\n" * 9)))  # a password, and consent
    for name in ("dimee-log.sqlite", "dimee-demo.sqlite"):
        _write_log(tmp_path / name)
    return tmp_path


def _write_log(path: Path) -> None:
    answer = Answer(
        request_id=REQUEST_ID,
        device_id="pi-1",
        model_revision="0" * 16,
        reason=Reason.CONFIDENT,
        label="positive",
        confidence=0.9,
        exit_layer=4,
        exit_tier=Tier.CLOUD,
        entry_tier=Tier.DEVICE,
        total_ms=12.0,
    )
    with writable_log(str(path)) as engine, RequestLogWriter(engine) as writer:
        writer.append(Record(answer=answer, created_at=1_750_000_000.0))


@pytest.mark.broker
@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(ROOT)))
@pytest.mark.usefixtures("folder")
def test_the_commands_of_a_page_work(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepared = [line.split() for line in PREPARED]
    for words in (*prepared, *(words for words in RUN[page] if words not in prepared)):
        if _reason_not_to_run(words) is not None:
            continue
        status = _status(words)

        allowed = {0, 1} if words[0] in MAY_FIND_FAULT else {0}
        assert status in allowed, f"dimee {' '.join(words)}: {capsys.readouterr().err}"


def _status(words: list[str]) -> int:
    try:
        main([word.replace("~", os.environ["HOME"]) for word in words])
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else 1
    return 0


def test_every_reason_not_to_run_is_needed() -> None:
    lines = [" ".join(words) for commands in RUN.values() for words in commands]

    assert {start for start in NOT_RUN if not any(re.match(rf"{start}( |$)", line) for line in lines)} == set()
