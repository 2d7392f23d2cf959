"""The Kubernetes manifests follow Kubernetes' own schemas, and fit together and to the settings."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from common.config.load import load
from common.config.settings import CloudSettings

FOLDER = Path(__file__).parents[2] / "infra" / "kubernetes"
MANIFEST = FOLDER / "cloud-worker.yaml"


@pytest.fixture(scope="module")
def resources() -> dict[str, dict[str, Any]]:
    return {each["kind"]: each for each in yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8"))}


@pytest.mark.parametrize(
    "kind", ["ConfigMap", "Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy"]
)
def test_each_resource_follows_its_schema(kind: str, resources: dict[str, dict[str, Any]]) -> None:
    latest = kubernetes_validate.latest_version()

    kubernetes_validate.validate(resources[kind], latest, strict=True)


def test_a_misspelt_field_would_be_found(resources: dict[str, dict[str, Any]]) -> None:
    broken = yaml.safe_load(yaml.safe_dump(resources["Deployment"]).replace("runAsNonRoot", "runAsNoRoot"))

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, kubernetes_validate.latest_version(), strict=True)


def test_the_environment_is_a_valid_configuration(resources: dict[str, dict[str, Any]]) -> None:
    environment = resources["ConfigMap"]["data"] | {"DIMEE_NODE__ID": "dimee-cloud-7c9f"}

    settings = load(CloudSettings, None, environment)

    (container,) = resources["Deployment"]["spec"]["template"]["spec"]["containers"]
    (port,) = container["ports"]
    assert settings.metrics.port == port["containerPort"]
    mount = container["volumeMounts"][0]["mountPath"]
    assert {Path(path).parent for path in (settings.mqtt.password_file, settings.mqtt.tls_ca_file) if path} == {
        Path(mount)
    }


def test_every_selector_meets_the_pods(resources: dict[str, dict[str, Any]]) -> None:
    labels = resources["Deployment"]["spec"]["template"]["metadata"]["labels"]

    assert resources["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert resources["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert resources["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    target = resources["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert target["name"] == resources["Deployment"]["metadata"]["name"]


def test_the_autoscaler_asks_for_what_the_adapter_offers(resources: dict[str, dict[str, Any]]) -> None:
    (rule,) = yaml.safe_load((FOLDER / "prometheus-adapter.yaml").read_text(encoding="utf-8"))["rules"]["custom"]
    (metric,) = resources["HorizontalPodAutoscaler"]["spec"]["metrics"]

    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
