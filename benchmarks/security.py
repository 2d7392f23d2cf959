"""What protection costs and what it stops: ``python benchmarks/security.py --bundle B --json``.

Runs whole sites as processes on Mosquitto, plain and protected by turns (TLS with certificates, access list, sealed
channel, signed bundle), and gives protected over plain. The attacks are made on sealed messages and a signed bundle.
"""

import argparse
import json
import os
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sealed_attacks import Ends, attacks, bundle_flips, median_us, sealing

from common.certificates import files, releases
from common.certificates.access import access_list
from common.certificates.authority import Authority
from common.certificates.names import Role
from common.commands.demo_inputs import read_inputs
from common.commands.fleet import running
from common.config.settings import Model
from common.model.bundle import open_bundle
from common.service.trust import bundle_gate
from common.wire.documents import encode_document

NODES = {"edge-1": Role.EDGE, "cloud-1": Role.CLOUD, "pi-1": Role.DEVICE, "pi-2": Role.DEVICE}
START_LIMIT_S = 60.0


@dataclass(frozen=True)
class Protection:
    """The environment of a node, and the lines of the broker's listener."""

    name: str
    broker_lines: tuple[str, ...]
    environment: Callable[[str], dict[str, str]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--samples", type=int, default=200, help="texts per run")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind, by turns")
    parser.add_argument("--attacks", type=int, default=10_000)
    parser.add_argument("--policy", default="default")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dimee-security-") as name:
        report = measure(Path(name), options)
    sys.stdout.write(json.dumps(report, indent=None if options.json else 2) + "\n")


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run everything in one go."""
    authority = make_site(folder)
    bundle = shutil.copytree(open_bundle(options.bundle).directory, folder / "bundle")
    _, public = releases.make_release_key(folder)
    releases.sign(bundle, "bench", 1, files.read_signing_key(folder / "release.key"))
    ends = Ends(authority)
    return {
        "machine": {"cores": os.cpu_count(), "load": os.getloadavg()},
        "sealing_us": sealing(ends),
        "bundle_load": bundle_load(bundle, public, folder),
        "attacks": {**attacks(ends, options.attacks), **bundle_flips(bundle, public, options.attacks // 10)},
        **site_ratios(folder, authority, str(bundle), options),
    }


def make_site(folder: Path) -> Authority:
    """Make an authority with all nodes and both tiers' keys."""
    authority = Authority.create(folder / "certs", "home")
    authority.issue("mosquitto", Role.BROKER, hosts=["127.0.0.1"])
    for name, role in NODES.items():
        authority.issue(name, role)
    authority.rotate_seal("edge")
    authority.rotate_seal("cloud")
    return authority


def bundle_load(bundle: Path, public: Path, folder: Path) -> dict[str, float]:
    """Compare opening and hashing a bundle with and without its signature."""
    plain = Model(bundle=str(bundle))
    signed = Model(bundle=str(bundle), trusted_key_file=str(public), release_file=str(folder / "release.json"))

    def load(model: Model) -> Callable[[int], object]:
        return lambda _: open_bundle(model.bundle, bundle_gate(model)).verify()

    load(signed)(0)
    kinds = {"plain": load(plain), "signed": load(signed)}
    taken: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(30):
        for name, step in kinds.items():
            taken[name].append(median_us(step, 1) / 1000)
    medians = {name: statistics.median(each) for name, each in taken.items()}
    return {"plain_ms": medians["plain"], "signed_ms": medians["signed"], "ratio": medians["signed"] / medians["plain"]}


def site_ratios(folder: Path, authority: Authority, bundle: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run plain and protected sites by turns; compare latency per answering tier, and throughput."""
    inputs = read_inputs(None, open_bundle(bundle).manifest)
    texts = [encode_document(inputs[number % len(inputs)]) for number in range(options.samples)]
    latencies: dict[str, dict[str, list[float]]] = {}
    rates: dict[str, list[float]] = {}
    for round_ in range(options.rounds):
        for protection in (plain(), protected(authority, folder)):
            run = folder / f"{protection.name}-{round_}"
            run.mkdir()
            for in_flight, into in ((1, latencies), (32, rates)):
                rows, rate = run_site(
                    run / str(in_flight), protection, bundle, texts, policy=options.policy, in_flight=in_flight
                )
                if into is rates:
                    rates.setdefault(protection.name, []).append(rate)
                for tier, total_ms in rows if into is latencies else ():
                    latencies.setdefault(protection.name, {}).setdefault(tier, []).append(total_ms)
    medians = {
        name: {tier: statistics.median(each) for tier, each in tiers.items()} for name, tiers in latencies.items()
    }
    ratios = {tier: medians["protected"][tier] / of_plain for tier, of_plain in medians["plain"].items()}
    rate = {name: statistics.median(each) for name, each in rates.items()}
    return {
        "median_ms": medians,
        "latency_ratio": ratios,
        "latency_ratio_worst": max(ratios.values()),
        "per_s": rate,
        "throughput_ratio": rate["protected"] / rate["plain"],
        "answers": {name: {tier: len(each) for tier, each in tiers.items()} for name, tiers in latencies.items()},
    }


def plain() -> Protection:
    """Give a site without any protection."""
    return Protection("plain", ("allow_anonymous true",), lambda _: {})


def protected(authority: Authority, folder: Path) -> Protection:
    """Give a site with everything switched on."""
    own, acl = authority.folder / "nodes" / "mosquitto", folder / "acl"
    acl.touch(mode=0o600)
    acl.write_text(access_list("home", NODES.items()))
    lines = (
        *("allow_anonymous false", "require_certificate true", "tls_version tlsv1.2"),
        *("use_identity_as_username true", "use_username_as_clientid true", f"acl_file {acl}"),
        *(f"cafile {own}/ca.pem", f"certfile {own}/certificate.pem", f"keyfile {own}/key.pem"),
        f"crlfile {authority.folder}/crl.pem",
    )

    def environment(node: str) -> dict[str, str]:
        files_ = authority.folder / "nodes" / node
        tier = {"edge-1": "edge", "cloud-1": "cloud"}.get(node)
        return {
            "DIMEE_MQTT__TLS_CA_FILE": f"{files_}/ca.pem",
            "DIMEE_MQTT__TLS_CERTIFICATE_FILE": f"{files_}/certificate.pem",
            "DIMEE_MQTT__TLS_KEY_FILE": f"{files_}/key.pem",
            "DIMEE_CHANNEL__NAME": "sealed",
            "DIMEE_MODEL__TRUSTED_KEY_FILE": f"{folder}/release.pub",
            "DIMEE_MODEL__RELEASE_FILE": f"{folder}/{node}-release.json",
        } | ({"DIMEE_CHANNEL__TIER_KEY_FOLDER": f"{authority.folder}/tiers/{tier}"} if tier else {})

    return Protection("protected", lines, environment)


def run_site(
    run: Path, protection: Protection, bundle: str, texts: list[bytes], *, policy: str, in_flight: int
) -> tuple[list[tuple[str, float]], float]:
    """Answer all texts on a site of processes; give exit tier and milliseconds of each, and answers per second."""
    run.mkdir()
    with mosquitto(run, protection.broker_lines) as port:
        common = {
            **{name: value for name, value in os.environ.items() if not name.startswith("DIMEE_")},
            "DIMEE_MQTT__PORT": str(port),
            "DIMEE_MODEL__BUNDLE": bundle,
            "DIMEE_ROUTING__POLICY": policy,
        }
        log = run / "log.sqlite"
        edge = {"DIMEE_LOG__URL": f"sqlite:///{log}"}
        with (
            node(run, protection, "edge-1", ["edge", "run"], common | edge),
            node(run, protection, "cloud-1", ["cloud", "run"], common),
        ):
            wait_for_text(run / "edge-1.log", "connected to")
            wait_for_text(run / "cloud-1.log", "connected to")
            limit = {"DIMEE_DEVICE__MAX_IN_FLIGHT": str(in_flight)}
            with node(run, protection, "pi-1", ["device", "run", "--stdin"], common | limit) as device:
                wait_for_text(run / "pi-1.log", "connected to")
                rate = converse(device, texts, in_flight)
        with closing(sqlite3.connect(log)) as database:
            query = "SELECT exit_tier, total_ms FROM request_log WHERE reason != 'degraded' ORDER BY request_id"
            return database.execute(query).fetchall()[len(texts) // 10 :], rate  # the first tenth warms up


def converse(device: "subprocess.Popen[bytes]", texts: list[bytes], in_flight: int) -> float:
    """Keep ``in_flight`` texts on their way; give answers per second after the first tenth."""
    stdin, stdout = device.stdin, device.stdout
    if stdin is None or stdout is None:
        raise AssertionError("the device was started without pipes")
    started, warm = time.monotonic(), len(texts) // 10
    for number in range(len(texts) + in_flight):
        if number >= in_flight:
            stdout.readline()
        if number == warm + in_flight:
            started = time.monotonic()
        if number < len(texts):
            stdin.write(texts[number] + b"\n")
            stdin.flush()
    elapsed_s = time.monotonic() - started
    stdin.close()
    device.wait(START_LIMIT_S)
    return (len(texts) - warm) / elapsed_s


@contextmanager
def node(
    run: Path, protection: Protection, name: str, arguments: list[str], environment: dict[str, str]
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run one node; its log is beside the others'."""
    environment = environment | {"DIMEE_NODE__ID": name} | protection.environment(name)
    pipe = subprocess.PIPE if "--stdin" in arguments else subprocess.DEVNULL
    command = [sys.executable, "-m", "common.cli", *arguments]
    with (
        (run / f"{name}.log").open("wb") as log,
        running(command, environment, stdin=pipe, stdout=pipe, stderr=log) as process,
    ):
        yield process


@contextmanager
def mosquitto(run: Path, lines: tuple[str, ...]) -> Iterator[int]:
    """Run Mosquitto on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    config = run / "mosquitto.conf"
    user = os.environ.get("USER") or subprocess.run(["id", "-un"], check=True, capture_output=True).stdout.decode()  # noqa: S607
    config.write_text("\n".join([f"listener {port} 127.0.0.1", *lines, "set_tcp_nodelay true", f"user {user.strip()}"]))
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or "mosquitto"
    with (run / "broker.log").open("wb") as log:
        environment = dict(os.environ)
        with running([program, "-c", str(config)], environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log):
            deadline = time.monotonic() + START_LIMIT_S
            while time.monotonic() < deadline:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            yield port


def wait_for_text(path: Path, text: str) -> None:
    """Wait until a log says something."""
    deadline = time.monotonic() + START_LIMIT_S
    while text not in path.read_text(errors="replace"):
        if time.monotonic() > deadline:
            raise SystemExit(f"{path.name}: {path.read_text(errors='replace')[-2000:]}")
        time.sleep(0.05)


if __name__ == "__main__":
    main()
