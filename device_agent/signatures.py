"""Which outcomes a device believes: all of them, or those that their tier has signed."""

from dataclasses import dataclass
from typing import Protocol

from common.errors import WireError
from common.types import Signature
from common.wire import codec
from common.wire.messages import Outcome, SignedOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """An outcome as it came in, and what its signature is worth."""

    outcome: Outcome
    signature: Signature | None = None  # None: nobody asked
    why: str = ""  # it is refused


class Verifier(Protocol):
    """Checks a signed outcome."""

    def verify(self, signed: SignedOutcome) -> None:
        """Raise a WireError where it does not hold."""
        ...


class Signatures(Protocol):
    """Looks at the signature of what comes in."""

    def read(self, message: Outcome | SignedOutcome) -> Told:
        """Give the outcome in a message.

        Raises:
            WireError: There is none in it.
        """
        ...


class AnySignature:
    """Looks at none."""

    def read(self, message: Outcome | SignedOutcome) -> Told:
        """Give the outcome, signed or not."""
        return Told(outcome=_outcome(message))


class NeededSignatures:
    """Believes nothing unsigned."""

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier

    def read(self, message: Outcome | SignedOutcome) -> Told:
        """Give the outcome with the verdict."""
        outcome = _outcome(message)
        if isinstance(message, Outcome):
            return Told(outcome=outcome, signature=Signature.REFUSED, why="it is not signed")
        try:
            self._verifier.verify(message)
        except WireError as exc:
            return Told(outcome=outcome, signature=Signature.REFUSED, why=str(exc))
        return Told(outcome=outcome, signature=Signature.VERIFIED)


def _outcome(message: Outcome | SignedOutcome) -> Outcome:
    if isinstance(message, Outcome):
        return message
    inner = codec.decode(message.outcome)
    if not isinstance(inner, Outcome):
        raise WireError(f"a {type(inner).__name__} is signed where an Outcome belongs")
    return inner
