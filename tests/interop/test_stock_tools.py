"""The unmodified tools of the reference print the same for this server as for the reference.

``recordings/stock_tools.json`` is what the tools said of the reference in the same situation:

    LARDER_TEST_REFERENCE=1 LARDER_RECORD=1 PYTHON -m pytest tests/interop/test_stock_tools.py
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from lmcache.sdk.context import LMCacheSDKContext
from stock_differences import MORE, OTHER, VOLATILE
from support import stock
from support.process import REFERENCE, ServerProcess, free_port
from support.stock import Worker, prompt
from support.tools import CLI, VIEWER, Ran, run

RECORDING = Path(__file__).parent / "recordings" / "stock_tools.json"
SHAPE = "(2,64,16,2,64):float16:2"  # small: 16 KiB for a token, in blocks of a chunk


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Each leaf by its path."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return {path: value}
    return {leaf: v for key, inner in items for leaf, v in flat(inner, f"{path}/{key}").items()}


def shown_by_the_viewer(ran: Ran) -> dict[str, str]:
    """The name of each line the viewer prints, by the sections it is in."""
    sections: list[str] = []
    names = {}
    for line in re.sub(r"\x1b\[\d+m", "", ran.stdout).splitlines():
        found = re.match(r"( *)([\w\[\]]+)(: |  \[(HEALTHY|UNHEALTHY)\])", line)
        if found:
            depth = len(found[1]) // 2
            sections = [*sections[:depth], found[2]]
            names["/" + "/".join(sections)] = found[4] or "value"
    return names


@pytest.fixture(scope="module")
def outputs() -> dict[str, Any]:
    """The output of each tool for a server with one worker that has stored four chunks."""
    with ServerProcess() as server:
        client = stock.stock_client(server.url)
        worker = Worker(client, "model-of-the-tools", instance=7).register()
        worker.store(prompt(4711))
        http = ["--url", f"http://127.0.0.1:{server.http_port}"]
        json_http = ["--format", "json", *http]
        bench = [
            "bench", "server", "--rpc-url", server.url, *http, "--mode", "cpu", "--transfer-mode", "engine_driven",
            "--num-tokens", "64", "--num-blocks", "64", "--block-size", "16", "--kvcache-shape-spec", SHAPE,
            "--end", "2", "--interval", "0", "--format", "json",
        ]  # fmt: skip
        commands = {
            "ping": [CLI, "ping", "kvcache", *json_http],
            "describe": [CLI, "describe", "kvcache", *json_http],
            "viewer": [VIEWER, "--url", http[1] + "/status"],
            "quota list, none": [CLI, "quota", "list", *json_http],
            "quota set": [CLI, "quota", "set", "team-a", "--limit-gb", "2", *json_http],
            "quota set, default": [CLI, "quota", "set", "_default", "--limit-gb", "0.5", *json_http],
            "quota set, negative": [CLI, "quota", "set", "team-a", "--limit-gb", "-1", *json_http],
            "quota get": [CLI, "quota", "get", "team-a", *json_http],
            "quota get, unknown": [CLI, "quota", "get", "nobody", *json_http],
            "quota list": [CLI, "quota", "list", *json_http],
            "quota delete": [CLI, "quota", "delete", "team-a", *json_http],
            "quota delete, unknown": [CLI, "quota", "delete", "team-a", *json_http],
            "clear": [CLI, "kvcache", "clear", *json_http],
            "describe, cleared": [CLI, "describe", "kvcache", *json_http],
            "ping, nobody there": [CLI, "ping", "kvcache", "--url", f"http://127.0.0.1:{free_port()}"],
            "bench server": [CLI, *bench],
        }
        ran = dict(zip(commands, run(*commands.values()), strict=True))
        worker.close()
        client.close()
        server.assert_healthy()
    outputs = {}
    for tool, one in ran.items():
        if tool == "viewer":
            shown: Any = shown_by_the_viewer(one)
        elif "{\n" in one.stdout:
            shown = flat(one.json)
        else:
            shown = {}
        outputs[tool] = {"status": one.status, "shown": shown}
    if os.environ.get("LARDER_RECORD") == "1" and REFERENCE:
        RECORDING.write_text(json.dumps(outputs, indent=1) + "\n")
    return outputs


RECORDED = json.loads(RECORDING.read_text()) if RECORDING.exists() else {}


@pytest.mark.parametrize("tool", RECORDED)
def test_tool_output_matches_the_reference(outputs: dict[str, Any], tool: str) -> None:
    theirs, ours = RECORDED[tool], outputs[tool]
    assert ours["status"] == theirs["status"], ours
    expected, shown = theirs["shown"], ours["shown"]
    more, other = ({} if REFERENCE else table.get(tool, {}) for table in (MORE, OTHER))
    beside = {key: next((begin for begin in more if key.startswith(begin)), key) for key in shown.keys() - expected.keys()}
    assert set(beside.values()) <= set(more), "what our server alone shows"
    assert not expected.keys() - shown.keys(), "what the reference alone shows"
    differing = {}
    for key in expected.keys() & shown.keys():
        if key.endswith(VOLATILE):
            assert type(shown[key]) is type(expected[key]), key
        elif shown[key] != expected[key]:
            differing[key] = (expected[key], shown[key])
    assert differing == {key: (theirs, ours) for key, (theirs, ours, _) in other.items()}


def test_every_tool_was_recorded(outputs: dict[str, Any]) -> None:
    assert outputs.keys() == RECORDED.keys()


def test_bench_finds_no_damage(outputs: dict[str, Any]) -> None:
    results = {key.rpartition("/")[2]: value for key, value in outputs["bench server"]["shown"].items()}
    assert (results["total_requests"], results["checksum_ok"], results["checksum_fail"]) == (2, 2, 0)


@pytest.mark.ours
def test_lmcache_driven_bench_is_refused_at_once() -> None:
    """Copies by the server are not served yet; silence would cost the client five minutes for each request."""
    with ServerProcess() as server:
        bench = [
            CLI, "bench", "server", "--rpc-url", server.url, "--url", f"http://127.0.0.1:{server.http_port}",
            "--mode", "cpu", "--transfer-mode", "lmcache_driven", "--num-tokens", "64", "--num-blocks", "64",
            "--block-size", "16", "--kvcache-shape-spec", SHAPE, "--end", "1", "--interval", "0", "--format", "json",
        ]  # fmt: skip
        [ran] = run(bench)
        assert "STORE: store_failed" in ran.stdout
        assert ran.json["metrics"]["results"]["total_requests"] == 1
        server.assert_healthy()


def test_the_sdk_finds_the_chunk_size_and_the_memory(server: ServerProcess) -> None:
    context = LMCacheSDKContext(server.url, f"http://127.0.0.1:{server.http_port}", "any-model", timeout=10)
    try:
        assert (context.chunk_size, context.shm_name) == (server.chunk_size, server.pool_path.name)
    finally:
        context.close()


def test_migration_guide_lists_every_flag_of_the_reference() -> None:
    """docs/migration.md. The tests of the flag table check what it says about each flag."""
    [ran] = run([CLI, "server", "--help"])
    theirs = set(re.findall(r"^  (?:-\w, )?(--[a-z][a-z0-9-]+)", ran.stdout, re.MULTILINE))
    assert len(theirs) > 80, "else this test sees nothing"
    guide = (Path(__file__).parents[2] / "docs" / "migration.md").read_text()
    listed = set(re.findall(r"`(--[a-z][a-z0-9-]+)`", guide))
    assert theirs - listed == {"--help"}
