"""Where a model comes from: hashes of its data, versions of its makers, the command without this machine's paths."""

import platform
import shlex
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from common.inputs.examples import sha256_of

_MAKERS = ("dimee", "torch", "transformers", "tokenizers", "numpy", "onnx", "onnxruntime")


def origin_of(path: Path, rows: int) -> dict[str, str | int]:
    """Name, content hash and number of rows of a data file."""
    return {"name": _short(str(path)), "sha256": sha256_of(path), "rows": rows}


def versions() -> dict[str, str]:
    """Versions of what shapes the weights."""
    found = {"python": platform.python_version()}
    for name in _MAKERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def command_line(arguments: Sequence[str]) -> str:
    """Render a command for the record: paths keep their last two parts, so that it tells nothing of this machine."""
    return shlex.join(_short(argument) for argument in arguments)


def _short(argument: str) -> str:
    return "/".join(Path(argument).parts[-2:]) if argument.startswith(("/", ".", "~")) else argument
