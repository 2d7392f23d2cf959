"""The main job by its command: three tiers as processes, over both brokers, and nothing left behind."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.engine.choice import choose_policy
from common.evaluation.labelled import trace_file
from common.evaluation.simulation import route_costs, simulate
from common.model.bundle import open_bundle
from common.routing.cost import CostModel
from common.service.lifecycle import Stopping

pytestmark = pytest.mark.e2e
LIMIT_S = 300.0
DEMO = [sys.executable, "-m", "common.cli", "demo"]


def run_demo(*arguments: object, scratch: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [*DEMO, *(str(argument) for argument in arguments)]
    environment = dict(os.environ) if scratch is None else _within(scratch)
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False, env=environment)


def _within(scratch: Path) -> dict[str, str]:
    """An environment whose temporary folder is the test's own, so that what one demo leaves can be told from others."""
    scratch.mkdir(exist_ok=True)
    return os.environ | {"TMPDIR": str(scratch)}


def left_behind(scratch: Path) -> list[str]:
    """Processes of dimee that outlived the demo of this temporary folder, and what it left there."""
    folders = [str(path) for path in scratch.glob("dimee-demo-*")]
    own = f"TMPDIR={scratch}\0".encode()
    return folders + [path.parent.name for path in Path("/proc").glob("[0-9]*/environ") if own in _read(path)]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("broker", ["embedded", pytest.param("mosquitto", marks=pytest.mark.broker)])
def test_every_sentence_is_answered_once_and_logged_once(broker: str, tmp_path: Path, request: Any) -> None:
    if broker == "mosquitto":
        request.getfixturevalue("make_mosquitto")  # skips, or fails in CI, where there is none
    log = tmp_path / "log.sqlite"

    done = run_demo("--json", "--broker", broker, "--log", log, scratch=tmp_path / "scratch")

    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["samples"] == report["answered"] >= 300
    assert set(report["tiers"]) == {"device", "edge", "cloud"}
    assert report["accuracy"] > 0.7  # a quarter of the shipped sentences are truly hard
    assert report["cost"]["reduction"] > 0
    with sqlite3.connect(log) as database:
        assert database.execute("select count(*), count(distinct request_id) from request_log").fetchone() == (
            report["samples"],
            report["samples"],
        )
    assert left_behind(tmp_path / "scratch") == []
    live = _exit_layers(log)
    evaluated, cost = _evaluated()
    assert (live == evaluated).mean() >= 0.99
    assert report["cost"]["per_request"] == pytest.approx(cost, rel=0.01)


def _exit_layers(log: Path) -> np.ndarray:
    with sqlite3.connect(log) as database:
        rows = database.execute("select exit_layer from request_log order by created_at").fetchall()
    return np.array([layer for (layer,) in rows])


def _evaluated() -> tuple[np.ndarray, float]:
    """Exit layers and mean cost that the evaluation gives the demo's own sentences."""
    bundle = open_bundle()
    depths = bundle.manifest.depths
    with as_file(files("common.inputs") / "reviews.tsv") as sentences:
        trace = trace_file(bundle, sentences)
    routes = simulate(choose_policy(bundle), trace, depths)
    return np.array(trace.exits)[routes.exits], float(route_costs(routes, trace, depths, CostModel()).mean())


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [*DEMO, "--rate", "20", "--log", str(tmp_path / "log.sqlite")]
    environment = _within(tmp_path / "scratch")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as demo:
        _wait_for_requests(tmp_path / "log.sqlite", demo)
        demo.send_signal(signal.SIGINT)
        demo.communicate(timeout=LIMIT_S)

    assert demo.returncode != 0
    assert left_behind(tmp_path / "scratch") == []


def _wait_for_requests(log: Path, demo: subprocess.Popen[bytes]) -> None:
    pause = Stopping()
    for _ in range(int(LIMIT_S * 10)):
        assert demo.poll() is None
        if log.exists():
            with sqlite3.connect(log) as database:
                tables = database.execute("select count(*) from sqlite_master where name = 'request_log'").fetchone()
                if tables[0] and database.execute("select count(*) from request_log").fetchone()[0]:
                    return
        pause.wait(0.1)
    pytest.fail("no request was logged")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--input", "/nowhere.tsv"], "/nowhere.tsv: no such file"),
        (["--bundle", "/nowhere"], "'/nowhere' is no directory"),
        (["--broker", "carrier-pigeon"], "'carrier-pigeon' is neither embedded, mosquitto, nor HOST:PORT"),
        (["--log", "/nowhere/log.sqlite"], "/nowhere/log.sqlite: its directory does not exist"),
        (["--policy", "none-such"], "'none-such' is not one of"),
    ],
)
def test_a_mistake_is_named_in_one_line(arguments: list[str], said: str) -> None:
    done = run_demo(*arguments)

    assert done.returncode == 2
    assert said in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_plain_lines_need_no_labels(tmp_path: Path) -> None:
    lines = tmp_path / "texts.txt"
    lines.write_text("a fine film\n\nnot my kind of evening\n", encoding="utf-8")

    done = run_demo("--json", "--input", lines)

    report = json.loads(done.stdout)
    assert (report["samples"], report["answered"], report["accuracy"]) == (2, 2, None)


def test_a_device_process_never_imports_torch() -> None:
    code = (
        "import sys, device_agent.cli, device_agent.build, common.cli.root; "
        "print([name for name in ('torch', 'transformers', 'onnx', 'amqtt', 'opentelemetry') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )

    assert done.stdout.strip() == "[]"
