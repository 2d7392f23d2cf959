"""How thin hidden states leave: codec, dimensions per token and share of the tokens, fixed or chosen per message."""

from dataclasses import dataclass
from typing import Protocol

from common.errors import ConfigError
from common.model.thin_links import ThinLinks
from common.wire.activations import codec


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinness:
    """What is left of hidden states [S, H] on the wire."""

    codec: str
    budget: int = 0  # dimensions per token; 0 is all of them
    tokens: float = 1.0  # share of the tokens


class Chooser(Protocol):
    """Decides how thin a message is."""

    def choose(self, split_point: int, tokens: int, budget_ms: float) -> Thinness:
        """Choose for hidden states of so many tokens at a split point, with so much time left."""
        ...


class Always:
    """The same thinness for every message over a thin link; all dimensions and tokens where there is no link."""

    def __init__(self, thinness: Thinness, links: ThinLinks) -> None:
        """Fix a thinness.

        Raises:
            ConfigError: No link of the bundle has the budget, or there is no link to find the telling tokens.
        """
        codec(thinness.codec)
        check_thinness(thinness, links)
        self._thinness = thinness
        self._plain = Thinness(codec=thinness.codec)
        self._links = links

    def choose(self, split_point: int, tokens: int, budget_ms: float) -> Thinness:  # noqa: ARG002 - the protocol's
        """Give what was fixed."""
        return self._thinness if split_point in self._links else self._plain


def check_thinness(thinness: Thinness, links: ThinLinks) -> None:
    """Refuse a thinness that a bundle was not trained for.

    Raises:
        ConfigError: No link of the bundle has the budget, or the bundle has no link at all.
    """
    if (thinness.budget or thinness.tokens < 1) and not links:
        raise ConfigError(
            f"link.budget {thinness.budget}, link.tokens {thinness.tokens:g}: the bundle has no thin links; "
            "make them with 'dimee model compress'"
        )
    for split_point, link in links.items():
        if thinness.budget and thinness.budget not in link.budgets:
            raise ConfigError(
                f"link.budget: {thinness.budget} is none of the bundle's budgets at split point {split_point}: "
                f"{list(link.budgets)}, nor 0 for all dimensions"
            )
