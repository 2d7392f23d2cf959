"""Signed outcomes: the node that computed an answer vouches for it, to one device and for one request.

The bytes themselves are signed, as in a DSSE envelope (docs/decisions/0010), so no form of a message has to be
canonical. Request id, revision and hops stand in the bytes; the device's name is signed with them.
"""

import time

from cryptography.exceptions import InvalidSignature

from common.channel.identity import Identity, Peer, Trust
from common.errors import WireError
from common.types import Tier
from common.wire import codec
from common.wire.messages import Outcome, SignedOutcome

_LABEL = b"dimee outcome v1\0"
_BELIEVED_S = 60.0  # a certificate that was checked is not checked again; then it may have run out
_MAX_PEERS = 64


class OutcomeSigner:
    """A tier's end."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    def sign(self, device_id: str, outcome: bytes) -> SignedOutcome:
        """Vouch for an encoded outcome to one device."""
        signature = self._identity.key.sign(_signed(device_id, outcome))
        return SignedOutcome(outcome=outcome, certificate=self._identity.certificate, signature=signature)


class OutcomeVerifier:
    """A device's end; for one thread."""

    def __init__(self, trust: Trust, device_id: str) -> None:
        self._trust = trust
        self._device_id = device_id
        self._peers: dict[bytes, tuple[Peer, float]] = {}  # by certificate, with when it was checked

    def verify(self, signed: SignedOutcome) -> None:
        """Check that the tier named by the last hop has signed this for this device.

        Raises:
            WireError: It has not, or its certificate does not hold.
        """
        outcome, peer = codec.decode(signed.outcome), self._peer(signed.certificate)
        if not isinstance(outcome, Outcome):
            raise WireError(f"a {type(outcome).__name__} is signed where an Outcome belongs")
        last = outcome.hops[-1]
        if last.tier is Tier.DEVICE or (str(peer.role), peer.name) != (str(last.tier), last.node):
            raise WireError(f"{peer.role} {peer.name!r} has signed what {last.tier} {last.node!r} is said to answer")
        try:
            peer.key.verify(signed.signature, _signed(self._device_id, signed.outcome))
        except InvalidSignature as exc:
            raise WireError(f"not what {peer.name!r} has signed for {self._device_id!r}") from exc

    def _peer(self, certificate: bytes) -> Peer:
        peer, checked_at = self._peers.get(certificate, (None, 0.0))
        if peer is None or time.monotonic() - checked_at > _BELIEVED_S:
            peer = self._trust.peer(certificate)
            if len(self._peers) >= _MAX_PEERS:
                self._peers.clear()
            self._peers[certificate] = (peer, time.monotonic())
        return peer


def _signed(device_id: str, outcome: bytes) -> bytes:
    return _LABEL + device_id.encode() + b"\0" + outcome
