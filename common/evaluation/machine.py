"""What a figure was measured on: machine, versions, commit."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import msgspec


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The machine and the software under a measurement."""

    processor: str
    cores: int  # that this process may use
    system: str
    python: str
    packages: dict[str, str]
    commit: str  # of the checkout, with + when it is changed; empty outside one


def this_machine() -> Machine:
    """Describe this machine without its name or paths."""
    packages = ("dimee", "onnxruntime", "numpy", "tokenizers", "paho-mqtt", "msgspec", "sqlalchemy")
    return Machine(
        processor=_processor(),
        cores=num_cores(),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        packages={name: version(name) for name in packages},
        commit=_commit(),
    )


def num_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = {line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))}
    return ", ".join(sorted(names)) or platform.processor() or platform.machine()


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--exclude=*", "--dirty=+"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603 - our own
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()
