"""Whether it pays to choose the entry tier before any layer: a learned entry decision against starting on the device.

``python benchmarks/entry_router.py --data SST-2/dev.tsv [--bundle DIR]`` fits on the bundle's kept-back split who the
device would not answer, from the mean embedding and the length (a learned metric), and by the votes of the nearest
kept-back inputs (every input its own centroid). Thresholds are chosen on the kept-back split for each price of a device
layer; costs are of the labelled file, in layers of the edge, every other constant as in ``paper``.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.engine.choice import choose_policy
from common.evaluation.labelled import trace_file
from common.evaluation.simulation import Numbers, cost_table, simulate
from common.evaluation.trace import Trace, read_calibration
from common.model.bundle import SHIPPED, Bundle, open_bundle
from common.routing.cost import CostModel
from common.routing.fit_router import fit_entry_head
from common.routing.router import entry_features

_PRICES = (1, 2, 3, 4, 6, 8)  # of a device layer, in edge layers
_NEIGHBOURS = 50
_DEVICE, _EDGE = 0, 1  # entry tiers


def main() -> None:
    """Print how well the entry is foreseen, and what that saves at each price."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bundle", default=SHIPPED)
    options = parser.parse_args()
    bundle = open_bundle(options.bundle)
    known, asked = read_calibration(bundle), trace_file(bundle, options.data)
    exits_known, exits = _exits(bundle, known), _exits(bundle, asked)
    leaves, leaves_known = exits > 0, exits_known > 0
    head = fit_entry_head(known.entry_evidence(), leaves_known.astype(np.float64))
    scores_known, scores = (
        head.score(entry_features(trace.entry_evidence(), head.projection.values)) for trace in (known, asked)
    )
    votes = _votes(known, asked, leaves_known)
    print(f"{bundle.manifest.name} {bundle.revision}: the device does not answer {leaves.mean():.1%}")  # noqa: T201
    print(f"AUROC of foreseeing it: learned metric {_auroc(scores, leaves):.3f}, votes {_auroc(votes, leaves):.3f}")  # noqa: T201
    print("device layer  from device  from edge  learned entry  skips  ideal")  # noqa: T201
    for price in _PRICES:
        table = cost_table(asked.exits, bundle.manifest.depths, CostModel(name="swept", device_layer=price))
        best = min(
            [-np.inf, *np.quantile(scores_known, np.linspace(0, 1, 41)), np.inf],
            key=lambda threshold, table=table: _costs(table, exits_known, scores_known > threshold).mean(),  # type: ignore[misc]
        )
        near, far = (_costs(table, exits, np.full(len(exits), skip)) for skip in (False, True))
        found = _costs(table, exits, scores > best).mean()
        ideal = np.minimum(near, far).mean()
        row = f"{price:12d}  {near.mean():11.2f}  {far.mean():9.2f}  {found:13.2f}  {(scores > best).mean():5.0%}"
        print(f"{row}  {ideal:.2f}")  # noqa: T201


def _exits(bundle: Bundle, trace: Trace) -> NDArray[np.intp]:
    return simulate(choose_policy(bundle), trace, bundle.manifest.depths).exits


def _costs(table: Numbers, exits: NDArray[np.intp], skips: NDArray[np.bool_]) -> Numbers:
    """Cost [N] of the routes; who skips the device is answered by the edge at the soonest."""
    costs: Numbers = table[np.where(skips, _EDGE, _DEVICE), np.where(skips, np.maximum(exits, _EDGE), exits)]
    return costs


def _votes(known: Trace, asked: Trace, leaves: NDArray[np.bool_]) -> Numbers:
    """Share of an input's nearest kept-back neighbours that the device does not answer."""
    mean, scale = known.features.mean(axis=0), known.features.std(axis=0) + 1e-6
    near, far = ((trace.features - mean) / scale for trace in (known, asked))
    near, far = (points / np.linalg.norm(points, axis=1, keepdims=True) for points in (near, far))
    closest = np.argpartition(-(far @ near.T), _NEIGHBOURS, axis=1)[:, :_NEIGHBOURS]
    votes: Numbers = leaves[closest].mean(axis=1)
    return votes


def _auroc(scores: NDArray[np.floating], is_positive: NDArray[np.bool_]) -> float:
    """Chance that a positive scores above a negative; ties count half."""
    positive, negative = scores[is_positive][:, None], scores[~is_positive][None]
    return float(((positive > negative) + 0.5 * (positive == negative)).mean())


if __name__ == "__main__":
    main()
