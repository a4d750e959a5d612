"""What a process may still do once it reads a stranger's file.

``limit`` comes first and bounds what the process can use up. ``confine`` comes when everything
is imported: a seccomp filter leaves the system calls that computing and reading open
descriptors need. So a decoder that a file takes over cannot open a file, reach the network,
start a process, signal another one, make memory executable, or write anywhere but into its
answer.

Not isolated: the process runs as the server's user and sees the time and its own descriptors
(the one file, read-only, and the pipe of its answer). Where there is no seccomp (another
architecture, a kernel or container that refuses it) ``confine`` returns False and only the
limits hold: then files of the server's user and the network are within its reach.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

MEMORY = 1536 * 1024 * 1024  # bytes of address space
CPU_SECONDS = 20

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_SECCOMP_MODE_FILTER = 2
_SIGKILL = 9

_LOAD, _EQUALS, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06  # of classic BPF
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_PROT_EXEC, _MAP_ANONYMOUS, _CLONE_THREAD = 0x4, 0x20, 0x10000


class _Calls(NamedTuple):
    """The numbers of one architecture's system calls."""

    audit: int  # how seccomp names the architecture
    plain: frozenset[int]
    refused: frozenset[int]  # these fail as on a file that may not be read: Python expects that
    write: int
    mmap: int
    mprotect: int
    tgkill: int
    clone: int


_CALLS = {
    "x86_64": _Calls(
        audit=0xC000003E,
        # read close fstat lseek munmap brk rt_sigaction rt_sigprocmask rt_sigreturn pread64
        # sched_yield mremap madvise nanosleep getpid exit gettimeofday getrusage sysinfo
        # sigaltstack gettid time futex sched_getaffinity restart_syscall clock_gettime
        # clock_getres clock_nanosleep exit_group newfstatat set_robust_list getcpu getrandom rseq
        plain=frozenset(
            {0, 3, 5, 8, 11, 12, 13, 14, 15, 17, 24, 25, 28, 35, 39, 60, 96, 98, 99, 131, 186}
            | {201, 202, 204, 219, 228, 229, 230, 231, 262, 273, 309, 318, 334}
        ),
        refused=frozenset({2, 4, 6, 21, 89, 257, 267, 269, 332, 437, 439}),
        write=1,
        mmap=9,
        mprotect=10,
        tgkill=234,
        clone=56,
    ),
    "aarch64": _Calls(
        audit=0xC00000B7,
        # close lseek read pread64 newfstatat fstat exit exit_group futex set_robust_list
        # nanosleep clock_gettime clock_getres clock_nanosleep sched_getaffinity sched_yield
        # restart_syscall sigaltstack rt_sigaction rt_sigprocmask rt_sigreturn getrusage getcpu
        # gettimeofday getpid gettid sysinfo brk munmap mremap madvise getrandom rseq
        plain=frozenset(
            {57, 62, 63, 67, 79, 80, 93, 94, 98, 99, 101, 113, 114, 115, 123, 124, 128, 132}
            | {134, 135, 139, 165, 168, 169, 172, 178, 179, 214, 215, 216, 233, 278, 293}
        ),
        refused=frozenset({48, 56, 78, 291, 437, 439}),
        write=64,
        mmap=222,
        mprotect=226,
        tgkill=131,
        clone=220,
    ),
}


def limit() -> None:
    """Bound what this process can use up, and let the kernel take it before the server."""
    _lower(resource.RLIMIT_AS, MEMORY)
    _lower(resource.RLIMIT_CPU, CPU_SECONDS)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_NOFILE, 32)
    _lower(resource.RLIMIT_CORE, 0)
    with suppress(OSError):
        os.nice(10)  # the kernel derives the priority of reads from it too
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    libc = ctypes.CDLL(None)
    _prctl(libc, _PR_SET_PDEATHSIG, _SIGKILL)
    _prctl(libc, _PR_SET_NO_NEW_PRIVS, 1)
    _prctl(libc, _PR_SET_DUMPABLE, 0)  # a core would hold the file; also none may attach


def confine(output: int) -> bool:
    """Give up everything but computing, reading open descriptors and writing to ``output``.

    Whether the kernel took the filter. There is no way back.
    """
    calls = _CALLS.get(platform.machine())
    # The numbers above are those of 64-bit processes; the fields below of little-endian ones.
    if calls is None or sys.maxsize < 2**32 or sys.byteorder != "little":
        return False
    program = b"".join(_filter(calls, output))
    instructions = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))
    passed = ctypes.create_string_buffer(header, len(header))
    libc = ctypes.CDLL(None)
    address = ctypes.addressof(passed)
    return _prctl(libc, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, address) == 0


def _lower(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))


def _prctl(libc: ctypes.CDLL, option: int, second: int, third: int = 0) -> int:
    words = (ctypes.c_ulong(each) for each in (second, third, 0, 0))
    return int(libc.prctl(ctypes.c_int(option), *words))


def _filter(calls: _Calls, output: int) -> list[bytes]:
    number, architecture = 0, 4  # offsets in the data that a filter sees
    return [
        _step(_LOAD, architecture),
        _step(_EQUALS, calls.audit, 1, 0),
        _step(_RETURN, _ERRNO | errno.ENOSYS),
        _step(_LOAD, number),
        *(step for call in sorted(calls.plain) for step in _on(call, _ALLOW)),
        *(step for call in sorted(calls.refused) for step in _on(call, _ERRNO | errno.EACCES)),
        *_on_argument(calls.write, 0, _EQUALS, output, yes=_ALLOW, no=_ERRNO | errno.EBADF),
        *_on_argument(calls.tgkill, 0, _EQUALS, os.getpid(), yes=_ALLOW, no=_ERRNO | errno.EPERM),
        *_on_argument(
            calls.mprotect, 2, _ANY_BIT, _PROT_EXEC, yes=_ERRNO | errno.EACCES, no=_ALLOW
        ),
        # Threads, which a decoder may insist on, but no processes. Of clone3 a filter cannot
        # see the flags; the C library makes do with clone.
        *_on_argument(calls.clone, 0, _ANY_BIT, _CLONE_THREAD, yes=_ALLOW, no=_ERRNO | errno.EPERM),
        *_on_mmap(calls.mmap),
        # To the libraries everything else looks like a call that an older kernel lacks.
        _step(_RETURN, _ERRNO | errno.ENOSYS),
    ]


def _on(call: int, verdict: int) -> list[bytes]:
    return [_step(_EQUALS, call, 0, 1), _step(_RETURN, verdict)]


def _on_argument(
    call: int, index: int, test: int, operand: int, *, yes: int, no: int
) -> list[bytes]:
    return [
        _step(_EQUALS, call, 0, 4),
        _step(_LOAD, _argument(index)),
        _step(test, operand, 0, 1),
        _step(_RETURN, yes),
        _step(_RETURN, no),
    ]


def _on_mmap(call: int) -> list[bytes]:
    """Memory of one's own that nobody runs: not code, not a file."""
    return [
        _step(_EQUALS, call, 0, 6),
        _step(_LOAD, _argument(2)),
        _step(_ANY_BIT, _PROT_EXEC, 3, 0),
        _step(_LOAD, _argument(3)),
        _step(_ANY_BIT, _MAP_ANONYMOUS, 0, 1),
        _step(_RETURN, _ALLOW),
        _step(_RETURN, _ERRNO | errno.EACCES),
    ]


def _argument(index: int) -> int:
    """Where the low half of a call's argument stands."""
    return 16 + 8 * index


def _step(code: int, operand: int, when_true: int = 0, when_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, when_true, when_false, operand)
