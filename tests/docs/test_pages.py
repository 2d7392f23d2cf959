"""Every link in the pages leads somewhere, every command parses, every example loads."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer
from pages import FENCE, PAGES, ROOT, commands_of, parse

from common.cli.root import app
from common.config.load import load
from common.config.settings import CloudSettings, DeviceSettings, EdgeSettings, Section

EXAMPLES: dict[str, type[Section]] = {"device": DeviceSettings, "edge": EdgeSettings, "cloud": CloudSettings}
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def _without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
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


COMMANDS = sorted(
    {
        (str(page.relative_to(ROOT)), *found)
        for page in PAGES
        if "benchmarks" not in page.parts
        for found in commands_of(page)
    }
)


@pytest.mark.parametrize(("page", "line", "is_whole"), COMMANDS)
def test_command_in_the_pages_parses(page: str, line: str, is_whole: bool) -> None:
    words = shlex.split(line)[1:]

    try:
        parse(typer.main.get_command(app), words)
    except Exception as exc:  # noqa: BLE001 - typer's own copy of click has no public names
        if is_whole or type(exc).__name__ != "MissingParameter":
            pytest.fail(f"{page}: {line}: {exc!r}")


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
        for language, block in FENCE.findall(page.read_text(encoding="utf-8"))
        if language == "toml"
    ]
    for block in blocks:
        known = {name for kind in EXAMPLES.values() for name in kind.__struct_fields__}
        assert set(tomllib.loads(block)) <= known, block
