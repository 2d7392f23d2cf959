"""What other programs see of the log: views on both stores, Datasette on the file, DuckDB on an export."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from common.engine.choice import choose_policy
from common.evaluation.exits import expected_exits
from common.model.bundle import open_bundle
from common.store.views import VIEWS
from common.types import Reason, Record, Tier

LIMIT_S = 60.0


@pytest.mark.usefixtures("three")
def test_every_view_can_be_read_and_counts_what_is_there(log: sa.Engine) -> None:
    with log.connect() as connection:
        rows = {name: connection.exec_driver_sql(f"SELECT * FROM {name}").mappings().all() for name in VIEWS}

    assert sum(row["answers"] for row in rows["request_hourly"]) == 3
    assert {row["hour"] for row in rows["request_hourly"]} == {"2025-06-15 15:00"}
    assert sum(row["fallbacks"] for row in rows["request_hourly"]) == 1
    assert sum(row["answers"] for row in rows["request_exits"]) == 2, "what failed has no exit of its choice"
    assert [row["request_id"] for row in rows["request_disagreements"]] == ["far"]
    assert sum(row["hops"] for row in rows["hop_times"]) > 0


@pytest.mark.sqlite
@pytest.mark.usefixtures("three")
def test_datasette_serves_the_views(log_path: Path) -> None:
    pytest.importorskip("datasette", reason="needs datasette: pip install datasette")
    path = f"/{log_path.stem}/request_hourly.json?_shape=array"
    command = [sys.executable, "-m", "datasette", str(log_path), "--get", path]

    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=LIMIT_S)

    assert sum(row["answers"] for row in json.loads(done.stdout)) == 3


@pytest.mark.usefixtures("three")
def test_duckdb_reads_an_export(run: Any, tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb", reason="needs duckdb: pip install duckdb")
    pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'dimee[parquet]'")
    out = tmp_path / "log.parquet"
    assert run("export", "--format", "parquet", "--out", str(out))[0] == 0

    tiers = duckdb.sql(f"SELECT exit_tier, count(*) FROM '{out}' GROUP BY 1 ORDER BY 1").fetchall()
    nodes = duckdb.sql(f"SELECT DISTINCT unnest(hops).node FROM '{out}'").fetchall()

    assert tiers == [("cloud", 1), ("device", 2)]
    assert nodes


def test_report_holds_exits_against_the_bundles_record(
    run: Any, write: Callable[[Iterable[Record]], None], record: Any
) -> None:
    bundle = open_bundle()
    expected = expected_exits(bundle, choose_policy(bundle))

    def of(number: int, layer: int, reason: Reason = Reason.CONFIDENT) -> Record:
        made = record(f"r{number}", exit_tier=Tier.DEVICE, reason=reason)
        answer = msgspec.structs.replace(made.answer, exit_layer=layer, model_revision=bundle.revision)
        return msgspec.structs.replace(made, answer=answer)

    write([*(of(number, 6) for number in range(10)), of(10, 2, Reason.DEGRADED)])
    code, out, _ = run("report", "--json")
    table = run("report")[1]

    drift = json.loads(out)["drift"]
    assert code == 0
    assert drift["answers"] == 10
    assert drift["drift"] == pytest.approx(1 - expected[6])
    assert [each["layer"] for each in drift["exits"]] == [2, 4, 6]
    assert f"drift {1 - expected[6]:.2f}" in table


@pytest.mark.usefixtures("log")
def test_report_tells_when_the_log_holds_nothing_of_the_bundle(run: Any) -> None:
    assert json.loads(run("report", "--json")[1])["drift"]["drift"] is None


@pytest.mark.usefixtures("log")
def test_report_refuses_a_bundle_that_is_none(run: Any, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "none", ignore_errors=True)

    code, _, said = run("report", "--bundle", str(tmp_path / "none"))

    assert code == 2
    assert "is no directory" in said
