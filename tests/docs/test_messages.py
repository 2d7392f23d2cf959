"""The messages that the troubleshooting page explains are messages that the code prints."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("common", "device_agent", "edge_broker", "cloud_worker")
NOT_OURS = {"Expected int <= 65535 (at mqtt.port)", "file is not a database"}  # of msgspec, of SQLite
_WINDOW = 12  # characters in a row that a message and the code must share


def _strings() -> str:
    """Join every text of the code; what is filled in later stands as NUL."""
    texts = []
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                match node:
                    case ast.JoinedStr(values=values):
                        texts.append("".join(str(v.value) if isinstance(v, ast.Constant) else "\0" for v in values))
                    case ast.Constant(value=str(text)):
                        texts.append(text)
    return "\n".join(texts)


STRINGS = _strings()
MESSAGES = re.findall(
    r"^\| `([^`]+)`(?:, again and again)? \|", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE
)


@pytest.mark.parametrize("message", [message for message in MESSAGES if message not in NOT_OURS])
def test_message_is_in_the_code(message: str) -> None:
    literals = [part.strip(" :'") for part in message.split("…")]
    size = min(_WINDOW, max(map(len, literals)))
    windows = [text[start : start + size] for text in literals for start in range(len(text) - size + 1)]

    assert any(window in STRINGS for window in windows), f"the code does not say {message!r} any more"


def test_the_page_holds_messages_at_all() -> None:
    assert len(MESSAGES) > 25
    assert set(MESSAGES) >= NOT_OURS
