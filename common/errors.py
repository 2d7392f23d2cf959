"""The one tree of errors; a type says who must act."""


class DimeeError(Exception):
    """Anything that dimee itself raises."""


class ConfigError(DimeeError):
    """The operator must act: a setting, an option or a file given to a command is wrong."""


class InputError(DimeeError):
    """The caller must act: the text cannot be classified, and was not accepted."""


class ArtifactError(DimeeError):
    """The release must be mended: a bundle's file is missing, altered or of another schema."""


class WireError(DimeeError):
    """The peer must act: bytes that are no valid message."""


class ModelMismatchError(WireError):
    """The peer runs another model revision, so its hidden states mean nothing here."""


class TransportError(DimeeError):
    """The network: not connected, refused or too large for the broker; may pass by itself."""


class StoreError(DimeeError):
    """The disk or the database: the log cannot be read or written."""


class DamagedError(StoreError):
    """A file is none that SQLite can read; opening it again keeps it aside."""


class OverloadedError(DimeeError):
    """A named bound is reached; the caller may try again later."""


class CrashError(DimeeError):
    """We must act: a thread of ours died, and its process ends with it."""
