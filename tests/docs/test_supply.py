"""The supply chain: a valid bill of materials, a search that finds secrets, and an audit that says when it was none."""

import json
import os
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


def audited(*command: object, **environment: str) -> tuple[int, str]:
    """Give the audit's exit status and all it said of a command that stands for pip-audit, or is it."""
    finished = subprocess.run(
        [sys.executable, ROOT / ".ci" / "audit.py", *command],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )
    return finished.returncode, finished.stdout + finished.stderr


def saying(stdout: str, stderr: str, status: int) -> list[str]:
    """Give a command that says this and ends so."""
    program = "import sys; sys.stdout.write(sys.argv[1]); sys.stderr.write(sys.argv[2]); sys.exit(int(sys.argv[3]))"
    return [sys.executable, "-c", program, stdout, stderr, str(status)]


@pytest.mark.parametrize(
    ("dependencies", "ended", "status", "said"),
    [
        ([SOUND, UNKNOWN], 0, 0, "1 of 2 packages were looked up, 0 advisories"),
        ([SOUND, STALE], 1, 1, "old 1.0: PYSEC-1, fixed in 1.1"),
        ([UNKNOWN], 0, 0, "NOTHING was audited"),
        ([], 0, 1, "pip-audit ended with status 0 and no report to go by"),
        ([SOUND], 2, 1, "pip-audit ended with status 2"),
        ([{**STALE, "vulns": [{}]}], 1, 1, "pip-audit ended with status 1"),
    ],
)
def test_an_audit_fails_by_what_its_report_says(dependencies: list[object], ended: int, status: int, said: str) -> None:
    found, words = audited(*saying(json.dumps({"dependencies": dependencies, "fixes": []}), "", ended))

    assert found == status
    assert said in words


@pytest.mark.parametrize(
    ("stdout", "stderr", "status"),
    [
        ("", "requests.exceptions.ReadTimeout: HTTPSConnectionPool(host='pypi.org'): Read timed out.", 0),
        ("", "requests.exceptions.HTTPError: 503 Server Error: down\npip_audit._service.interface.ServiceError", 0),
        ("", "ERROR:pip_audit._cli:Could not connect to PyPI's vulnerability feed", 0),
        ("", "requests.exceptions.HTTPError: 400 Client Error: what?", 1),
        ("", "ValueError: this says ConnectionError and is none", 1),
        ("", "pip-audit: error: unrecognized arguments: --no-such", 1),
        ("", "", 1),
        ("Traceback", "requests.exceptions.ReadTimeout: told beside a report that is none", 1),
        ("[]", "", 1),
    ],
)
def test_an_audit_without_a_report_passes_only_where_no_service_was_in_reach(
    stdout: str, stderr: str, status: int
) -> None:
    found, words = audited(*saying(stdout, stderr, 1))

    assert found == status
    assert ("NOTHING was audited" in words) is (status == 0)
    assert stderr in words or status == 0


def test_pip_audit_itself_behind_a_network_that_is_gone(tmp_path: Path) -> None:
    pins = tmp_path / "pins.txt"
    pins.write_text("msgpack==1.1.2\n")
    asked = ["--requirement", pins, "--no-deps", "--disable-pip", "--cache-dir", tmp_path / "cache", "--format", "json"]
    gone = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:1") | {"NO_PROXY": "", "no_proxy": ""}
    program = Path(sys.prefix) / "bin" / "pip-audit"

    without = audited(program, *asked, **gone)
    mistaken = audited(program, "--no-such", **gone)

    assert (without[0], "NOTHING was audited" in without[1]) == (0, True)
    assert (mistaken[0], "unrecognized arguments" in mistaken[1]) == (1, True)
