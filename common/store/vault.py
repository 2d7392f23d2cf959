"""What the databases keep secret: texts and records go through a vault on their way to the disk and back."""

from typing import Protocol


class Vault(Protocol):
    """Seals what is written and opens what is read; safe to use from any thread."""

    def seal_text(self, text: str | None, bound: str) -> str | None:
        """Seal a text to the row that ``bound`` names."""
        ...

    def open_text(self, text: str | None, bound: str) -> str | None:
        """Open it again.

        Raises:
            StoreError: It is of another key or another row, or was altered.
        """
        ...

    def seal(self, content: bytes, bound: str) -> bytes:
        """Seal bytes."""
        ...

    def open(self, content: bytes, bound: str) -> bytes:
        """Open them again (see ``open_text``)."""
        ...


class NoVault:
    """Writes everything as it is."""

    def seal_text(self, text: str | None, bound: str) -> str | None:
        """Give the text."""
        del bound
        return text

    def open_text(self, text: str | None, bound: str) -> str | None:
        """Give the text."""
        del bound
        return text

    def seal(self, content: bytes, bound: str) -> bytes:
        """Give the bytes."""
        del bound
        return content

    def open(self, content: bytes, bound: str) -> bytes:
        """Give the bytes."""
        del bound
        return content
