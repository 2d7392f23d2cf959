"""The pages of the repository, and the commands in them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").rglob("*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands_of(page: Path) -> Iterator[tuple[str, bool]]:
    """Give each command, and whether it stands whole in a block; in a sentence its arguments may be left out."""
    text = page.read_text(encoding="utf-8")
    for language, block in FENCE.findall(text):
        if language in {"sh", "console", "bash"}:
            for line in re.sub(r"\\\n\s*", "", block).splitlines():
                for found in re.findall(r"(?:^|[|;&(] *|\$ |=\S+ |\S/)(dimee [a-z][^|;&>#)]*)", line.strip()):
                    yield found.strip(), True
    for found in re.findall(r"`(dimee [a-z][^`\n]*)`", FENCE.sub("", text)):
        yield found, False


def parse(command: Any, words: list[str]) -> None:
    """Parse without running; a word in capitals stands for a value."""
    if hasattr(command, "get_command"):
        if words and not words[0].startswith("-"):
            found = command.get_command(None, words[0])
            assert found is not None, f"there is no command {words[0]!r}"
            parse(found, words[1:])
        return
    filled = ["1" if re.fullmatch(r"[A-Z_]+", word) else word for word in words]
    if "--help" not in words:
        command.make_context(command.name, filled)
