"""``dimee log`` as people and programs call it, through the root command."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from common.store.quarantine import Quarantine
from common.types import Race, Record, Signature, Tier
from tests.store.conftest import RecordMaker, Run

Write = Callable[[Iterable[Record]], None]


@pytest.mark.usefixtures("three")
def test_list_shows_the_newest_first(run: Run) -> None:
    code, out, _ = run("list")

    assert code == 0
    assert [line.split()[2] for line in out.splitlines()[4:7]] == ["none", "far", "near"]


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--tier", "device"], ["none", "near"]),
        (["--reason", "failed"], ["none"]),
        (["--label", "positive", "--limit", "1"], ["far"]),
        (["--since", "2025-06-15T15:08:00+00:00", "--until", "2025-06-15T15:09:00+00:00"], ["far"]),
        (["--device", "nobody"], []),
    ],
)
def test_list_prints_one_json_document(run: Run, options: list[str], expected: list[str]) -> None:
    code, out, _ = run("list", "--json", *options)

    assert code == 0
    assert [request["request_id"] for request in json.loads(out)] == expected


@pytest.mark.usefixtures("three")
def test_show_tells_the_way(run: Run) -> None:
    _, table, _ = run("show", "far")
    code, document, _ = run("show", "far", "--json")

    assert code == 0
    assert "answered by the cloud" in table
    assert [hop["node"] for hop in json.loads(document)["hops"]] == ["pi-1", "edge-1"]


def test_show_and_stats_say_who_won_a_race(run: Run, write: Write, record: RecordMaker) -> None:
    race = Race(loser_tier=Tier.CLOUD, loser_label="positive", loser_confidence=0.75)
    write([record("raced", exit_tier=Tier.DEVICE, race=race), record("alone")])

    assert "won by the device; the cloud would have said positive (75.0 %)" in " ".join(run("show", "raced")[1].split())
    assert "1 races" in run("stats")[1]
    races = json.loads(run("stats", "--json")[1])["races"]
    assert races == {"requests": 1, "won_by_device": 1, "compared": 1, "agreed": 1}


@pytest.mark.parametrize("verdict", [*Signature, None])
def test_show_tells_what_became_of_the_signature(
    run: Run, write: Write, record: RecordMaker, verdict: Signature | None
) -> None:
    write([record("signed", signature=verdict)])

    assert f"signature {verdict or '-'}" in " ".join(run("show", "signed")[1].split())
    assert json.loads(run("show", "signed", "--json")[1])["signature"] == verdict


@pytest.mark.usefixtures("three")
def test_stats_sum_up(run: Run) -> None:
    _, table, _ = run("stats")
    code, document, _ = run("stats", "--json")

    parsed = json.loads(document)
    assert code == 0
    assert table.startswith("3 requests, 2025-06-1")
    assert (parsed["requests"], parsed["overall"]["accuracy"], parsed["overall"]["latency_ms_p95"]) == (3, 0.5, 40.0)
    assert parsed["tiers"]["device"]["reasons"] == {"confident": 1, "failed": 1}


@pytest.mark.usefixtures("three")
def test_export_writes_a_file_and_says_so(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "log.csv"

    code, document, _ = run("export", "--format", "csv", "--out", str(out), "--json")

    assert code == 0
    assert json.loads(document) == {"requests": 3, "format": "csv", "file": str(out)}
    assert len(out.read_text().splitlines()) == 4
    assert not list(tmp_path.glob(".log.csv*"))


@pytest.mark.usefixtures("three")
def test_export_streams_lines_or_one_document(run: Run) -> None:
    _, lines, _ = run("export")
    _, document, _ = run("export", "--json")
    _, nothing, _ = run("export", "--json", "--device", "nobody")

    assert [json.loads(line) for line in lines.splitlines()] == json.loads(document)
    assert json.loads(nothing) == []


@pytest.mark.usefixtures("log")
def test_an_empty_log_is_no_error(run: Run) -> None:
    assert run("list")[0] == 0
    assert run("stats")[0] == 0
    assert json.loads(run("stats", "--json")[1])["overall"]["latency_ms_p50"] is None


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["list", "--db", "none.sqlite"], 2, "none.sqlite: there is no such log; name another"),
        (["list", "--since", "yesterday"], 2, "'yesterday' is no time; write an age as 90s"),
        (["list", "--tier", "moon"], 2, "moon"),
        (["list", "--limit", "0"], 2, "--limit"),
        (["show", "nothing"], 1, "the log holds no request 'nothing'"),
        (["export", "--format", "xml"], 2, "xml"),
        (["export", "--out", "."], 2, "is a folder"),
        (["export", "--out", "/nowhere/log.csv"], 2, "/nowhere/log.csv: cannot be written: No such file"),
    ],
)
def test_bad_input_gets_a_line_and_a_status(run: Run, arguments: list[str], code: int, words: str) -> None:
    status, out, err = run(*arguments)

    assert (status, out) == (code, "")
    assert words in err
    assert "Traceback" not in err


def test_a_peers_text_cannot_steer_the_terminal(run: Run, write: Write, record: RecordMaker) -> None:
    write([record("odd", text="\x1b[2J[red]boo[/red]", device_id="pi\x1b[31m")])

    _, out, _ = run("show", "odd")

    assert "\x1b" not in out
    assert "\\x1b[2J[red]boo[/red]" in out


@pytest.mark.parametrize("command", ["list", "show", "stats", "export"])
def test_every_help_has_an_example(run: Run, command: str) -> None:
    code, out, _ = run(command, "--help")

    assert code == 0
    assert f"Example: dimee log {command}" in " ".join(out.split())


@pytest.mark.parametrize(
    "command", [["export"], ["export", "--format", "csv"], ["list", "-n", "5000"], ["list", "-n", "5000", "--json"]]
)
def test_a_reader_that_leaves_early_is_no_error_message(
    log_path: Path, write: Write, record: RecordMaker, command: list[str]
) -> None:
    write(record(f"r-{number}") for number in range(5000))
    shown = f"{sys.executable} -m common.cli log {' '.join(command)} --db {log_path} | head -n 1"

    done = subprocess.run(["/bin/sh", "-c", shown], capture_output=True, text=True, check=False, env=dict(os.environ))

    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


def test_the_quarantine_is_listed_shown_and_cleared(run: Run, log_path: Path) -> None:
    with Quarantine(Path(f"{log_path}.quarantine"), most=10) as quarantine:
        quarantine.put_bytes("dimee/v1/home/log", b"\xc1 nonsense", "no msgpack")
        (listed,) = json.loads(run("quarantine", "list", "--json")[1])

        assert "no msgpack" in run("quarantine", "list")[1]
        assert "c1 20 6e" in run("quarantine", "show", listed["id"])[1]
        assert run("quarantine", "show", "none")[0] == 1
        assert "1 messages released" in run("quarantine", "clear", listed["id"])[1]
        assert json.loads(run("quarantine", "list", "--json")[1]) == []
    assert "there is no such quarantine" in run("quarantine", "list", "--file", "none.quarantine")[2]
