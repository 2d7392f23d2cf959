"""What comes into the log, once each and nearly in the order of recording."""

from collections.abc import Iterator

from common.store.engine import Engine
from common.store.queries import Filters, LoggedRequest, Mark, last_recorded, recorded_after

_PAGE = 1000
_OVERLAP_S = 5.0  # read again each time: two recorders of one server do not commit in the order of their clocks


class Stream:
    """A reader that remembers how far it has come."""

    def __init__(self, engine: Engine, filters: Filters, *, start: float | None) -> None:
        """Begin.

        Args:
            engine: A log that is open for reading.
            filters: Which requests count.
            start: Recorded from then on, seconds since the epoch; None for what is not there yet.
        """
        self._engine = engine
        self._filters = filters
        if start is None:
            last = last_recorded(engine)
            self._since, self._seen = last.recorded_at, {last.request_id: last.recorded_at}
        else:
            self._since, self._seen = start, {}
        self._earliest = self._since

    def fresh(self) -> Iterator[LoggedRequest]:
        """Give what was recorded since the last time."""
        mark = Mark(self._since, "")
        while page := recorded_after(self._engine, mark, self._filters, limit=_PAGE):
            for request in page:
                if request.request_id not in self._seen:
                    self._seen[request.request_id] = request.recorded_at
                    yield request
            mark = Mark(page[-1].recorded_at, page[-1].request_id)
            if len(page) < _PAGE:
                break
        self._since = max(self._earliest, mark.recorded_at - _OVERLAP_S)
        self._seen = {request_id: at for request_id, at in self._seen.items() if at >= self._since}
