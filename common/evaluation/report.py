"""The paper's figures and the table, as PNG files and one HTML page that needs nothing else."""

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.evaluation import families, figures
from common.evaluation.baselines import oracle
from common.evaluation.comparison import Comparison
from common.evaluation.page import named, page, picture, table
from common.evaluation.scoring import Setting
from common.evaluation.simulation import Routes, route_costs, simulate
from common.evaluation.table import fit_router, fit_table
from common.evaluation.tables import policy_columns, policy_rows
from common.evaluation.trace import Trace
from common.routing.fitting import fit_pools
from common.routing.policies import AnyPolicy

_FACTORS = np.linspace(0.25, 4, 16)
_SHOWN = ("confidence-cascade", "dimee", "dimee-pure", "random", "oracle")
_ALPHA = 0.9
_MAX_EMBEDDED = 1000  # t-SNE of more takes a minute on two cores


def write_report(
    directory: Path, found: Comparison, trace: Trace, calibration: Trace, *, title: str, origin: Mapping[str, Any]
) -> list[Path]:
    """Draw every figure and the page; gives the files.

    Args:
        directory: Made if missing; files of the same names are replaced.
        found: The scores to show.
        trace: The reported data.
        calibration: The kept-back split, for the pools and the routers' curves.
        title: Heading of the page.
        origin: Bundle and data, as the JSON names them.
    """
    directory.mkdir(parents=True, exist_ok=True)
    setting, policies = found.setting, fit_table(calibration, found.setting).policies
    pictures = {
        "tiers.png": "Accuracy, answering tiers and cost of every policy. Bars at the left start near the worst "
        "policy, not at zero.",
        "trade-off.png": "Accuracy against cost. Lines: one family of cascades over all thresholds. Points: the "
        "operating points of the table, with the 95 % interval of their drop. Up and to the left is better.",
        "constants.png": "Cost reduction as one constant of the cost model varies and the others stay; the thresholds "
        "stay too. It shows how much of a percentage is the constants' doing.",
        "pools.png": "The three pools of DIMEE on the kept-back split. Pools that overlap here cannot be told apart by "
        "a nearest centroid.",
    }
    figures.draw_tiers(found.policies, directory / "tiers.png")
    figures.draw_trade_off(found.policies, _curves(trace, calibration, setting), directory / "trade-off.png")
    figures.draw_constants(_vary_constants(trace, policies, setting), directory / "constants.png")
    figures.draw_pools(*_embed_pools(calibration, setting), directory / "pools.png")
    written = directory / "report.html"
    shown = {directory / name: text for name, text in pictures.items()}
    written.write_text(_page(found, title, origin, shown), encoding="utf-8")
    return [*shown, written]


def _curves(trace: Trace, calibration: Trace, setting: Setting) -> dict[str, NDArray[Any]]:
    kinds = (families.confidence_family(), families.router_family(fit_router(calibration)))
    curves = {}
    for family in kinds:
        chosen = families.path(families.prepare(family, calibration, setting.depths, setting.cost))
        sweep = families.prepare(family, trace, setting.depths, setting.cost)
        rows = []
        for point in chosen:
            exits = sweep.route(point.thresholds)
            rows.append((sweep.costs[exits].mean(), sweep.is_right[exits, np.arange(len(trace))].mean()))
        curves[family.name] = np.array(rows)
    return curves


def _vary_constants(
    trace: Trace, policies: Mapping[str, AnyPolicy], setting: Setting
) -> dict[str, dict[str, NDArray[Any]]]:
    routes = {name: simulate(policies[name], trace, setting.depths) for name in _SHOWN if name in policies}
    varied: dict[str, dict[str, NDArray[Any]]] = {}
    for constant in ("device_layer", "device_edge", "device_cloud", "edge_cloud"):
        curves: dict[str, list[tuple[float, float]]] = {name: [] for name in _SHOWN if name in {*routes, "oracle"}}
        for factor in _FACTORS:
            value = float(getattr(setting.cost, constant) * factor)
            cost = msgspec.structs.replace(setting.cost, **{constant: value})
            every: dict[str, Routes] = {**routes, "oracle": oracle(trace, setting.depths, cost)}
            for name, curve in curves.items():
                mean = float(route_costs(every[name], trace, setting.depths, cost).mean())
                curve.append((value, 1 - mean / cost.cloud_only(setting.depths)))
        varied[constant] = {name: np.array(curve) for name, curve in curves.items()}
    return varied


def _embed_pools(calibration: Trace, setting: Setting) -> tuple[NDArray[Any], NDArray[np.intp]]:
    from sklearn.manifold import TSNE  # noqa: PLC0415 - seconds to import, needed by one picture

    rows = np.arange(min(len(calibration), _MAX_EMBEDDED))
    probabilities = calibration.probabilities()
    depths = setting.depths
    at_device, at_edge = (probabilities[calibration.exits.index(depth)] for depth in (depths.device, depths.edge))
    pools = fit_pools((at_device, at_edge), calibration.labels, _ALPHA)[rows]
    perplexity = max(2.0, min(30.0, len(rows) / 4))
    places = TSNE(perplexity=perplexity, random_state=0, init="pca").fit_transform(calibration.features[rows])
    return np.asarray(places), pools


def _page(found: Comparison, title: str, origin: Mapping[str, Any], pictures: Mapping[Path, str]) -> str:
    document = found.document()
    cost = document["cost"]
    constants = ", ".join(f"{name} {value:g}" for name, value in cost["constants"].items())
    left_out = "".join(f"<li>{html.escape(name)}: {html.escape(why)}</li>" for name, why in found.left_out.items())
    told = (
        f"<p>{named(origin)}; {found.samples:,} samples; default policy <b>{html.escape(found.default)}</b>.</p>"
        f"<p>Cost model <b>{html.escape(cost['model'])}</b>: {constants}. Cloud-only costs {cost['cloud_only']:g}; a "
        f"reduction is 1 - cost / cloud-only. A device holds the first {found.setting.depths.device} layers, the edge "
        f"{found.setting.depths.edge}, the cloud all {found.setting.depths.cloud}. Thresholds and routers were fitted "
        f"on the bundle's kept-back split, never on this data. Brackets: 95 % intervals by paired bootstrap.</p>"
    )
    parts = [
        told,
        table(policy_columns(found), policy_rows(found)),
        f"<p>Left out:</p><ul>{left_out}</ul>" if left_out else "",
        *(picture(file, text) for file, text in pictures.items()),
    ]
    return page(title, parts)
