"""The receiving side of a tier: who may say what, and the grants to answer each request."""

import threading
from collections import OrderedDict

from common.certificates.names import Role
from common.channel.outgoing import FORWARDED, OWN
from common.channel.sessions import (
    SECRET_BYTES,
    SESSION_ID_BYTES,
    IncomingSession,
    ReplyGrant,
    SealError,
    SessionTable,
)
from common.errors import TransportError
from common.wire.codec import Heading, headings

_MAX_GRANTS = 16_384  # requests that may be answered at a time
RECORDS = ""  # the label of what answers records, and no single request


class Receiver:
    """Opens what comes to a tier and seals what answers it; safe to use from many threads."""

    def __init__(self, table: SessionTable) -> None:
        self._table = table
        self._grants: OrderedDict[tuple[str, str], ReplyGrant] = OrderedDict()  # by device and label
        self._lock = threading.Lock()

    def open(self, topic: str, payload: bytes) -> bytes:
        """Open a request or a record, and remember how to answer it.

        Raises:
            WireError: It does not hold, or its sender may not say it.
        """
        with self._lock:
            session, body = self._table.open(topic, payload)
            grant, plain = _split(body)
            self._note(session, headings(plain), grant)
            return plain

    def seal(self, device_id: str, topic: str, label: str, payload: bytes) -> bytes:
        """Seal a reply to a device: to one request, or where nothing came under its label, to its records.

        Raises:
            TransportError: Nothing sealed has come from it under this label.
        """
        used = label if (device_id, label) in self._grants else RECORDS
        return self.grant(device_id, used).seal(topic, used, payload)

    def grant(self, device_id: str, label: str) -> ReplyGrant:
        """Give what it takes to answer one exchange with a device.

        Raises:
            TransportError: Nothing sealed has come from it under this label.
        """
        with self._lock:
            found = self._grants.get((device_id, label))
        if found is None:
            raise TransportError(f"nothing sealed came from {device_id!r} to answer with {label!r}")
        return found

    def _note(self, session: IncomingSession, headings: tuple[Heading, ...], grant: ReplyGrant | None) -> None:
        peer, tags = session.peer, {heading.tag for heading in headings}
        device_ids = {heading.device_id for heading in headings}
        if peer.role is Role.DEVICE and grant is None and device_ids == {peer.name} and tags in ({"H"}, {"L"}):
            label = headings[0].request_id if tags == {"H"} else RECORDS
            self._remember(peer.name, label, session.grant(label))
        elif peer.role is Role.EDGE and grant is not None and tags == {"H"}:
            self._remember(headings[0].device_id, headings[0].request_id, grant)
        else:
            raise SealError("substituted", f"{peer.role} {peer.name!r} may not send messages of kind {sorted(tags)}")

    def _remember(self, device_id: str, label: str, grant: ReplyGrant) -> None:
        self._grants[device_id, label] = grant
        self._grants.move_to_end((device_id, label))
        while len(self._grants) > _MAX_GRANTS:
            self._grants.popitem(last=False)


def label_of(heading: Heading) -> str:
    """Give the label under which a reply is sealed: its request, or none for receipts.

    Raises:
        SealError: It is no reply.
    """
    if heading.tag in {"O", "S", "F"}:
        return heading.request_id
    if heading.tag == "R":
        return RECORDS
    raise SealError("substituted", f"a message of kind {heading.tag!r} is no reply")


def _split(body: bytes) -> tuple[ReplyGrant | None, bytes]:
    lead, end = body[:1], 1 + SESSION_ID_BYTES + SECRET_BYTES
    if lead == OWN:
        return None, body[1:]
    if lead != FORWARDED or len(body) < end:
        raise SealError("truncated", "sealed body does not say whether it is forwarded")
    return ReplyGrant(body[1 : 1 + SESSION_ID_BYTES], body[1 + SESSION_ID_BYTES : end]), body[end:]
