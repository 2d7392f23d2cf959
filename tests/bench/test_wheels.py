"""A device's dependencies come as wheels for 64-bit Arm: nothing is compiled on a board."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE_S = 300
GLIBC = ("2_17", "2_27", "2_28", "2_31", "2_34")  # Raspberry Pi OS 12 has 2.36


@pytest.mark.e2e
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_every_device_dependency_has_an_aarch64_wheel(python: str, tmp_path: Path) -> None:
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    platforms = [part for version in GLIBC for part in ("--platform", f"manylinux_{version}_aarch64")]
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-input", "--quiet"]
    limits = ["--target", str(tmp_path), "--only-binary=:all:", "--python-version", python]
    constraints = ["--constraint", str(ROOT / "infra" / "constraints.txt")]

    whole = [*command, *limits, *constraints, *platforms, *needed]
    try:
        found = subprocess.run(whole, check=False, capture_output=True, text=True, timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        pytest.skip(f"needs a package registry that answers within {PATIENCE_S} s")

    if found.returncode and "No module named pip" in found.stderr:
        pytest.skip("needs pip")
    if found.returncode and ("connection" in found.stderr.lower() or "resolve" in found.stderr.lower()):
        pytest.skip("needs a package registry in reach")
    assert found.returncode == 0, found.stderr
