"""Rights that a Linux process can give up for good; each is tried, and named only if the kernel took it."""

import ctypes
import errno
import os
import platform
import pwd
import resource
import struct
import time

from common.errors import ConfigError
from common.service.core.syscalls import ARCHITECTURES, CLONE, CLONE3, SECCOMP, denied

_LIBC = ctypes.CDLL(None, use_errno=True)
_SET_DUMPABLE, _SET_NO_NEW_PRIVS = 4, 38
_SECCOMP_SET_FILTER, _SECCOMP_ALL_THREADS = 1, 1
_LANDLOCK_CREATE, _LANDLOCK_RESTRICT, _LANDLOCK_VERSION = 444, 446, 1  # the same numbers on every architecture
_LANDLOCK_FS, _LANDLOCK_NET = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}, 2  # numbers of rights, by version
_MCL_CURRENT_AND_FUTURE = 3
_ALLOW, _DENY, _KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
_CLONE_THREAD, _UNKNOWN = 0x10000, 0x00050000 | errno.ENOSYS


def confine(user: str | None) -> tuple[str, ...]:
    """Give up what the core does not need; call it when every file is read and the model has run once.

    Args:
        user: Whom to become; only root can.

    Returns:
        What is in force, by name.

    Raises:
        ConfigError: There is no such user, or this process may not become it.
    """
    time.localtime()  # reads its file now
    steps = {
        "own user": lambda: user is not None and _become(user),
        "no new privileges": lambda: _LIBC.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0,
        "not dumpable": lambda: _LIBC.prctl(_SET_DUMPABLE, 0, 0, 0, 0) == 0,
        "no core files": _limit,
        "memory locked": lambda: _LIBC.mlockall(_MCL_CURRENT_AND_FUTURE) == 0,
        "landlock": _landlock,
        "seccomp": _seccomp,
    }
    return tuple(name for name, step in steps.items() if step())


def offered() -> dict[str, bool]:
    """Say what this kernel offers, without using it."""
    return {
        "landlock": _LIBC.syscall(_LANDLOCK_CREATE, None, 0, _LANDLOCK_VERSION) > 0,
        "seccomp": platform.machine() in ARCHITECTURES and os.path.exists("/proc/sys/kernel/seccomp"),  # noqa: PTH110
        "memory locked": resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY or os.geteuid() == 0,
        "own user": os.geteuid() == 0,
    }


def _become(user: str) -> bool:
    try:
        found = pwd.getpwnam(user)
        os.setgroups([])
        os.setresgid(found.pw_gid, found.pw_gid, found.pw_gid)
        os.setresuid(found.pw_uid, found.pw_uid, found.pw_uid)
    except (KeyError, PermissionError) as exc:
        raise ConfigError(f"channel.core_user: cannot become {user!r}: {exc}; start as root, or unset it") from exc
    return True


def _limit() -> bool:
    """Leave no core file when it crashes."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return True


def _landlock() -> bool:
    """Deny every way to files and, where the kernel knows how, to TCP; for this thread and those it will start."""
    version = _LIBC.syscall(_LANDLOCK_CREATE, None, 0, _LANDLOCK_VERSION)
    if version < 1:
        return False
    files = (1 << _LANDLOCK_FS.get(version, 16)) - 1
    net = (1 << _LANDLOCK_NET) - 1 if version >= 4 else 0
    handled = struct.pack("=QQ", files, net)
    ruleset = _LIBC.syscall(_LANDLOCK_CREATE, handled, 16 if version >= 4 else 8, 0)
    if ruleset < 0:
        return False
    is_restricted: bool = _LIBC.syscall(_LANDLOCK_RESTRICT, ruleset, 0) == 0
    os.close(ruleset)
    return is_restricted


def _seccomp() -> bool:
    """Refuse system calls, in all threads; a clone that is no thread is refused too."""
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        return False
    code = [_load(4), _jump(0x15, ARCHITECTURES[machine], 1, 0), _give(_KILL), _load(0)]
    if machine == "x86_64":
        code += [_jump(0x35, 0x40000000, 0, 1), _give(_DENY)]  # the numbers of x32
    code += [
        _jump(0x15, CLONE[machine], 0, 4),
        _load(16),
        _jump(0x45, _CLONE_THREAD, 1, 0),
        _give(_DENY),
        _give(_ALLOW),
    ]
    code += [_jump(0x15, CLONE3, 0, 1), _give(_UNKNOWN)]  # its flags cannot be seen; libc then takes clone
    for number in denied(machine):
        code += [_jump(0x15, number, 0, 1), _give(_DENY)]
    code.append(_give(_ALLOW))
    buffer = ctypes.create_string_buffer(b"".join(code))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code), ctypes.addressof(buffer)))
    return bool(_LIBC.syscall(SECCOMP[machine], _SECCOMP_SET_FILTER, _SECCOMP_ALL_THREADS, program) == 0)


def _load(offset: int) -> bytes:
    return struct.pack("HBBI", 0x20, 0, 0, offset)


def _jump(kind: int, value: int, if_true: int, if_false: int) -> bytes:
    return struct.pack("HBBI", kind, if_true, if_false, value)


def _give(verdict: int) -> bytes:
    return struct.pack("HBBI", 0x06, 0, 0, verdict)
