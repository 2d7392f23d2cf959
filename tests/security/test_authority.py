"""The authority gives out, renews and revokes; secrets are only their owner's."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from common.certificates import files
from common.certificates.authority import Authority
from common.certificates.names import Role, name_of, role_of
from common.cli.root import app
from common.errors import ConfigError


@pytest.fixture
def own(tmp_path: Path) -> Authority:
    os.umask(0o022)
    return Authority.create(tmp_path / "certs", "home")


def test_a_certificate_carries_node_id_and_role_and_openssl_accepts_it(own: Authority) -> None:
    folder = own.issue("pi-1", Role.DEVICE)

    (certificate,) = files.read_certificates(folder / "certificate.pem")
    assert (name_of(certificate), role_of(certificate)) == ("pi-1", Role.DEVICE)
    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", own.folder / "ca.pem"]
    subprocess.run([*command, folder / "certificate.pem"], check=True, capture_output=True)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_every_private_key_is_readable_by_its_owner_alone(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        own = Authority.create(tmp_path / "certs", "home")
        own.issue("pi-1", Role.DEVICE)
        own.renew("pi-1")
        own.rotate_seal("edge")
    finally:
        os.umask(before)

    keys = [path for path in own.folder.rglob("*") if path.is_file() and b"PRIVATE" in path.read_bytes()]
    assert {path.relative_to(own.folder).as_posix() for path in keys} == {
        "ca.key",
        "nodes/pi-1/key.pem",
        "tiers/edge/key.pem",
    }
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}


def test_renewing_makes_another_key_and_keeps_role_and_hosts(own: Authority) -> None:
    folder = own.issue("broker", Role.BROKER, hosts=["broker.local", "10.0.0.7"])
    before = (folder / "key.pem").read_bytes()

    own.renew("broker")

    first, second = own.issued()
    assert (second.role, second.hosts, second.state) == (first.role, first.hosts, "valid")
    assert first.serial != second.serial
    assert (folder / "key.pem").read_bytes() != before


def test_revoking_takes_every_valid_certificate_of_a_node_and_no_other(own: Authority) -> None:
    own.issue("pi-1", Role.DEVICE)
    own.renew("pi-1")
    own.issue("pi-2", Role.DEVICE)

    own.revoke("pi-1")

    states = {(issued.name, issued.state) for issued in Authority(own.folder).issued()}
    assert states == {("pi-1", "revoked"), ("pi-2", "valid")}
    crl = x509.load_pem_x509_crl((own.folder / "crl.pem").read_bytes())
    assert len(list(crl)) == 2
    assert crl.is_signature_valid(own.certificate.public_key())  # type: ignore[arg-type]


def test_a_second_revocation_keeps_the_first(own: Authority) -> None:
    for name in ("pi-1", "pi-2"):
        own.issue(name, Role.DEVICE)
        own.revoke(name)

    assert [issued.state for issued in own.issued()] == ["revoked", "revoked"]


@pytest.mark.parametrize("name", ["", ".", "..", "../pi", "a/b", "pi 1", "pi#", "+", "ü", "a" * 65, "-pi", "pi\n"])
def test_a_name_that_is_no_single_level_and_no_folder_is_refused(own: Authority, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot have a certificate"):
        own.issue(name, Role.DEVICE)


def test_mistakes_are_refused_with_the_way_on(own: Authority) -> None:
    own.issue("pi-1", Role.DEVICE)

    with pytest.raises(ConfigError, match="dimee certs renew pi-1"):
        own.issue("pi-1", Role.DEVICE)
    with pytest.raises(ConfigError, match="dimee certs issue"):
        own.renew("pi-2")
    with pytest.raises(ConfigError, match="no valid certificate"):
        own.revoke("pi-2")
    with pytest.raises(ConfigError, match="--host"):
        own.issue("broker", Role.BROKER)
    with pytest.raises(ConfigError, match="1 to 825 days, not 0"):
        own.issue("pi-3", Role.DEVICE, days=0)
    with pytest.raises(ConfigError, match="holds an authority already"):
        Authority.create(own.folder, "home")
    with pytest.raises(ConfigError, match="dimee certs init"):
        Authority(own.folder / "nodes")
    own.revoke("pi-1")
    with pytest.raises(ConfigError, match="is revoked"):
        own.renew("pi-1")


def test_a_revoked_node_can_be_let_in_again_under_a_new_key(own: Authority) -> None:
    own.issue("pi-1", Role.DEVICE)
    own.revoke("pi-1")

    own.issue("pi-1", Role.DEVICE)

    assert sorted(issued.state for issued in own.issued()) == ["revoked", "valid"]


def test_the_commands_work_from_init_to_show(tmp_path: Path, capsys: Any) -> None:
    def run(*arguments: str) -> str:
        app(["certs", *arguments, "--dir", str(tmp_path / "certs")], standalone_mode=False)
        return str(capsys.readouterr().out)

    run("init", "--site", "home")
    run("issue", "mosquitto", "--role", "broker", "--host", "broker.local", "--host", "127.0.0.1")
    run("issue", "pi-1", "--days", "7")
    run("renew", "pi-1")
    run("seal", "edge")
    run("revoke", "pi-1")
    document = json.loads(run("show", "--json"))

    rows = [(each["name"], each["role"], each["state"]) for each in document["certificates"]]
    assert sorted(rows) == [
        ("edge", "seal", "valid"),
        ("mosquitto", "broker", "valid"),
        ("pi-1", "device", "revoked"),
        ("pi-1", "device", "revoked"),
    ]
    assert "pi-1" in run("show")
    assert "user pi-1" not in run("acl", "--site", "home")


def test_a_command_without_an_authority_ends_with_the_configuration_exit_code(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "common.cli", "certs", "show", "--dir", tmp_path]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)

    assert ended.returncode == 2
    assert "dimee certs init" in ended.stderr
