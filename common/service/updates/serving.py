"""An edge's or a cloud worker's part in a rollout: serve every release that is named, so that devices may switch."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from common.errors import ArtifactError, ConfigError
from common.model.bundle import Bundle, Gate
from common.model.rollout import Release, Rollout
from common.model.shelf import Shelf
from common.service.presence import Standing
from common.service.served import ServedModel
from common.service.updates.fetching import Fetcher
from common.service.worker import TierWorker

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedReleases:
    """Loads releases beside the bundle of the settings; at most three, as a rollout names no more."""

    worker: TierWorker
    own: str  # revision of the bundle that was opened first; always served
    shelf: Shelf
    fetcher: Fetcher
    gate: Gate  # for a bundle that is not settled on
    load: Callable[[Bundle], ServedModel]
    settle: Callable[[Bundle], None]  # tells the node's own gate that there is no way back
    standing: Standing
    announce: Callable[[], None]

    def load_known(self) -> None:
        """Serve what is on the shelf from the start."""
        for release in self.shelf.choice.rollout.releases:
            if self.shelf.has(release) and not self.shelf.choice.refuses(release):
                self._serve(release)
        self._tell(self.shelf.choice.rollout)

    def follow(self, rollout: Rollout, is_wanted: Callable[[], bool]) -> None:
        """Fetch and serve what is named, drop what is not (see ``Follower``)."""
        self.shelf.choose(msgspec.structs.replace(self.shelf.choice, rollout=rollout))
        for release in rollout.releases:
            if release.revision not in self.worker.models and not self.shelf.choice.refuses(release):
                self._fetch(release, is_wanted)
                self._tell(rollout)
        named = {release.revision for release in rollout.releases}
        for revision in {model.revision for model in self.worker.models.values()} - named - {self.own}:
            self.worker.drop(revision)
        self.shelf.keep_only(named)
        if rollout.stable is not None and self.shelf.has(rollout.stable):
            self.settle(Bundle(self.shelf.bundle(rollout.stable.revision), self.gate))
        self._tell(rollout)

    def trouble(self, words: str) -> None:
        """Say why it does not go on."""
        self.standing.update = words
        self.announce()

    def _fetch(self, release: Release, is_wanted: Callable[[], bool]) -> None:
        self.trouble(f"fetching {release.revision}")
        try:
            self.fetcher.fetch(release, self.gate, is_wanted=is_wanted, tell=lambda _: None)
            self._serve(release)
        except ArtifactError as exc:
            self._refuse(release, exc)

    def _serve(self, release: Release) -> None:
        try:
            self.worker.serve(self.load(Bundle(self.shelf.bundle(release.revision), self.gate)))
        except (ArtifactError, ConfigError) as exc:
            self._refuse(release, exc)
        else:
            _LOGGER.info("revision %s is served, too", release.revision)

    def _refuse(self, release: Release, exc: Exception) -> None:
        _LOGGER.error("bundle %s is refused: %s", release.revision, exc)
        self.shelf.choose(self.shelf.choice.refusing(release.publication, str(exc)))

    def _tell(self, rollout: Rollout) -> None:
        models, choice = self.worker.models, self.shelf.choice
        stable = rollout.stable.revision if rollout.stable else self.own
        self.standing.revision = stable if stable in models else self.own
        self.standing.revisions = (self.standing.revision, *(set(models) - {self.standing.revision}))
        refused = [release for release in rollout.releases if choice.refuses(release)]
        self.standing.update = f"refused {refused[0].revision}: {choice.why_refused(refused[0])}" if refused else ""
        self.announce()
