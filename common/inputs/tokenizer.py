"""The bundle's tokenizer as its file has it."""

from pathlib import Path

from tokenizers import Tokenizer

from common.errors import ArtifactError


def open_tokenizer(path: Path, max_tokens: int) -> Tokenizer:
    """Load a tokenizer that cuts at ``max_tokens`` and pads nothing.

    Raises:
        ArtifactError: The file is no tokenizer.
    """
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as exc:  # tokenizers raises bare Exception
        raise ArtifactError(f"{path} is no tokenizer: {exc}") from exc
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return tokenizer
