"""What a plan may send over the thin links of a bundle, how large it is, and what accuracy it costs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from common.engine.ladder import message_bytes
from common.engine.thinness import Thinness
from common.errors import ConfigError
from common.evaluation.simulation import Numbers
from common.evaluation.thinning import ways
from common.model.bundle import Bundle
from common.model.thin_links import ThinLink, open_thin_links
from common.routing.evidence import Indices


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """One way to send hidden states over a split point."""

    thinness: Thinness
    sizes: Numbers  # [N] bytes of a message
    lost: float = 0.0  # share of right answers, when everything travels so


Sendings = Mapping[int, list[Sending]]  # by split point


class _Score(msgspec.Struct, frozen=True):
    drop_points: float


class _Measured(msgspec.Struct, frozen=True):
    """As much as is needed of what ``dimee evaluate --codec all --json`` prints."""

    codecs: dict[str, dict[int, _Score]]
    bundle: dict[str, str]


def recorded(bundle: Bundle, tokens: Indices) -> Sendings:
    """Offer every budget as ``graded``, with the loss that the bundle records; it records no other codec or share."""
    reference = bundle.manifest.exits[-1].accuracy
    found = {}
    for point, link in open_thin_links(bundle).items():
        losses = {Thinness(codec="graded", budget=rung.budget): reference - rung.accuracy for rung in link.entry.rungs}
        found[point] = _sendings(losses, link, tokens, bundle.manifest.hidden_size)
    return found


def measured(bundle: Bundle, tokens: Indices, file: Path) -> Sendings:
    """Offer all codecs, budgets and shares of tokens that ``dimee evaluate --codec all --json`` has measured.

    Raises:
        ConfigError: The file cannot be read, or is of another bundle.
    """
    try:
        document = msgspec.json.decode(file.read_bytes(), type=_Measured)
    except OSError as exc:
        raise ConfigError(f"--codecs {file} cannot be read: {exc.strerror}") from exc
    except msgspec.DecodeError as exc:
        raise ConfigError(f"--codecs {file} is not what 'dimee evaluate --codec all --json' prints: {exc}") from exc
    revision = document.bundle.get("revision")
    if revision != bundle.revision:
        raise ConfigError(f"--codecs {file} is of revision {revision}, the bundle is {bundle.revision}")
    links = open_thin_links(bundle)
    offered = {name: thinness for name, thinness in ways(links).items() if name in document.codecs}
    found = {}
    for point, link in links.items():
        losses = {
            thinness: document.codecs[name][point].drop_points / 100
            for name, thinness in offered.items()
            if point in document.codecs[name]
        }
        found[point] = _sendings(losses, link, tokens, bundle.manifest.hidden_size)
    return found


def _sendings(losses: Mapping[Thinness, float], link: ThinLink, tokens: Indices, width: int) -> list[Sending]:
    """Keep what no other way beats in bytes and loss, the thinnest last."""
    every = [
        Sending(
            thinness=thinness,
            sizes=np.array([message_bytes(thinness, int(count), width, link) for count in tokens], np.float64),
            lost=max(0.0, lost),
        )
        for thinness, lost in losses.items()
    ]
    found: list[Sending] = []
    for sending in sorted(every, key=lambda each: (each.sizes.mean(), each.lost)):
        if not found or sending.lost < found[-1].lost:
            found.append(sending)
    return found[::-1]
