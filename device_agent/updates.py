"""A device's part in a rollout: fetch, load beside the old model, switch between requests, and go back if it must.

The disk is written before the switch to a bundle and after the switch away from one, so that whatever a process dies
of, the next one begins with a bundle that is whole.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from common.config.settings import DeviceSettings
from common.errors import ArtifactError, ConfigError
from common.evaluation.exits import expected_exits
from common.model.bundle import Bundle, Gate, open_bundle
from common.model.rollout import Release, Rollout
from common.model.shelf import Choice, Shelf
from common.service.presence import Standing
from common.service.steering import OperatingPoints
from common.service.updates.fetching import Fetcher
from common.types import Answer
from device_agent.model import DeviceModel, load_model
from device_agent.surroundings import Surroundings
from device_agent.trial import Trial

_LOGGER = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class DeviceUpdates:
    """Follows the rollout on the updates' thread; ``note`` may be called from any."""

    node: str
    settings: DeviceSettings
    shelf: Shelf
    fetcher: Fetcher
    gate: Gate  # for a bundle that is tried
    settle: Callable[[Bundle], None]  # tells the node's own gate that there is no way back
    surroundings: Surroundings
    standing: Standing
    announce: Callable[[], None]
    is_connected: Callable[[], bool]
    model: DeviceModel  # in use
    switch: Callable[[DeviceModel], None]
    points: OperatingPoints = field(default_factory=OperatingPoints)
    wake: Callable[[], None] = lambda: None
    _former: DeviceModel | None = None
    _ready: DeviceModel | None = None  # loaded, while other tiers do not serve it yet
    _is_waiting: bool = False
    _trial: Trial | None = field(default=None)

    def resume(self) -> None:
        """Go on with a trial that the former process began."""
        if self.shelf.choice.is_on_trial:
            self._watch(self._bundle(self.shelf.choice.current))

    def note(self, answer: Answer) -> None:
        """Show an answer to the trial, if one is going on."""
        trial = self._trial
        if trial is not None:
            trial.note(answer, is_connected=self.is_connected())

    def surroundings_changed(self) -> None:
        """Look again whether the other tiers are ready."""
        if self._is_waiting:
            self.wake()

    def follow(self, rollout: Rollout, is_wanted: Callable[[], bool]) -> None:
        """Run what the rollout wants of this device (see ``Follower``)."""
        if self.shelf.choice.rollout != rollout:
            self.shelf.choose(msgspec.structs.replace(self.shelf.choice, rollout=rollout))
        self._end_trial()
        self._is_waiting = False
        for target in rollout.for_device(self.node):
            is_refused = target is not None and self.shelf.choice.refuses(target)
            if not is_refused and self._take(target, is_wanted):
                break
        choice = self.shelf.choice
        kept = {release.revision for release in rollout.releases} | {choice.current, choice.previous}
        self.shelf.keep_only({revision for revision in kept if revision is not None})
        if rollout.stable is not None and rollout.stable.revision == choice.current and not choice.is_on_trial:
            self.settle(self._bundle(choice.current))

    def trouble(self, words: str) -> None:
        """Say how it stands."""
        if words != self.standing.update:
            self.standing.update = words
            self.announce()

    def _take(self, target: Release | None, is_wanted: Callable[[], bool]) -> bool:
        """Come to run a release, or the bundle of the settings; False when it is refused."""
        if (target.revision if target else None) == self.shelf.choice.current:
            self._tell()
            return True
        try:
            model = self._prepared(target, is_wanted)
        except (ArtifactError, ConfigError) as exc:
            self._refuse(target, exc)
            return False
        revision = model.manifest.revision
        if lagging := self.surroundings.lagging(revision):
            self._is_waiting = True
            self.trouble(f"waiting: {', '.join(lagging)} must serve {revision} first")
        else:
            self._switch(target, model)
        return True

    def _prepared(self, target: Release | None, is_wanted: Callable[[], bool]) -> DeviceModel:
        if target is None:
            return load_model(open_bundle(self.settings.model.bundle, self.gate), self.settings, self.points)
        if self._ready is None or self._ready.manifest.revision != target.revision:
            self.trouble(f"fetching {target.revision}")
            self.fetcher.fetch(
                target,
                self.gate,
                is_wanted=is_wanted,
                tell=lambda share: self.trouble(f"fetching {target.revision}: {share:.0%}"),
            )
            self._ready = load_model(self._bundle(target.revision), self.settings, self.points)
        return self._ready

    def _switch(self, target: Release | None, model: DeviceModel) -> None:
        choice = self.shelf.choice
        revision = target.revision if target else None
        is_new = revision is not None and revision not in choice.proven
        changes = {"current": revision, "previous": choice.current, "is_on_trial": is_new, "starts": 0}
        self.shelf.choose(msgspec.structs.replace(choice, **changes))
        self._former, self._ready, self._trial = self.model, None, None
        if is_new:
            self._watch(self._bundle(revision))
        self._use(model)
        _LOGGER.info("revision %s answers from now on%s", model.manifest.revision, ", on trial" if is_new else "")
        self._tell()

    def _watch(self, bundle: Bundle) -> None:
        expected = expected_exits(bundle, self.points.steer(bundle, self.settings.routing.policy))
        self._trial = Trial(bundle.revision, expected, self.settings.updates, on_end=self.wake)

    def _end_trial(self) -> None:
        trial, choice = self._trial, self.shelf.choice
        if trial is None or trial.state == "watching":
            return
        if trial.state == "failed":
            _LOGGER.error("revision %s is left again: %s", trial.revision, trial.reason)
            self._use(self._former or load_model(self._bundle(choice.previous), self.settings, self.points))
            self.shelf.choose(went_back(choice, trial.reason))
        else:
            _LOGGER.info("revision %s has proven itself over %d answers", trial.revision, trial.watched)
            proven = (*choice.proven[-7:], trial.revision)
            self.shelf.choose(msgspec.structs.replace(choice, is_on_trial=False, proven=proven))
        self._trial = self._former = None

    def _use(self, model: DeviceModel) -> None:
        self.model = model
        self.switch(model)
        self.standing.revision = model.manifest.revision

    def _bundle(self, revision: str | None) -> Bundle:
        if revision is None:
            return open_bundle(self.settings.model.bundle, self.gate)
        return Bundle(self.shelf.bundle(revision), self.gate)

    def _refuse(self, target: Release | None, exc: Exception) -> None:
        name = target.revision if target else "of the settings"
        _LOGGER.error("bundle %s is refused: %s", name, exc)
        self.trouble(f"refused {name}: {exc}")
        if target is not None:
            self.shelf.choose(self.shelf.choice.refusing(target.publication, str(exc)))

    def _tell(self) -> None:
        choice = self.shelf.choice
        refused = [one for one in choice.rollout.for_device(self.node) if one and choice.refuses(one)]
        if refused:
            self.trouble(f"refused {refused[0].revision}: {choice.why_refused(refused[0])}")
        elif self._trial is not None:
            self.trouble(f"on trial: {self._trial.revision}, over {self.settings.updates.window} answers")
        else:
            self.trouble("")
        self.announce()


def went_back(choice: Choice, reason: str) -> Choice:
    """Leave the current bundle for the one before it, for good."""
    refusing = choice if choice.current is None else choice.refusing(choice.current, reason)
    changes = {"current": choice.previous, "previous": None, "is_on_trial": False, "starts": 0}
    return msgspec.structs.replace(refusing, **changes)
