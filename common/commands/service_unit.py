"""The systemd unit of a tier: notify, watchdog, restart, and a sandbox that leaves only what the tier needs."""

from collections.abc import Mapping
from pathlib import Path

from common.types import Tier

DEFAULT_PROGRAM = Path("/opt/dimee/bin/dimee")
DEFAULT_FOLDER = Path("/etc/dimee")
_SUMMARIES = {
    Tier.DEVICE: "embeds, answers the easy inputs, and keeps the promise of one answer",
    Tier.EDGE: "the middle layers and the log",
    Tier.CLOUD: "the last layers",
}
_TEMPLATE = """\
# Written by 'dimee service install'; add settings of your own with: systemctl edit {name}
[Unit]
Description=dimee {tier}: {summary}
Wants=network-online.target
After=network-online.target mosquitto.service

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
# A heartbeat comes three times in this time, unless a thread hangs.
WatchdogSec=30s
Restart=on-failure
RestartSec=2s
# 2 is a mistake in the settings: another start would meet it again.
RestartPreventExitStatus=2
# Accepted requests are answered and recorded first.
TimeoutStopSec=45s

# A user that exists only while the service runs; its files stay in /var/lib/{name}.
DynamicUser=yes
StateDirectory={name}
StateDirectoryMode=0700
WorkingDirectory=%S/{name}
UMask=0077
{credentials}
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=strict
ProtectHome={protect_home}
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
LockPersonality=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""


def unit_name(tier: Tier) -> str:
    """Name a tier's service."""
    return f"dimee-{tier}"


def write_unit(tier: Tier, program: list[str], config: Path, private_files: Mapping[str, Path]) -> str:
    """Write the unit.

    Args:
        tier: What it runs.
        program: The command in front of ``TIER run --config``.
        config: The settings file, absolute.
        private_files: Files that only root reads, by the setting that names them; systemd hands them over.
    """
    is_at_home = any(str(path).startswith(("/home/", "/root/")) for path in (program[0], config))
    return _TEMPLATE.format(
        name=unit_name(tier),
        tier=tier,
        summary=_SUMMARIES[tier],
        command=" ".join(map(_quoted, [*program, str(tier), "run", "--config", str(config)])),
        credentials="".join(_credential(setting, path) for setting, path in private_files.items()),
        protect_home="read-only" if is_at_home else "yes",
    )


def _credential(setting: str, path: Path) -> str:
    section, _, key = setting.partition(".")
    variable = f"DIMEE_{section}__{key}".upper()
    return f"LoadCredential={setting}:{_escaped(str(path))}\nEnvironment={variable}=%d/{setting}\n"


def _quoted(argument: str) -> str:
    escaped = _escaped(argument)
    return f'"{escaped}"' if set(argument) & set(" \t\"'\\") else escaped


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
