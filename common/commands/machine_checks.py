"""Checks of this machine: Python, packages, bundle, clock, disk and database; nothing is changed."""

import ctypes
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, requires, version
from pathlib import Path

from common.commands.finding import Finding, failed, ok, skipped, warning
from common.config.settings import AnySettings, DeviceSettings, EdgeSettings
from common.errors import ConfigError, DimeeError
from common.model.bundle import Bundle, open_bundle
from common.model.providers import missing
from common.service.channels import open_channel
from common.store.engine import readable_log, sqlite_file
from common.types import Tier

_LEAST_FREE_BYTES = 100 * 2**20
_AMPLE_FREE_BYTES = 2**30
_UNSYNCHRONISED = 5  # TIME_ERROR of adjtimex(2)
_REQUIREMENT = re.compile(
    r"(?P<name>[\w.-]+)(?:\[[^]]*\])?(?:>=(?P<least>[\d.]+))?[^;]*(?:;.*extra == \"(?P<extra>\w+)\")?"
)


def check_python() -> Finding:
    """Compare the interpreter with what this release requires."""
    least = distribution("dimee").metadata["Requires-Python"].removeprefix(">=")
    found = platform.python_version()
    if _parts(found) >= _parts(least):
        return ok("python", f"{found} on {platform.machine()}")
    return failed("python", f"{found} is older than {least}", f"install Python {least} or later and dimee into it")


def check_packages(settings: AnySettings) -> Finding:
    """Look for every package that these settings need, in a version that is new enough."""
    extras = _extras(settings)
    missing, found = [], 0
    for requirement in requires("dimee") or ():
        parsed = _REQUIREMENT.match(requirement)
        if parsed is None or (parsed["extra"] and parsed["extra"] not in extras):
            continue
        try:
            is_enough = _parts(version(parsed["name"])) >= _parts(parsed["least"] or "0")
        except PackageNotFoundError:
            is_enough = False
        found += is_enough
        if not is_enough:
            missing.append(f"{parsed['name']}>={parsed['least']}")
    if missing:
        wanted = f"dimee[{','.join(sorted(extras))}]" if extras else "dimee"
        return failed("packages", f"missing or too old: {', '.join(missing)}", f"pip install --upgrade '{wanted}'")
    return ok("packages", f"{found} as required")


def check_bundle(location: str) -> tuple[Finding, Bundle | None]:
    """Check every file of the bundle against its hash."""
    try:
        bundle = open_bundle(location)
        bundle.verify()
    except DimeeError as exc:
        return failed("bundle", str(exc), "set model.bundle to an intact bundle, or copy it here again"), None
    manifest = bundle.manifest
    return ok("bundle", f"{manifest.name}, revision {bundle.revision}, {len(manifest.files)} files intact"), bundle


def check_providers(settings: AnySettings) -> Finding:
    """Look whether onnxruntime has what the model shall run on."""
    wanted = settings.model.providers
    try:
        lacking = missing(wanted)
    except ConfigError as exc:
        return failed("providers", str(exc), "mend model.providers")
    if lacking:
        remedy = "install the onnxruntime that has it, or leave it out of model.providers"
        return warning("providers", f"this onnxruntime has no {', '.join(lacking)}", remedy)
    return ok("providers", ", ".join(wanted))


def check_clock() -> Finding:
    """Ask the kernel whether the clock is synchronised; only the log's times depend on it."""
    installed = Path(__file__).stat().st_mtime
    if time.time() < installed:
        now = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
        return failed("clock", f"{now} lies before dimee was installed", "set it: timedatectl set-ntp true")
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))
    except (AttributeError, OSError):
        return skipped("clock", "this system does not tell whether it is synchronised")
    if state == _UNSYNCHRONISED:
        remedy = "run an NTP client (timedatectl set-ntp true), or the log's times of two machines will differ"
        return warning("clock", "nothing synchronises it", remedy)
    return ok("clock", "synchronised")


def check_disk(settings: AnySettings) -> Finding:
    """Measure the space where the log grows, or where the bundle lies."""
    folder = _data_folder(settings)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    said = f"{free / 2**30:.1f} GiB free at {folder}"
    if free < _LEAST_FREE_BYTES:
        return failed("disk", said, "free some space, or move the log to another disk (log.url)")
    if free < _AMPLE_FREE_BYTES:
        return warning("disk", said, "a million requests take about 1 GiB: keep fewer days, or a larger disk")
    return ok("disk", said)


def check_channel(settings: AnySettings, tier: Tier) -> Iterator[Finding]:
    """Read the keys and certificates of a sealed site."""
    if settings.channel.name == "plain":
        return
    try:
        open_channel(settings, tier)
    except DimeeError as exc:
        yield failed("channel", str(exc), "mend [channel]; the same for all nodes of a site, see 'dimee certs'")
        return
    yield ok("channel", f"{settings.channel.name}; its keys and certificates belong together")


def check_core(settings: AnySettings) -> Iterator[Finding]:
    """Say what would confine the trusted core here; none is asked for on a device."""
    if isinstance(settings, DeviceSettings) or not settings.channel.has_core:
        return
    try:
        from common.service.core.confinement import offered  # noqa: PLC0415 - Linux alone
    except ImportError:
        yield failed("trusted core", "this system has no such processes", "unset channel.has_core, or use Linux")
        return
    found = offered()
    missing = sorted(name for name, is_there in found.items() if not is_there and name != "own user")
    if settings.channel.core_user is not None and not found["own user"]:
        yield failed("trusted core", "channel.core_user needs root", "start as root, or unset channel.core_user")
    elif missing:
        remedy = "a newer kernel, or LimitMEMLOCK=infinity for the service; or accept it"
        yield warning("trusted core", f"this machine does not offer: {', '.join(missing)}", remedy)
    else:
        yield ok(
            "trusted core", f"this machine offers: {', '.join(name for name, is_there in found.items() if is_there)}"
        )


def check_outbox(settings: AnySettings) -> Iterator[Finding]:
    """Look whether a device can keep its promises on disk, where it shall."""
    if not isinstance(settings, DeviceSettings) or settings.outbox.path is None:
        return
    file = Path(settings.outbox.path)
    target = file if file.exists() else file.resolve().parent
    if os.access(target, os.W_OK):
        yield ok("outbox", f"{file} can be written")
    else:
        yield failed("outbox", f"{target} is missing or not writable", f"make it, owned by the service: {target}")


def check_database(settings: AnySettings) -> Iterator[Finding]:
    """Open the log where this node keeps one."""
    if not isinstance(settings, EdgeSettings) or not settings.log.is_recorder:
        return
    file = sqlite_file(settings.log.url)
    if file is not None and not file.exists():
        folder = file.resolve().parent
        if os.access(folder, os.W_OK | os.X_OK):
            yield ok("database", f"{file} will be made at the first start")
        else:
            yield failed("database", f"{folder} is missing or not writable", f"make it, owned by the service: {folder}")
        return
    try:
        with readable_log(settings.log.url):
            pass
    except DimeeError as exc:
        yield failed("database", str(exc), "mend log.url, the file's owner, or the server")
        return
    if file is not None and not os.access(file, os.W_OK):
        yield failed("database", f"{file} is not writable", f"give it to the service's user: chown dimee {file}")
        return
    yield ok("database", f"{file or 'the server'} opens")


def _extras(settings: AnySettings) -> set[str]:
    extras = set()
    if isinstance(settings, EdgeSettings) and settings.broker.is_enabled:
        extras.add("edge")
    if isinstance(settings, EdgeSettings) and settings.log.url.startswith("postgresql"):
        extras.add("postgresql")
    if settings.channel.name != "plain" or settings.model.trusted_key_file is not None:
        extras.add("security")
    if settings.metrics.port is not None:
        extras.add("metrics")
    return extras


def _data_folder(settings: AnySettings) -> Path:
    file = sqlite_file(settings.log.url) if isinstance(settings, EdgeSettings) else None
    return file.resolve().parent if file is not None else Path.cwd()


def _parts(written: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", written.partition("+")[0])[:3])
