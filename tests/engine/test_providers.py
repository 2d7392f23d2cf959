"""Execution providers: what is wanted and here is used, what is not here is passed over once, and told."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import onnxruntime as ort
import pytest

from common.commands.machine_checks import check_providers
from common.config.load import load
from common.config.settings import CloudSettings, Model, Node
from common.engine.pipeline import Pipeline
from common.errors import ConfigError
from common.model import providers
from common.model.bundle import open_bundle
from common.model.providers import PROCESSOR
from common.routing.exits import ConfidenceCascade
from common.service.batching import batch_size, open_batching_layers, worthwhile
from common.service.presence import Standing, presence
from common.types import NodeStatus, Tier
from common.wire.topics import Topics

ABSENT = "CUDAExecutionProvider"
OTHER = "AzureExecutionProvider"  # in the wheels of onnxruntime beside the processor's, which does its work
NEVER = ConfidenceCascade(thresholds={})


@pytest.fixture(autouse=True)
def nothing_was_said() -> Iterator[None]:
    """Warnings come once per process, so each test begins as one."""
    providers.usable.cache_clear()
    providers.check_started.cache_clear()
    yield
    providers.usable.cache_clear()


@pytest.fixture
def absent() -> str:
    if ABSENT in ort.get_available_providers():
        pytest.skip(f"needs an onnxruntime without {ABSENT}")
    return ABSENT


@pytest.fixture
def other() -> str:
    if OTHER not in ort.get_available_providers():
        pytest.skip(f"needs an onnxruntime with {OTHER}")
    return OTHER


def _settings(*wanted: str) -> CloudSettings:
    return CloudSettings(node=Node(id="cloud-1"), model=Model(providers=wanted))


def test_a_provider_that_is_not_here_is_passed_over_with_one_warning(
    tiny_bundle: Path, absent: str, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = open_batching_layers(open_bundle(tiny_bundle), _settings(absent, PROCESSOR), Tier.CLOUD)

    warnings = [record.getMessage() for record in caplog.records if record.name == providers.__name__]
    assert pipeline.provider == PROCESSOR
    assert len(warnings) == 1
    assert absent in warnings[0]
    assert ", ".join(ort.get_available_providers()) in warnings[0]


def test_a_misspelt_provider_is_refused_with_the_list(tiny_bundle: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"'CudaExecutionProvider' .* did you mean 'CUDAExecutionProvider'\? known are"
    ):
        open_batching_layers(open_bundle(tiny_bundle), _settings("CudaExecutionProvider"), Tier.CLOUD)


def test_a_provider_that_does_not_start_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        providers.check_started((ABSENT, PROCESSOR), (PROCESSOR,))
        providers.check_started((PROCESSOR,), (PROCESSOR,))

    assert [record.getMessage() for record in caplog.records] == [
        f"model.providers: {ABSENT}: did not start in onnxruntime {ort.__version__}; available: {PROCESSOR}"
    ]


def test_the_environment_names_providers_with_commas() -> None:
    given = {"DIMEE_NODE__ID": "cloud-1", "DIMEE_MODEL__PROVIDERS": f"{ABSENT},{PROCESSOR}"}

    assert load(CloudSettings, None, given).model.providers == (ABSENT, PROCESSOR)


def test_the_status_tells_what_the_layers_run_on(tiny_bundle: Path, other: str) -> None:
    pipeline = open_batching_layers(open_bundle(tiny_bundle), _settings(other), Tier.CLOUD)
    standing = Standing(revision="r", provider=pipeline.provider)

    said = presence(Tier.CLOUD, "cloud-1", Topics("home"), standing).online()

    assert msgspec.json.decode(said, type=NodeStatus).provider == other


def test_only_exact_products_on_an_accelerator_are_computed_together(
    tiny_bundle: Path, tiny_variant: Path, other: str
) -> None:
    def pipeline(bundle: Path, provider: str) -> Pipeline:
        return Pipeline(open_bundle(bundle), NEVER, depth=2, providers=(provider,))

    assert batch_size(None, pipeline(tiny_bundle, PROCESSOR)) == 1
    assert batch_size(None, pipeline(tiny_variant, other)) == 1  # int8
    assert batch_size(None, pipeline(tiny_bundle, other)) > 1  # a tiny model's calls cost more than its products
    assert batch_size(7, pipeline(tiny_bundle, PROCESSOR)) == 7


@pytest.mark.parametrize(
    ("ms_by_size", "chosen"),
    [
        ({1: 1.0, 2: 0.6, 4: 0.5, 8: 0.48, 16: 0.2}, 4),
        ({1: 1.0, 2: 0.95, 4: 0.1}, 1),
        ({1: 1.0, 2: 0.5, 4: 0.25}, 4),
    ],
)
def test_a_batch_grows_while_each_input_gets_cheaper(ms_by_size: dict[int, float], chosen: int) -> None:
    assert worthwhile(ms_by_size) == chosen


def test_doctor_names_what_is_missing_and_what_is_misspelt(absent: str) -> None:
    found = [check_providers(_settings(*wanted)) for wanted in ((PROCESSOR,), (absent,), ("CPU",))]

    assert [finding.state for finding in found] == ["ok", "warning", "failed"]
    assert absent in found[1].detail
