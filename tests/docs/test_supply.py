"""The supply chain: a valid bill of materials, a search that finds secrets, and an audit that says when it was none."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

ROOT = Path(__file__).parents[2]
STALE = {"name": "old", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"]}]}
SOUND = {"name": "new", "version": "2.0", "vulns": []}
UNKNOWN = {"name": "far", "skip_reason": "Dependency not found on PyPI"}


def test_the_bill_of_materials_is_valid_and_lists_every_pin(tmp_path: Path) -> None:
    stamp = Path(sys.prefix) / "test.stamp"  # what runs this is installed
    command = ["make", "sbom", f"BUILD={tmp_path}", f"VENV={sys.prefix}", "--old-file", str(stamp)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)

    document = (tmp_path / "sbom.json").read_text()

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(document) is None
    bill = json.loads(document)
    pins = [line for line in (ROOT / "infra/constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert sorted(f"{each['name']}=={each['version']}" for each in bill["components"]) == sorted(pins)
    assert bill["metadata"]["component"]["name"] == "dimee"


@pytest.mark.parametrize(
    ("line", "status"),
    [('key = "AKIA" "QIOSFODNN7EXAMPL"', 0), ('key = "AKIA%s"', 1), ("-----BEGIN PRIVATE %s-----", 1)],
)
def test_the_search_finds_a_secret_and_nothing_else(tmp_path: Path, line: str, status: int) -> None:
    (tmp_path / "source.py").write_text(line.replace("%s", "KEY" if "PRIVATE" in line else "QIOSFODNN7EXAMPL"))
    hook = Path(sys.prefix) / "bin" / "detect-secrets-hook"
    command = [hook, "--no-verify", "--baseline", ROOT / ".ci" / "secrets.json", tmp_path / "source.py"]

    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == status


@pytest.mark.parametrize(
    ("dependencies", "status", "said"),
    [
        ([SOUND, UNKNOWN], 0, "1 of 2 packages were looked up, 0 advisories"),
        ([SOUND, STALE], 1, "old 1.0: PYSEC-1, fixed in 1.1"),
        ([UNKNOWN], 0, "NOTHING was audited"),
        (None, 0, "NOTHING was audited"),  # pip-audit ended without a report
    ],
)
def test_an_audit_that_looked_nothing_up_says_so(dependencies: list[object] | None, status: int, said: str) -> None:
    report = "" if dependencies is None else json.dumps({"dependencies": dependencies, "fixes": []})
    command = [sys.executable, ROOT / ".ci" / "audit.py"]

    finished = subprocess.run(command, input=report, capture_output=True, text=True, check=False)

    assert finished.returncode == status
    assert said in finished.stdout + finished.stderr
