"""Races between the device's own exit and another tier's: who came second is still logged, never answered.

A request is settled by the first; what the second says goes to the log as an addition to the row that is there.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from common.model.manifest import Manifest
from common.store.promises import Promised
from common.types import Race, Reason, Record, Tier
from device_agent.pending import Pending

_MOST = 1024  # settled requests whose loser may still speak
_HERE = (Reason.DEGRADED, Reason.FAILED)


@dataclass(slots=True)
class _Open:
    promised: Promised
    record: Record
    manifest: Manifest  # of the model that the request began with
    is_logged: bool = False
    race: Race | None = None  # came before the record was on its way


class Races:
    """Remembers what was settled lately; any thread may call."""

    def __init__(self, amend: Callable[[Promised, Record], None], said_here: Callable[[Pending], Race | None]) -> None:
        self._amend = amend
        self._said_here = said_here
        self._lock = threading.Lock()
        self._open: OrderedDict[str, _Open] = OrderedDict()  # oldest first

    def begin(self, pending: Pending, record: Record) -> Record:
        """Give the record with what is known of the loser, and wait for the rest; ``logged`` must follow."""
        is_won_here = record.answer.reason in _HERE
        if pending.message is None or not (is_won_here or pending.is_shadowed):
            return record
        with self._lock:  # what the shadow finds from now on comes by ``second``
            race = Race() if is_won_here else self._said_here(pending)
            known = msgspec.structs.replace(record, race=race)
            if race is None or race.loser_tier is None:
                self._open[pending.request_id] = _Open(pending.promised, known, pending.model.manifest)
                while len(self._open) > _MOST:
                    self._open.popitem(last=False)
        return known

    def logged(self, request_id: str) -> None:
        """Note that the record is on its way, so that an addition cannot overtake it."""
        with self._lock:
            entry = self._open.get(request_id)
            if entry is None:
                return
            entry.is_logged = True
            is_over = self._is_over(request_id, entry)
        if is_over:
            self._add(entry)

    def manifest_of(self, request_id: str) -> Manifest | None:
        """Give the model of a request that is open."""
        with self._lock:
            entry = self._open.get(request_id)
            return None if entry is None else entry.manifest

    def second(self, request_id: str, race: Race) -> None:
        """Take what the slower side says; of a request that is not open, or from the side that won, nothing."""
        with self._lock:
            entry = self._open.get(request_id)
            if entry is None or (race.loser_tier is Tier.DEVICE) == (entry.record.answer.reason in _HERE):
                return
            entry.race = entry.race or race
            is_over = self._is_over(request_id, entry)
        if is_over:
            self._add(entry)

    def _is_over(self, request_id: str, entry: _Open) -> bool:
        is_over = entry.is_logged and entry.race is not None
        if is_over:
            del self._open[request_id]
        return is_over

    def _add(self, entry: _Open) -> None:
        self._amend(entry.promised, msgspec.structs.replace(entry.record, race=entry.race))
