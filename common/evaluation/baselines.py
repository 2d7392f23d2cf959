"""Policies that only an evaluation can play: the oracle sees the labels, the bandit learns while it plays."""

from dataclasses import dataclass

import numpy as np

from common.evaluation.simulation import Numbers, Routes, cost_table, routes_of
from common.evaluation.trace import Trace
from common.routing.cost import CostModel
from common.routing.evidence import confidence
from common.types import Depths


def oracle(trace: Trace, depths: Depths, cost: CostModel) -> Routes:
    """Take the cheapest way to a right answer; the cheapest of all where no exit is right."""
    table = cost_table(trace.exits, depths, cost)  # [3, E]
    is_right = trace.predictions() == trace.labels  # [E, N]
    is_right |= ~is_right.any(axis=0)
    prices = np.where(is_right[None], table[:, :, None], np.inf)  # [3, E, N]
    cheapest = prices.reshape(-1, len(trace)).argmin(axis=0)
    entries, exits = np.divmod(cheapest, len(trace.exits))
    return routes_of(trace, entries, exits)


@dataclass(frozen=True, slots=True, kw_only=True)
class BanditState:
    """How often each arm was played, and its mean reward so far."""

    plays: Numbers  # [K]
    rewards: Numbers  # [K]


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitEE:
    """UCB1 over split points (Bajpai et al. 2023): run to the arm's layer, answer if confident, else run to the end.

    Reward as in the published code: the confidence of whichever exit answers, less ``per_layer`` for each layer up to
    the arm, less ``offload`` where the last exit had to answer for it.
    """

    layers: tuple[int, ...]  # of the arms; the last one is the whole backbone
    threshold: float
    per_layer: float = 0.1
    offload: float = 0.5  # five layers, the ratio of ``paper``
    exploration: float = 1.0

    def start(self) -> BanditState:
        """Know nothing."""
        return BanditState(plays=np.zeros(len(self.layers)), rewards=np.zeros(len(self.layers)))

    def choose(self, state: BanditState) -> int:
        """Play every arm once, then the one with the largest upper confidence bound."""
        if (state.plays == 0).any():
            return int((state.plays == 0).argmax())
        bonus = self.exploration * np.sqrt(np.log(state.plays.sum()) / state.plays)
        return int((state.rewards + bonus).argmax())

    def play(self, state: BanditState, confidences: Numbers) -> tuple[int, BanditState]:
        """Choose an arm for one sample with confidences [K]; gives the exit that answers, and what was learned."""
        arm, last = self.choose(state), len(self.layers) - 1
        is_offloaded = arm < last and confidences[arm] < self.threshold
        exit_ = last if is_offloaded else arm
        reward = float(confidences[exit_]) - self.per_layer * self.layers[arm] - self.offload * is_offloaded
        return exit_, _learned(state, arm, reward)


def splitee(bandit: SplitEE, trace: Trace) -> Routes:
    """Let the bandit play a trace once, in its order; all starts on the device."""
    state, exits = bandit.start(), np.zeros(len(trace), np.intp)
    for sample, confidences in enumerate(confidence(trace.probabilities()).T):
        exits[sample], state = bandit.play(state, confidences)
    return routes_of(trace, np.zeros(len(trace), np.intp), exits)


def _learned(state: BanditState, arm: int, reward: float) -> BanditState:
    plays, rewards = state.plays.copy(), state.rewards.copy()
    plays[arm] += 1
    rewards[arm] += (reward - rewards[arm]) / plays[arm]
    return BanditState(plays=plays, rewards=rewards)
