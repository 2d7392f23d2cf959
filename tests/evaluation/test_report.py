"""The page stands alone: figures inside, constants beside the numbers."""

from pathlib import Path

import pytest
from synthetic import make_trace

from common.evaluation.comparison import compare
from common.evaluation.scoring import Setting
from common.evaluation.table import fit_table
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
