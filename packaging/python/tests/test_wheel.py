"""The wheel as pip installs it: the command, the hook in a real interpreter, and nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from environment import Environment, wheel
from lmcache.integration.vllm.mp_server_launcher import MPServerAutostartConfig
from support.process import eventually, free_port, unique_name
from support.raw import RawConnection


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("wheel") / "venv").install()


def output(*command: str | Path, **variables: str) -> str:
    environment = dict(os.environ, **variables)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment)
    return done.stdout.strip()


def test_the_command_is_there(installed: Environment) -> None:
    version = output(installed.larder, "--version")
    assert version.startswith("larder ")
    assert output(installed.python, "-m", "larder_kv", "--version") == version
    assert version.removeprefix("larder ") in wheel().name


def test_interpreter_imports_nothing_unless_enabled(installed: Environment) -> None:
    ask = "import sys; print('larder_kv' in sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name != "LARDER_AUTOSTART"}
    done = subprocess.run([installed.python, "-c", ask], capture_output=True, text=True, check=True, env=environment)
    assert (done.stdout.strip(), done.stderr) == ("False", "")
    assert output(installed.python, "-c", ask, LARDER_AUTOSTART="1") == "True", "else this test sees nothing"


def test_wheel_tag_names_a_sufficient_glibc() -> None:
    with zipfile.ZipFile(wheel()) as archive:
        [name] = [name for name in archive.namelist() if name.endswith("/scripts/larder")]
        content = archive.read(name)
    needed = max(int(minor) for minor in re.findall(rb"\0GLIBC_2\.(\d+)", content))
    tagged = [int(minor) for minor in re.findall(r"manylinux_2_(\d+)_", wheel().name)]
    assert tagged and min(tagged) >= needed, f"{wheel().name} needs glibc 2.{needed}"


def test_uninstall_removes_every_file(tmp_path: Path) -> None:
    environment = Environment(tmp_path / "venv")
    before = environment.files()
    environment.install()
    assert environment.files() - before, "else this test sees nothing"
    environment.uninstall()
    assert environment.files() == before


class Autostarted:
    """A process as an engine's launcher starts it, with the command of the installed LMCache."""

    def __init__(self, environment: Environment, **variables: str) -> None:
        self.port, self.name = free_port(), unique_name()
        flags = f"--l1-size-gb 0.03125 --eviction-policy LRU --http-port {free_port()} --shm-name {self.name}"
        config = MPServerAutostartConfig.from_extra_config(
            {"lmcache.mp.autostart": True, "lmcache.mp.autostart.server_args": flags}, "127.0.0.1", self.port
        )
        command = [str(environment.python), *config.command()[1:]]
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env=dict(os.environ, **variables)
        )

    def program(self) -> str:
        return os.readlink(f"/proc/{self.process.pid}/exe")

    def ended(self) -> tuple[int, str]:
        _, output = self.process.communicate(timeout=30)
        return self.process.returncode, output

    def pool(self) -> Path:
        return Path("/dev/shm") / f"lmcache_l1_pool_{self.name}"

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.pool().unlink(missing_ok=True)


@pytest.fixture
def autostart(installed: Environment) -> Iterator[object]:
    started: list[Autostarted] = []

    def start(**variables: str) -> Autostarted:
        started.append(Autostarted(installed, **variables))
        return started[-1]

    yield start
    for one in started:
        one.close()


def test_launcher_process_becomes_the_server(installed: Environment, autostart: object) -> None:
    launched = autostart(LARDER_AUTOSTART="1")
    with RawConnection(f"tcp://127.0.0.1:{launched.port}") as connection:
        assert connection.call("ping", None) is True
    assert Path(launched.program()).samefile(installed.larder), "same process id, another program"
    launched.process.send_signal(signal.SIGTERM)
    status, log = launched.ended()
    assert status == 0, log
    assert not launched.pool().exists()


def test_server_stops_after_its_last_engine(autostart: object) -> None:
    launched = autostart(LARDER_AUTOSTART="1", LMCACHE_SERVER_EXIT_WHEN_IDLE_SECONDS="0.1")
    status, log = launched.ended()
    assert (status, "exit-when-idle" in log) == (0, True), log
    assert not launched.pool().exists()


def test_python_server_starts_unless_enabled(autostart: object) -> None:
    status, log = autostart(LARDER_AUTOSTART="0").ended()
    assert (status, "lmcache" in log, "larder" in log) == (1, True, False), log


def test_bad_flag_is_reported(autostart: object) -> None:
    status, log = autostart(LARDER_AUTOSTART="1", LMCACHE_SERVER_CHUNK_SIZE="0").ended()
    assert (status, "LMCACHE_SERVER_CHUNK_SIZE" in log) == (2, True), log
