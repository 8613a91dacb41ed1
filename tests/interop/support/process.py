"""One server process: Larder by default, the Python reference when asked for.

``LARDER_BIN`` names the binary. With ``LARDER_TEST_REFERENCE=1`` the same tests run
against the Python reference server of the installed LMCache instead; that is how we
know that a test states what stock clients see and not only what we built.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .raw import RawConnection

REFERENCE = os.environ.get("LARDER_TEST_REFERENCE", "") == "1"
STARTUP_S = 10.0
REFERENCE_STARTUP_S = 120.0
POOL_PREFIX = "lmcache_l1_pool_"

_serial = itertools.count()
_PR_SET_PDEATHSIG = 1
# A log line is: time, level, message; as JSON, it has a field "level".
_PROBLEM = re.compile(r"^[0-9T:.-]+Z +(WARN|ERROR) |\"level\":\"(WARN|ERROR)\"|panicked at")


def unique_name(prefix: str = "larder_test") -> str:
    """A shared-memory name no other test, and no other test run, uses."""
    return f"{prefix}_{os.getpid()}_{next(_serial)}_{time.monotonic_ns() % 1_000_000}"


def free_port() -> int:
    """A TCP port that is free right now, outside the range from which the system takes ports for outgoing connections."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def eventually(condition: Callable[[], Any], expected: str, timeout_s: float = 10.0, every_s: float = 0.02) -> Any:
    """Poll until ``condition`` is truthy; fail naming what was expected."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"expected within {timeout_s:.0f} s: {expected}; last seen: {value!r}")
        time.sleep(every_s)


def _die_with_parent() -> None:
    """SIGTERM, not SIGKILL: a server whose test runner was killed still removes its pool."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def larder_binary() -> str:
    path = os.environ.get("LARDER_BIN", "")
    if not path or not os.access(path, os.X_OK):
        raise RuntimeError(f"LARDER_BIN must name the built server binary, not {path!r} (run 'make build')")
    return path


def unexpected_lines(log: str, expected: tuple[str, ...] = ()) -> list[str]:
    """WARN and ERROR lines of a server's log, and panics, that no pattern of `expected` matches."""
    problems = [line for line in log.splitlines() if _PROBLEM.search(line)]
    return [line for line in problems if not any(re.search(pattern, line) for pattern in expected)]


@dataclass
class HttpAnswer:
    status: int
    content_type: str
    body: str


@dataclass
class ServerProcess:
    """A server on free ports with its own shared-memory name. Use as a context manager."""

    flags: tuple[str, ...] = ()
    chunk_size: int = 16
    l1_gib: float = 0.25
    shm_name: str = field(default_factory=unique_name)
    port: int = field(default_factory=free_port)
    http_port: int = field(default_factory=free_port)
    reference: bool = REFERENCE
    user: int | None = None
    environment: dict[str, str] = field(default_factory=dict)
    # Patterns of the WARN and ERROR lines that may be in the log; any other fails the test at `close`.
    expected_log: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        handle, self.log_path = tempfile.mkstemp(prefix="larder-server-", suffix=".log")
        os.close(handle)

    # -- addresses ------------------------------------------------------
    @property
    def url(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    @property
    def pool_path(self) -> Path:
        return Path("/dev/shm") / (POOL_PREFIX + self.shm_name)

    @property
    def pid(self) -> int:
        assert self.process is not None, "the server was not started"
        return self.process.pid

    # -- start and stop -------------------------------------------------------------
    def command(self) -> list[str]:
        if self.reference:
            program = [
                str(Path(sys.executable).parent / "lmcache"),
                "server",
                "--no-l1-use-lazy",
                "--eviction-policy",
                "LRU",
                "--supported-transfer-mode",
                "auto",
                "--prometheus-port",
                str(free_port()),
            ]
        else:
            program = [larder_binary(), "server"]
        return [
            *program,
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--http-port",
            str(self.http_port),
            "--chunk-size",
            str(self.chunk_size),
            "--l1-size-gb",
            str(self.l1_gib),
            "--shm-name",
            self.shm_name,
            *self.flags,
        ]

    def spawn(self) -> ServerProcess:
        """Start the process without waiting for it to answer."""
        environment = dict(os.environ, LMCACHE_TRACK_USAGE="false", LMCACHE_DISABLE_BANNER="1", PYTHONHASHSEED="0")
        environment |= self.environment
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                user=self.user,
                preexec_fn=_die_with_parent,
            )
        return self

    def start(self) -> ServerProcess:
        """Start the process and wait until it answers a ping."""
        self.spawn()
        startup_s = REFERENCE_STARTUP_S if self.reference else STARTUP_S
        deadline = time.monotonic() + startup_s
        with RawConnection(self.url) as probe:
            probe.send("ping", None)
            while probe.poll(0.02) is None:
                if self.process.poll() is not None:
                    raise RuntimeError(
                        f"the server exited with {self.process.returncode} before answering:\n{self.log()}"
                    )
                if time.monotonic() > deadline:
                    self.kill()
                    raise TimeoutError(f"the server did not answer within {startup_s:.0f} s:\n{self.log()}")
        return self

    def terminate(self, timeout_s: float = 20.0) -> int:
        """SIGTERM and wait; the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the server did not end within {timeout_s:.0f} s of SIGTERM:\n{self.log()}") from None

    def kill(self) -> None:
        """SIGKILL and reap."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def restart(self) -> None:
        """SIGKILL, then the same command on the same ports with the same pool name."""
        self.kill()
        self.start()

    def close(self) -> None:
        """SIGKILL, remove what the server left, and fail if it logged an unexpected WARN or ERROR."""
        self.kill()
        unexpected = self.unexpected_log_lines()
        if self.shm_name:
            self.pool_path.unlink(missing_ok=True)
        Path(self.log_path).unlink(missing_ok=True)
        assert not unexpected, "unexpected lines in the server's log:\n" + "\n".join(unexpected[:10])

    def __enter__(self) -> ServerProcess:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, failure: object, *_: object) -> None:
        try:
            self.close()
        except AssertionError:
            if failure is None:  # else the first failure is the one to report
                raise

    # -- inspection ----------------------------------------------------
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def log(self) -> str:
        return Path(self.log_path).read_text(errors="replace")

    def unexpected_log_lines(self) -> list[str]:
        if self.reference or not os.path.exists(self.log_path):
            return []
        return unexpected_lines(self.log(), self.expected_log)

    def log_lines(self, *parts: str) -> list[str]:
        """The lines of the log that contain all of the parts, a level such as " WARN " among them."""
        return [line for line in self.log().splitlines() if all(part in line for part in parts)]

    def assert_healthy(self) -> None:
        """Still running, with no unexpected WARN or ERROR in its log."""
        assert self.alive(), f"the server ended with status {self.process.returncode}:\n{self.log()[-4000:]}"
        unexpected = self.unexpected_log_lines()
        assert not unexpected, "unexpected lines in the server's log:\n" + "\n".join(unexpected[:10])

    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def resident_mib(self) -> float:
        """Resident memory without the shared pool."""
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{self.pid}/status").read_text().splitlines())
        return (int(fields["RssAnon"].split()[0]) + int(fields["RssFile"].split()[0])) / 1024

    def connection(self) -> RawConnection:
        return RawConnection(self.url)

    def http(self, path: str, method: str = "GET", body: bytes | None = None) -> HttpAnswer:
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", data=body, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return HttpAnswer(answer.status, answer.headers.get("Content-Type", ""), answer.read().decode())
        except urllib.error.HTTPError as error:
            return HttpAnswer(error.code, error.headers.get("Content-Type", ""), error.read().decode())

    def metrics(self) -> dict[str, float]:
        """Every sample of ``/metrics``, by name with labels as printed."""
        samples = {}
        for line in self.http("/metrics").body.splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                samples[name] = float(value)
        return samples

    def metric(self, name: str) -> float:
        """The sum of a metric over its label sets."""
        found = [v for k, v in self.metrics().items() if k.split("{")[0] == name]
        assert found, f"/metrics has no {name}"
        return sum(found)
