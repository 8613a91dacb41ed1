"""Clients of several versions on one server at once: what one stores, each of the others reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.process import ServerProcess
from support.stock import fresh_model

pytestmark = pytest.mark.ours

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = ROOT / ".cache" / "clients"
TALK = Path(__file__).parent / "support" / "version_talk.py"

# One old client, one of today, one that is to come. LARDER_CLIENTS=0.4.7,0.5.1,... tests others.
VERSIONS = os.environ.get("LARDER_CLIENTS", "0.4.7,0.5.6,0.5.7rc2").split(",")


def install(version: str) -> Path:
    """The folder of LMCache of that version, without what it depends on; installed once."""
    folder = INSTALLED / f"lmcache-{version}"
    if not folder.is_dir():
        fresh = folder.with_name(f".{folder.name}-{os.getpid()}")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--target", str(fresh), f"lmcache=={version}"], check=True)
        fresh.rename(folder)
    return folder


def talk(version: str, server: ServerProcess, what: str, models: list[str]) -> list[dict]:
    environment = dict(os.environ, PYTHONPATH=str(install(version)))
    command = [sys.executable, str(TALK), server.url, what, ",".join(models), "64"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{what} of {version}: {done.stderr[-2000:]}"
    return json.loads(done.stdout.splitlines()[-1])


def test_each_version_reads_what_all_versions_store(server: ServerProcess) -> None:
    models = {version: fresh_model() for version in VERSIONS}
    for version, model in models.items():
        assert talk(version, server, "store", [model]) == [{"chunks": 4, "ok": True}], f"{version} stores"
    for version in VERSIONS:
        seen = dict(zip(VERSIONS, talk(version, server, "load", list(models.values())), strict=True))
        assert seen == dict.fromkeys(VERSIONS, {"chunks": 4, "ok": True}), f"what {version} reads, by writer"
