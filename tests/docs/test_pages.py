"""Every link in the pages leads somewhere, every command parses, every example loads."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from common.cli.root import app
from common.config.load import load
from common.config.settings import CloudSettings, DeviceSettings, EdgeSettings, Section

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").rglob("*.md")])
EXAMPLES: dict[str, type[Section]] = {"device": DeviceSettings, "edge": EdgeSettings, "cloud": CloudSettings}
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def _without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", _FENCE.sub("", text))


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(_without_code(page.read_text(encoding="utf-8"))):
        if target.startswith(("http:", "https:")):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page

        assert linked.exists(), f"{page.name} links to {target}"
        assert linked.is_relative_to(ROOT), f"{page.name} links out of the repository: {target}"
        if anchor and linked.suffix == ".md":
            assert anchor in _anchors(linked), f"{page.name} links to {target}; headings are {sorted(_anchors(linked))}"


def _commands(page: Path) -> Iterator[tuple[str, bool]]:
    """Give each command, and whether it stands whole in a block; in a sentence its arguments may be left out."""
    text = page.read_text(encoding="utf-8")
    for language, block in _FENCE.findall(text):
        if language in {"sh", "console", "bash"}:
            for line in re.sub(r"\\\n\s*", "", block).splitlines():
                for found in re.findall(r"(?:^|[|;&(] *|\$ |=\S+ |\S/)(dimee [a-z][^|;&>#)]*)", line.strip()):
                    yield found.strip(), True
    for found in re.findall(r"`(dimee [a-z][^`\n]*)`", _FENCE.sub("", text)):
        yield found, False


COMMANDS = sorted(
    {
        (str(page.relative_to(ROOT)), *found)
        for page in PAGES
        if "benchmarks" not in page.parts
        for found in _commands(page)
    }
)


@pytest.mark.parametrize(("page", "line", "is_whole"), COMMANDS)
def test_command_in_the_pages_parses(page: str, line: str, is_whole: bool) -> None:
    words = shlex.split(line)[1:]

    try:
        _parse(typer.main.get_command(app), words)
    except Exception as exc:  # noqa: BLE001 - typer's own copy of click has no public names
        if is_whole or type(exc).__name__ != "MissingParameter":
            pytest.fail(f"{page}: {line}: {exc!r}")


def _parse(command: Any, words: list[str]) -> None:
    """Parse without running; a word in capitals stands for a value."""
    if hasattr(command, "get_command"):
        if words and not words[0].startswith("-"):
            found = command.get_command(None, words[0])
            assert found is not None, f"there is no command {words[0]!r}"
            _parse(found, words[1:])
        return
    filled = ["1" if re.fullmatch(r"[A-Z_]+", word) else word for word in words]
    if "--help" not in words:
        command.make_context(command.name, filled)


def test_the_pages_hold_commands_at_all() -> None:
    assert len(COMMANDS) > 20
    assert any(page == "README.md" for page, _, _ in COMMANDS)


@pytest.mark.parametrize("tier", EXAMPLES)
def test_example_loads(tier: str) -> None:
    path = ROOT / "examples" / f"{tier}.toml"

    settings = load(EXAMPLES[tier], path, {})

    assert settings.node.id  # type: ignore[attr-defined]


@pytest.mark.parametrize("tier", EXAMPLES)
def test_every_key_in_an_example_that_is_commented_out_is_known(tier: str, tmp_path: Path) -> None:
    text = (ROOT / "examples" / f"{tier}.toml").read_text(encoding="utf-8")
    active = tmp_path / "all.toml"
    active.write_text(re.sub(r"^# ?(\w+ = )", r"\1", text, flags=re.MULTILINE), encoding="utf-8")

    load(EXAMPLES[tier], active, {})


def test_toml_blocks_in_the_pages_are_settings_of_a_tier() -> None:
    blocks = [
        block
        for page in PAGES
        for language, block in _FENCE.findall(page.read_text(encoding="utf-8"))
        if language == "toml"
    ]
    for block in blocks:
        known = {name for kind in EXAMPLES.values() for name in kind.__struct_fields__}
        assert set(tomllib.loads(block)) <= known, block
