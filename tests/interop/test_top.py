"""``larder top`` in a pseudoterminal."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support.process import ServerProcess, larder_binary

pytestmark = pytest.mark.ours

ANSWER_S = 30.0
ALTERNATE_SCREEN, MAIN_SCREEN = b"\x1b[?1049h", b"\x1b[?1049l"
HIDE_CURSOR, SHOW_CURSOR = b"\x1b[?25l", b"\x1b[?25h"


class Terminal:
    """A program on a terminal of 80 by 24."""

    def __init__(self, command: list[str], **environment: str) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        env = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"TERM": "xterm-256color"} | environment
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True, close_fds=True
        )
        self.written = b""

    def until(self, text: bytes) -> None:
        """Read until ``text`` was written."""
        deadline = time.monotonic() + ANSWER_S
        while text not in self.written:
            left = deadline - time.monotonic()
            assert left > 0 and select.select([self.master], [], [], left)[0], f"never {text!r}: {self.written[-2000:]!r}"
            self.written += os.read(self.master, 1 << 16)

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        os.close(self.slave)
        os.close(self.master)


@pytest.fixture
def top(server: ServerProcess) -> Iterator[Any]:
    opened: list[Terminal] = []

    def start(url: str = f"http://127.0.0.1:{server.http_port}", **environment: str) -> Terminal:
        opened.append(Terminal([larder_binary(), "top", "--interval", "0.2", "--url", url], **environment))
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.close()


@pytest.mark.parametrize("key", [b"q", b"\x1b", b"\x03"], ids=["q", "Esc", "Ctrl-C"])
def test_quit_key_restores_the_terminal(top: Any, key: bytes) -> None:
    terminal = top()
    terminal.until(b"HEALTHY")
    assert ALTERNATE_SCREEN in terminal.written and HIDE_CURSOR in terminal.written
    terminal.type(key)
    terminal.until(MAIN_SCREEN)
    assert terminal.process.wait(ANSWER_S) == 0
    terminal.until(SHOW_CURSOR)
    assert termios.tcgetattr(terminal.slave) == terminal.before


def test_no_color_is_respected(top: Any) -> None:
    colored, plain = top(), top(NO_COLOR="1")
    for terminal in (colored, plain):
        terminal.until(b"HEALTHY")
        terminal.until(b"POLICIES")
    assert b"\x1b[38;5;" in colored.written
    assert b"\x1b[38;5;" not in plain.written


def test_top_reconnects_to_a_restarted_server(start: Any, top: Any) -> None:
    server = start()
    terminal = top(f"http://127.0.0.1:{server.http_port}")
    terminal.until(b"HEALTHY")
    server.kill()
    terminal.until(b"NO ANSWER")
    terminal.written = b""
    server.start()
    terminal.until(b"HEALTHY")
