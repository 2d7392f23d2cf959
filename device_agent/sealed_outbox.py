"""An outbox whose texts and records are encrypted on their way to the disk."""

from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from common.store.promises import Contents, Kept, Promised
from common.store.vault import Vault
from device_agent.outbox import Outbox, Release


class SealedOutbox:
    """Seals what goes into another outbox, and opens what a former process left there (see ``Outbox``)."""

    def __init__(self, inner: Outbox, vault: Vault) -> None:
        """Open what waits.

        Raises:
            StoreError: It is of another key, or altered.
        """
        self.counters: Counter[str] = inner.counters
        self._inner = inner
        self._vault = vault
        found = inner.contents
        self.contents = Contents(
            unanswered=tuple(_through(vault.open_text, one) for one in found.unanswered),
            unrecorded=tuple(self._opened(one) for one in found.unrecorded),
            recorded=tuple(self._opened(one) for one in found.recorded),
        )

    def check(self) -> None:
        """Say whether a request could be kept."""
        self._inner.check()

    def accept(self, promised: Promised) -> None:
        """Keep a request that is about to leave the device."""
        self._inner.accept(_through(self._vault.seal_text, promised))

    def finish(self, promised: Promised, record: bytes, release: Release) -> None:
        """Keep the record in the request's place."""
        self._inner.finish(promised, self._vault.seal(record, promised.request_id), release)

    def forget(self, request_ids: Sequence[str]) -> None:
        """Drop what the recorder has."""
        self._inner.forget(request_ids)

    def refuse(self, request_id: str, reason: str) -> None:
        """Set aside a record that the recorder will not take."""
        self._inner.refuse(request_id, reason)

    def _opened(self, kept: Kept) -> Kept:
        return msgspec.structs.replace(kept, record=self._vault.open(kept.record, kept.request_id))


def _through(step: Callable[[str | None, str], str | None], promised: Promised) -> Promised:
    """Seal or open what the application said."""
    changed = {name: step(getattr(promised, name), promised.request_id) for name in ("text", "pair", "true_label")}
    return msgspec.structs.replace(promised, **changed)
