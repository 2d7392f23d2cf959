"""The generated pages say what the code says."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from common.types import Tier
from common.wire.topics import Topics

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["configuration.md", "wire.md"])
def test_generated_page_is_fresh(generator: ModuleType, name: str) -> None:
    written = (DOCS / name).read_text(encoding="utf-8")

    assert written == generator.pages()[name], f"docs/{name} is stale; run 'make docs'"


def test_every_topic_of_the_code_is_documented() -> None:
    page = (DOCS / "wire.md").read_text(encoding="utf-8")
    topics = Topics("{site}")

    assert all(f"`{topic}`" in page for topic in (topics.log, topics.request(Tier.EDGE), topics.request(Tier.CLOUD)))
    assert all(f"`{make('{id}')}`" in page for make in (topics.outcome, topics.input, topics.answer))
