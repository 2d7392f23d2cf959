"""Which bundle a device begins with, the one it settled on or tries, else the one before; and what keeps it there."""

import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from common.config.settings import DeviceSettings
from common.errors import ArtifactError, StoreError
from common.model.bundle import Bundle, open_bundle
from common.model.manifest import MANIFEST_FILE
from common.model.shelf import Choice, Shelf
from common.service.presence import Standing
from common.service.steering import OperatingPoints
from common.service.trust import bundle_gate, trial_gate
from common.service.updates.fetching import Fetcher
from common.service.updates.updater import Updater
from common.transport.contract import Transport
from device_agent.agent import Agent
from device_agent.model import DeviceModel
from device_agent.trial import ShowingMeter
from device_agent.updates import DeviceUpdates, went_back

_LOGGER = logging.getLogger(__name__)
_HISTORY = "history"  # a copy of model.release_file, for bundles that are tried
_MAX_STARTS = 3  # of the process during one trial: a bundle that brings it down must not do so for ever


def open_first(settings: DeviceSettings) -> Bundle:
    """Open a bundle that is whole and believed.

    Raises:
        ConfigError: The bundle of the settings does not exist.
        ArtifactError: No bundle is left.
        StoreError: The folder of published bundles cannot be made.
    """
    if settings.updates.folder is not None:
        shelf = Shelf(Path(settings.updates.folder))
        trial = trial_gate(settings.model, shelf.folder / _HISTORY)
        choice = _counted(shelf.choice)
        while choice.current is not None:
            try:
                bundle = Bundle(shelf.bundle(choice.current), trial)
                bundle.verify()
            except ArtifactError as exc:
                _LOGGER.error("bundle %s is left: %s", choice.current, exc)  # noqa: TRY400 - the message says it all
                choice = went_back(choice, str(exc))
            else:
                _settle_on(shelf, choice)
                return bundle
        _settle_on(shelf, choice)
    return open_bundle(settings.model.bundle, bundle_gate(settings.model))


def follow_rollout(
    settings: DeviceSettings,
    agent: Agent,
    model: DeviceModel,
    transport: Transport,
    *,
    standing: Standing,
    tell: Callable[[], None],
    meter: ShowingMeter,
    points: OperatingPoints,
) -> Updater:
    """Give the thread that keeps an agent at what the site's rollout says; statuses are to be subscribed before.

    Args:
        settings: This device; they name a folder for published bundles.
        agent: Whose model is switched.
        model: What it began with.
        transport: Brings rollout and bundles, in plain.
        standing: Where it is noted what the device runs.
        tell: Publishes that.
        meter: Sees every answer.
        points: What the policies of all models follow.
    """
    shelf, gate = Shelf(Path(str(settings.updates.folder))), bundle_gate(settings.model)
    updates = DeviceUpdates(
        node=agent.device_id,
        settings=settings,
        shelf=shelf,
        fetcher=Fetcher(transport, agent.topics, shelf),
        gate=trial_gate(settings.model, shelf.folder / _HISTORY),
        settle=lambda bundle: gate.check(bundle.directory, (bundle.directory / MANIFEST_FILE).read_bytes()),
        surroundings=agent.surroundings,
        standing=standing,
        announce=tell,
        is_connected=lambda: transport.is_connected,
        model=model,
        switch=agent.switch,
        points=points,
    )
    updater = Updater(transport, agent.topics, updates)
    updates.wake = updater.wake
    agent.surroundings.on_change = updates.surroundings_changed
    meter.show = updates.note
    updates.resume()
    return updater


def _counted(choice: Choice) -> Choice:
    """Count this start, if it is one during a trial."""
    if not choice.is_on_trial:
        return choice
    if choice.starts >= _MAX_STARTS:
        return went_back(choice, f"the process started {choice.starts} times without finishing its trial")
    return msgspec.structs.replace(choice, starts=choice.starts + 1)


def _settle_on(shelf: Shelf, choice: Choice) -> None:
    if choice == shelf.choice:
        return
    try:
        shelf.choose(choice)
    except StoreError as exc:  # a full disk must not keep a device from answering
        _LOGGER.warning("%s", exc)
