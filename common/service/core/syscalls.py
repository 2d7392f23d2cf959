"""What the trusted core never asks the kernel for once it is ready, with the numbers of two architectures.

Files, the network, other processes, other programs, and the kernel's back doors. Numbers: the kernel's
``syscall_64.tbl`` and ``asm-generic/unistd.h``; 0 is a call that the architecture does not have.
"""

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_*
_DENIED = """
accept 43 202, accept4 288 242, add_key 248 217, bind 49 200, bpf 321 280, chmod 90 0, chown 92 0, chroot 161 51,
connect 42 203, creat 85 0, delete_module 176 106, execve 59 221, execveat 322 281, fchmod 91 52, fchmodat 268 53,
fchown 93 55, fchownat 260 54, finit_module 313 273, fork 57 0, fsmount 432 432, fsopen 430 430, init_module 175 105,
io_uring_setup 425 425, kcmp 312 272, kexec_file_load 320 294, kexec_load 246 104, keyctl 250 219, kill 62 129,
lchown 94 0, link 86 0, linkat 265 37, listen 50 201, mkdir 83 0, mkdirat 258 34, mknod 133 0, mknodat 259 33,
mount 165 40, move_mount 429 429, name_to_handle_at 303 264, open 2 0, open_by_handle_at 304 265, open_tree 428 428,
openat 257 56, openat2 437 437, perf_event_open 298 241, pidfd_getfd 438 438, pidfd_open 434 434, pivot_root 155 41,
process_vm_readv 310 270, process_vm_writev 311 271, ptrace 101 117, reboot 169 142, rename 82 0, renameat 264 38,
renameat2 316 276, request_key 249 218, rmdir 84 0, setns 308 268, setresgid 119 149, setresuid 117 147, setuid 105 146,
socket 41 198, socketpair 53 199, symlink 88 0, symlinkat 266 36, truncate 76 45, umount2 166 39, unlink 87 0,
unlinkat 263 35, unshare 272 97, userfaultfd 323 282, vfork 58 0
"""
CLONE = {"x86_64": 56, "aarch64": 220}  # allowed for threads alone
CLONE3 = 435
SECCOMP = {"x86_64": 317, "aarch64": 277}


def denied(machine: str) -> tuple[int, ...]:
    """Give the numbers for an architecture of ``ARCHITECTURES``."""
    place = list(ARCHITECTURES).index(machine)
    numbers = (int(each.split()[1 + place]) for each in _DENIED.split(","))
    return tuple(number for number in numbers if number)
