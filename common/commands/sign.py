"""``dimee model sign``: vouch for a bundle as a numbered release."""

from pathlib import Path
from typing import Annotated

import typer

from common.model.bundle import open_bundle


def sign(
    bundle: Annotated[str, typer.Argument(help="A bundle's directory.")],
    *,
    key: Annotated[Path, typer.Option(help="Private key, from 'dimee certs signer'.")],
    release: Annotated[int, typer.Option(min=1, help="Larger than that of every earlier release.")],
) -> None:
    """Check a bundle and sign it. Example: dimee model sign ./bundle --key certs/release.key --release 2."""
    from common.certificates import files, releases  # noqa: PLC0415 - cryptography is an extra

    opened = open_bundle(bundle)
    opened.verify()
    made = releases.sign(opened.directory, opened.manifest.name, release, files.read_signing_key(key))
    typer.echo(f"{opened.directory}: revision {opened.revision} signed as release {made.release} of {made.name}")
