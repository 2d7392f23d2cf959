"""Dashboard and alerts ask in valid PromQL, and only for metrics and labels that exist."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

promql = pytest.importorskip("promql_parser")
pytest.importorskip("prometheus_client", reason="pip install 'dimee[metrics]'")

from common.service.telemetry.prometheus import Exposition, PrometheusMeter  # noqa: E402 - after the skip
from common.service.telemetry.vitals import Vitals  # noqa: E402
from common.types import Answer, Hop, Reason, Tier  # noqa: E402

INFRA = Path(__file__).parents[2] / "infra"
DASHBOARD = json.loads((INFRA / "grafana" / "dashboard.json").read_text(encoding="utf-8"))
ALERTS = yaml.safe_load((INFRA / "grafana" / "alerts.yaml").read_text(encoding="utf-8"))
ADAPTER = yaml.safe_load((INFRA / "kubernetes" / "prometheus-adapter.yaml").read_text(encoding="utf-8"))
FROM_PROMETHEUS = {"up": {"job", "instance"}}
TARGET_LABELS = {"job", "instance", "pod", "namespace"}


def exposed() -> dict[str, set[str]]:
    """Give the labels of every series name that a process exposes."""
    hop = Hop(tier=Tier.EDGE, node="edge-1", start=0, end=2, queue_ms=1.0, compute_ms=3.0)
    answer = Answer(
        request_id="r",
        device_id="pi-1",
        model_revision="abc",
        reason=Reason.CONFIDENT,
        label="x",
        confidence=0.9,
        exit_layer=2,
        exit_tier=Tier.EDGE,
        entry_tier=Tier.DEVICE,
        total_ms=12.0,
        hops=(hop,),
    )
    vitals = Vitals(tier=Tier.EDGE, node="edge-1", model_revision="abc", exit_layers=frozenset({2}))
    vitals.counters["transport"] = lambda: {"sent": 1}
    vitals.gauges["transport"] = lambda: {"connected": 1.0}
    meter = PrometheusMeter(frozenset({2}))
    meter.hop(hop, has_answered=True)
    meter.answer(answer)
    series: dict[str, set[str]] = {}
    for line in Exposition(vitals, meter.registry).text().decode().splitlines():
        found = re.match(r"(\w+)(?:\{(.*)\})? ", line)
        if found and not line.startswith("#"):
            series.setdefault(found[1], set()).update(re.findall(r'(\w+)="', found[2] or ""))
    return series


def dashboard_queries() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield target["expr"].replace("$__rate_interval", "5m").replace("$job", "dimee")


def queries() -> list[str]:
    rules = [rule for group in ALERTS["groups"] for rule in group["rules"]]
    custom = ADAPTER["rules"]["custom"]
    asked = [rule["metricsQuery"].replace("<<.LabelMatchers>>", 'pod="a"') for rule in custom]
    return [*dashboard_queries(), *(rule["expr"] for rule in rules), *(rule["seriesQuery"] for rule in custom), *asked]


@pytest.mark.parametrize("query", queries())
def test_every_query_is_promql_over_metrics_that_exist(query: str) -> None:
    promql.parse(query)

    known = exposed() | FROM_PROMETHEUS
    for name, matchers in re.findall(r"\b([a-z_:]+)\{([^}]*)\}", query):
        assert name in known, name
        assert set(re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"', matchers)) <= known[name] | TARGET_LABELS, query
    mentioned = set(re.findall(r"\b(?:dimee|process)_[a-z_]+", query)) - {"dimee_inbox_messages"}
    assert mentioned <= known.keys()


def test_every_alert_says_what_to_do() -> None:
    for group in ALERTS["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in {"critical", "warning"}
            assert rule["annotations"].keys() == {"summary", "remedy"}
            assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))


def test_panels_do_not_overlap_and_are_explained() -> None:
    cells: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert panel["description"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in cells, (panel["title"], cells.get((x, y)))
                cells[x, y] = panel["title"]
    assert max(x for x, _ in cells) < 24
    ids: list[Any] = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
