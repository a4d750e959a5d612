"""What the worker can still do once it reads a file."""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
import textwrap

import pytest

CONFINED = """
import ctypes, mmap, os, signal, socket, subprocess, sys, threading
from upwell.media import sandbox
sandbox.limit()
libc = ctypes.CDLL(None, use_errno=True)
other = os.dup(2)
parent = os.getppid()
taken = sandbox.confine(1)
def denied(act):
    try:
        act()
    except OSError:
        return
    except RuntimeError as error:
        assert "thread" in str(error)
        return
    os.write(1, b"it could\\n")
    os._exit(1)
"""

needs_seccomp = pytest.mark.skipif(
    platform.machine() not in {"x86_64", "aarch64"}, reason="the filter knows two architectures"
)


def confined(script: str) -> tuple[int, str]:
    with tempfile.TemporaryFile() as file:
        done = subprocess.run(
            [sys.executable, "-I", "-c", CONFINED + textwrap.dedent(script)],
            stdin=file, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@needs_seccomp
@pytest.mark.parametrize(
    "act",
    [
        "open('/etc/passwd')",
        "os.open('/tmp/upwell-x', os.O_CREAT | os.O_WRONLY)",
        "os.listdir('/proc')",
        "os.unlink('/tmp/upwell-x')",
        "os.mkdir('/tmp/upwell-x')",
        "os.rename('/tmp/upwell-x', '/tmp/upwell-y')",
        "os.readlink('/proc/self/exe')",
        "socket.socket()",
        "socket.socketpair()",
        "os.fork()",
        "subprocess.run(['/bin/true'])",
        "os.execv('/bin/true', ['true'])",
        "os.kill(parent, signal.SIGTERM)",
        "os.kill(os.getpid(), 0)",
        "os.write(other, b'x')",
        "os.write(0, b'x')",
        "os.ftruncate(0, 1)",
        "os.pwrite(0, b'x', 0)",
        "os.memfd_create('x')",
        "os.pipe()",
        "os.setpriority(os.PRIO_PROCESS, 0, -5)",
        "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)",
        "os.chdir('/tmp')",
        "os.chmod('/tmp', 0o777)",
    ],
)
def test_denied(act: str) -> None:
    code, text = confined(f"denied(lambda: {act})\nos.write(1, b'denied')\nos._exit(0)")
    assert (code, text) == (0, "denied")


@needs_seccomp
def test_memory_cannot_become_code() -> None:
    code, text = confined(
        """
        page = mmap.mmap(-1, 4096)
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        failed = libc.mprotect(ctypes.c_void_p(address), 4096, 7)
        os.write(1, str((failed, ctypes.get_errno())).encode())
        os._exit(0)
        """
    )
    assert (code, text) == (0, "(-1, 13)")


@needs_seccomp
def test_computing_goes_on() -> None:
    code, text = confined(
        """
        assert taken
        assert os.pread(0, 10, 0) == b""
        assert len(bytearray(300 * 2**20)) == 300 * 2**20
        ran = []
        thread = threading.Thread(target=ran.append, args=(1,))
        thread.start()
        thread.join()
        assert ran == [1]
        os.write(1, b"fine")
        os._exit(0)
        """
    )
    assert (code, text) == (0, "fine")


def test_memory_ends() -> None:
    code, text = confined(
        """
        try:
            bytearray(2 * 2**30)
        except MemoryError:
            os.write(1, b"ended")
        os._exit(0)
        """
    )
    assert (code, text) == (0, "ended")


def test_without_a_filter_the_limits_hold() -> None:
    script = """
        import platform, resource
        platform.machine = lambda: "pdp11"
        from upwell.media import sandbox
        sandbox.limit()
        assert not sandbox.confine(1)
        assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
        assert os.nice(0) >= 10
        assert open("/proc/self/oom_score_adj").read() == "1000\\n"
        try:
            open("/dev/shm/upwell-x", "w").write("x" * 9999)
        except OSError:
            print("held")
    """
    done = subprocess.run(
        [sys.executable, "-I", "-c", "import os\n" + textwrap.dedent(script)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    subprocess.run(["rm", "-f", "/dev/shm/upwell-x"], check=False)
    assert done.stdout == "held\n", done.stderr
