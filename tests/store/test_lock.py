"""Two processes never keep one log."""

import os
import subprocess
import sys
from pathlib import Path

from common.store.lock import sole_writer


def test_a_second_edge_on_one_log_does_not_start(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/log.sqlite"
    settings = {"DIMEE_NODE__ID": "edge-2", "DIMEE_LOG__URL": url, "DIMEE_MQTT__PORT": "1"}

    with sole_writer(url):
        second = subprocess.run(
            [sys.executable, "-m", "common.cli", "edge", "run"],
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    assert second.returncode == 1
    assert "another process keeps its log here; stop it, or name another log.url" in second.stderr
    assert not (tmp_path / "log.sqlite").exists()
