"""The page stands alone: figures inside, constants beside the numbers."""

from pathlib import Path

import pytest
from synthetic import make_trace

from common.evaluation.comparison import compare
from common.evaluation.metrics import Interval
from common.evaluation.scoring import Setting
from common.evaluation.table import fit_table
from common.evaluation.thinning import ThinScore
from common.types import Depths

pytest.importorskip("matplotlib", reason="needs the extra 'evaluate'")
pytest.importorskip("sklearn", reason="needs the extra 'evaluate'")


def test_report_is_one_page_with_its_constants(tmp_path: Path) -> None:
    from common.evaluation.report import write_report  # noqa: PLC0415 - after the skip

    setting = Setting(depths=Depths(device=2, edge=4, cloud=6), resamples=50)
    calibration, trace = make_trace(120, seed=1), make_trace(120, seed=2)
    found = compare(trace, fit_table(calibration, setting), setting, calibration=None)

    files = write_report(tmp_path / "r", found, trace, calibration, title="<b>Test</b>", origin={"data": "x.tsv"})
    page = files[-1].read_text()

    assert all(file.stat().st_size > 5000 for file in files)
    assert page.count("data:image/png;base64,") == 4
    assert "device_edge 3" in page
    assert "<b>Test</b>" not in page
    assert "http" not in page


def test_report_of_codecs_shows_every_way_at_every_split_point_with_its_interval(tmp_path: Path) -> None:
    from common.evaluation.thinning_report import write_report  # noqa: PLC0415 - after the skip

    sizes = {"float32": 4000.0, "int8": 1000.0, "int4-t0.5": 400.0, "graded-b8": 200.0, "graded-b8-t0.5": 100.0}
    scores = {name: {point: a_score(size) for point in (2, 4)} for name, size in sizes.items()}
    scores["tokens"] = {0: a_score(130.0)}
    scores["int8"][0] = scores["float32"][0] = a_score(1000.0)

    drawn, written = write_report(
        tmp_path / "r", scores, metric="accuracy", samples=9, title="<b>Test</b>", origin={"data": "x.tsv"}
    )
    page = written.read_text()

    assert drawn.stat().st_size > 5000
    assert page.count("data:image/png;base64,") == 1
    assert [page.count(f"<td>{name}</td>") for name in (*sizes, "tokens")] == [3, 3, 2, 2, 2, 1]
    assert "<td>+1.00 [-0.50, +2.50]</td><td>200</td><td>5.0</td><td>20.0</td>" in page
    assert "<b>Test</b>" not in page
    assert "http" not in page


def a_score(num_bytes: float) -> ThinScore:
    return ThinScore(accuracy=0.9, drop_points=1.0, interval=Interval(-0.5, 2.5), bytes_per_request=num_bytes)
