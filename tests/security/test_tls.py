"""Who is let in: TLS with certificates on both sides on each broker, and no plain MQTT beyond loopback."""

import socket
import ssl
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from common.certificates.authority import Authority
from common.certificates.names import Role
from common.config.settings import Mqtt
from common.errors import ConfigError
from common.transport.contract import Inbox
from common.transport.embedded import EmbeddedBroker
from common.transport.mqtt import MqttTransport
from common.transport.tls import tls_context

LIMIT_S = 60.0


def connects(settings: Mqtt, client_id: str) -> bool:
    """Say whether the first attempt succeeded; a second one is never made."""
    transport, has_failed = MqttTransport(settings, client_id=client_id), threading.Event()
    transport._attempts.next_wait_s = lambda: (has_failed.set(), transport._settled.set(), 3600.0)[2]
    with transport:
        is_connected = transport.wait_connected(LIMIT_S)
        assert is_connected or has_failed.is_set()
        return is_connected


@pytest.mark.broker
def test_messages_of_all_sizes_pass_between_certified_nodes(any_site: Any) -> None:
    edge, inbox = any_site.transport("edge-1"), Inbox(100)
    edge.subscribe("dimee/v1/home/edge/request", inbox)
    payloads = [bytes([size % 251]) * size for size in (0, 1, 12_000, 98_304, 1_500_000)] * 3

    with edge:
        assert edge.wait_connected(LIMIT_S)
        device = any_site.connected("pi-1")
        for payload in payloads:
            device.publish("dimee/v1/home/edge/request", payload)
        received = [inbox.get(LIMIT_S) for _ in payloads]

    assert [delivery.payload for delivery in received if delivery] == payloads


@pytest.mark.broker
def test_a_connection_without_a_certificate_is_refused(any_site: Any) -> None:
    settings = any_site.settings("pi-1", tls_certificate_file=None, tls_key_file=None)

    assert not connects(settings, "pi-1")


@pytest.mark.broker
def test_a_certificate_of_another_authority_is_refused(any_site: Any, tmp_path: Path) -> None:
    stranger = Authority.create(tmp_path / "other", "home").issue("pi-1", Role.DEVICE)
    settings = any_site.settings(
        "pi-1", tls_certificate_file=str(stranger / "certificate.pem"), tls_key_file=str(stranger / "key.pem")
    )

    assert not connects(settings, "pi-1")


@pytest.mark.broker
def test_a_broker_of_another_authority_is_not_trusted(any_site: Any, tmp_path: Path, caplog: Any) -> None:
    other = Authority.create(tmp_path / "other", "home")

    assert not connects(any_site.settings("pi-1", tls_ca_file=str(other.folder / "ca.pem")), "pi-1")
    assert "certificate verify failed" in caplog.text


@pytest.mark.broker
def test_a_broker_under_a_name_that_is_not_in_its_certificate_is_not_trusted(any_site: Any, caplog: Any) -> None:
    any_site.authority.revoke("mosquitto")
    any_site.authority.issue("mosquitto", Role.BROKER, hosts=["elsewhere.example"])
    any_site.broker.stop()
    any_site.broker.start()

    assert not connects(any_site.settings("pi-1"), "pi-1")
    assert "not valid for" in caplog.text


@pytest.mark.broker
def test_plain_mqtt_and_old_tls_do_not_reach_a_tls_listener(any_site: Any) -> None:
    assert not connects(Mqtt(port=any_site.broker.port), "pi-1")

    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", any_site.broker.port)) as raw, pytest.raises((ssl.SSLError, OSError)):
        old.wrap_socket(raw).close()


@pytest.mark.broker
def test_a_revoked_node_is_refused_after_the_broker_reads_the_list_and_others_are_not(any_site: Any) -> None:
    assert connects(any_site.settings("pi-1"), "pi-1")

    any_site.authority.revoke("pi-1")
    any_site.broker.stop()
    any_site.broker.start()

    assert not connects(any_site.settings("pi-1"), "pi-1")
    assert connects(any_site.settings("pi-2"), "pi-2")


@pytest.mark.broker
def test_a_renewed_certificate_is_let_in(any_site: Any) -> None:
    any_site.authority.renew("pi-1")

    assert connects(any_site.settings("pi-1"), "pi-1")


@pytest.mark.parametrize("missing", ["ca.pem", "certificate.pem", "key.pem", "crl.pem", "acl"])
def test_an_embedded_broker_without_one_of_its_files_does_not_start(broker_folder: Path, missing: str) -> None:
    (broker_folder / missing).unlink()

    with pytest.raises(ConfigError, match=rf"broker\.tls_folder: {broker_folder / missing} cannot be read"):
        EmbeddedBroker(tls_folder=str(broker_folder))


def test_an_embedded_broker_with_a_revocation_list_that_is_none_does_not_start(broker_folder: Path) -> None:
    (broker_folder / "crl.pem").unlink()
    (broker_folder / "crl.pem").write_text("nothing\n")

    with pytest.raises(ConfigError, match=r"broker\.tls_folder: .*crl\.pem holds no PEM"):
        EmbeddedBroker(tls_folder=str(broker_folder))


def test_an_embedded_broker_with_certificates_may_serve_a_network(broker_folder: Path) -> None:
    assert EmbeddedBroker("0.0.0.0", tls_folder=str(broker_folder)).host == "0.0.0.0"


def test_the_least_version_is_1_2_and_the_broker_is_always_checked(authority: Authority) -> None:
    context = tls_context(Mqtt(host="broker.example", tls_ca_file=str(authority.folder / "ca.pem")))

    assert context is not None
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize("host", ["broker.example", "192.168.1.7", "0.0.0.0", "::", "127.0.0.1.example"])
def test_plain_mqtt_beyond_loopback_is_refused_and_says_how_to_go_on(host: str) -> None:
    with pytest.raises(ConfigError, match=r"mqtt\.host .* beyond loopback .* mqtt\.is_insecure_allowed"):
        MqttTransport(Mqtt(host=host), client_id="pi-1")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_plain_mqtt_on_this_machine_is_allowed(host: str) -> None:
    assert tls_context(Mqtt(host=host)) is None


def test_plain_mqtt_beyond_loopback_is_possible_in_so_many_words() -> None:
    assert tls_context(Mqtt(host="broker.example", is_insecure_allowed=True)) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tls_ca_file": None}, r"mqtt\.tls_certificate_file is set and mqtt\.tls_ca_file is not"),
        ({"tls_key_file": None}, r"belong together"),
        ({"tls_ca_file": "gone.pem"}, r"mqtt\.tls_ca_file: gone\.pem cannot be read"),
        ({"tls_key_file": "gone.pem"}, r"mqtt\.tls_key_file: gone\.pem cannot be read"),
        ({"tls_ca_file": __file__}, r"mqtt\.tls_ca_file: .* holds no PEM certificate"),
        ({"tls_key_file": __file__}, r"mqtt\.tls_key_file: .* is not the unencrypted PEM key"),
    ],
)
def test_wrong_tls_settings_are_refused_by_name(authority: Authority, changes: dict[str, Any], message: str) -> None:
    node = authority.folder / "nodes" / "pi-1"
    right = {
        "tls_ca_file": str(node / "ca.pem"),
        "tls_certificate_file": str(node / "certificate.pem"),
        "tls_key_file": str(node / "key.pem"),
    }

    with pytest.raises(ConfigError, match=message):
        tls_context(Mqtt(**{**right, **changes}))


def test_a_key_of_another_node_is_refused(authority: Authority) -> None:
    nodes = authority.folder / "nodes"
    mixed = Mqtt(
        tls_ca_file=str(nodes / "pi-1" / "ca.pem"),
        tls_certificate_file=str(nodes / "pi-1" / "certificate.pem"),
        tls_key_file=str(nodes / "pi-2" / "key.pem"),
    )

    with pytest.raises(ConfigError, match=r"mqtt\.tls_key_file: .* is not the unencrypted PEM key of"):
        tls_context(mixed)


def test_an_encrypted_key_is_refused_instead_of_asking_the_terminal(authority: Authority, tmp_path: Path) -> None:
    node = authority.folder / "nodes" / "pi-1"
    locked = tmp_path / "locked.pem"
    subprocess.run(
        ["openssl", "pkcs8", "-topk8", "-in", node / "key.pem", "-out", locked, "-passout", "pass:secret"], check=True
    )
    settings = Mqtt(
        tls_ca_file=str(node / "ca.pem"),
        tls_certificate_file=str(node / "certificate.pem"),
        tls_key_file=str(locked),
    )

    with pytest.raises(ConfigError, match=r"unencrypted PEM key"):
        tls_context(settings)
