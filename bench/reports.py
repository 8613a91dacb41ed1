#!/usr/bin/env python3
"""Replay what users of cache servers have reported, on Larder and on the Python reference.

    LARDER_BIN=target/release/larder bench/reports.py            # a table in Markdown
    LARDER_BIN=... bench/reports.py --case other_type --server larder

Run it with a Python that has LMCache. Every case runs in a process of its own and against fresh servers; both servers get
the same calls from LMCache's own client, and default settings but for ports, sizes and an L2 directory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "interop"))

CHUNKS = 8
SERVERS = ("larder", "reference")
SETTLE_S = 20.0
# After a server has ended, LMCache's client now and then opens no connection any more; such a run is repeated.
CLIENT_TRIES = 3

CASES: dict[str, tuple[str, str, Callable[[str, Path], str]]] = {}


def case(report: str, what: str) -> Callable[[Callable[[str, Path], str]], Callable[[str, Path], str]]:
    """Register a case: the public report, what is done, and a function that returns what was seen."""

    def register(function: Callable[[str, Path], str]) -> Callable[[str, Path], str]:
        CASES[function.__name__] = (report, what, function)
        return function

    return register


@contextmanager
def server(kind: str, directory: Path | None = None, *flags: str, **adapter: Any) -> Any:
    from support import process as processes

    # It imports much, and a busy machine takes minutes for that.
    processes.REFERENCE_STARTUP_S = 600.0
    l2 = {"type": "fs_native", "base_path": str(directory)} | adapter
    given = ("--l2-adapter", json.dumps(l2)) if directory else ()
    process = processes.ServerProcess(flags=(*given, *flags), reference=kind == "reference", expected_log=(".",))
    with process:
        yield process


@contextmanager
def worker(process: Any, **shape: Any) -> Any:
    from support.stock import Shape, Worker, stock_client

    client = stock_client(process.url)
    one = Worker(client, "org/model", Shape(**shape)).register()
    try:
        yield one
    finally:
        one.close()
        client.close()


def prompt() -> list[int]:
    from support.stock import prompt as of_seed

    return of_seed(7, CHUNKS * 16)


def files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*.data") if path.is_file())


def settle(directory: Path) -> None:
    """Wait until the prompt is in L2."""
    end = time.monotonic() + SETTLE_S
    while len(files(directory)) < CHUNKS and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(0.5)


def served(one: Any, tokens: list[int]) -> str:
    """Look up and read as another engine: what was stored is not what it could use."""
    seen = read(one, tokens)
    return seen if seen == "a miss" else seen.split(",")[0] + " and served, of another layout"


def read(one: Any, tokens: list[int]) -> str:
    """Look up and read: how many chunks were promised, and how many of them were right, wrong or not delivered."""
    from support.stock import as_bytes, fresh_request

    request = fresh_request("read")
    promised = one.lookup(tokens, request)
    if not promised:
        return "a miss"
    copied = one.try_retrieve(tokens, request, 0, promised * 16)
    if copied is None:
        return f"{promised} chunks promised, none delivered"
    wrong = sum(raw != as_bytes(one.expected(tokens, i)) for i, raw in enumerate(copied))
    return f"{promised} chunks promised, {len(copied) - wrong} right, {wrong} wrong"


def stored(kind: str, directory: Path, **flags: Any) -> None:
    """A server stores the prompt to L2 and is killed."""
    with server(kind, directory, **flags) as process, worker(process) as one:
        one.store(prompt())
        settle(directory)


@case("", "A server with a prompt in L2 is killed; a new one is asked for the prompt")
def killed(kind: str, directory: Path) -> str:
    stored(kind, directory)
    with server(kind, directory) as process, worker(process) as one:
        return read(one, prompt())


@case("LMCache#1856, LMCache#4492", "KV data is stored as float16; after a restart an engine with bfloat16 asks for it")
def other_type(kind: str, directory: Path) -> str:
    stored(kind, directory)
    with server(kind, directory) as process, worker(process, dtype="bfloat16") as one:
        return served(one, prompt())


@case("sglang#24758", "KV data is stored as 2 layers of 8 elements; an engine with 4 layers of 4 asks for it")
def other_shape(kind: str, directory: Path) -> str:
    stored(kind, directory)
    with server(kind, directory) as process, worker(process, layers=4, hidden=4) as one:
        return served(one, prompt())


@case("LMCache#1313", "Half of the files in L2 are removed before a lookup")
def removed_files(kind: str, directory: Path) -> str:
    stored(kind, directory)
    for path in files(directory)[::2]:
        path.unlink()
    with server(kind, directory) as process, worker(process) as one:
        return read(one, prompt())


def damaged(kind: str, directory: Path, damage: Callable[[bytes], bytes]) -> str:
    stored(kind, directory)
    for path in files(directory):
        path.write_bytes(damage(path.read_bytes()))
    with server(kind, directory) as process, worker(process) as one:
        return read(one, prompt())


@case("", "A power cut: files in L2 keep their length and hold zeros")
def zeros(kind: str, directory: Path) -> str:
    return damaged(kind, directory, lambda data: bytes(len(data)))


@case("", "Files in L2 are cut to half their length")
def cut_files(kind: str, directory: Path) -> str:
    return damaged(kind, directory, lambda data: data[: len(data) // 2])


@case("LMCache#4564", "A server with a prompt in L2 is started again: bytes that `/status` shows for L2")
def usage(kind: str, directory: Path) -> str:
    stored(kind, directory, max_capacity_gb=1, eviction={"eviction_policy": "LRU"})
    with server(kind, directory, max_capacity_gb=1, eviction={"eviction_policy": "LRU"}) as process:
        status = json.loads(process.http("/status").body)["storage_manager"]
        shown = status["l2_eviction_controller"]["adapters"][0]["total_bytes_used"]
        return f"{shown} of {sum(path.stat().st_size for path in files(directory))} bytes"


@case("LMCache#1165, vllm#27987", "Two engines look up different prompts under one request id, then ask for their results")
def request_id(kind: str, directory: Path) -> str:
    from support.stock import prompt as of_seed

    with server(kind) as process, worker(process) as one, worker(process) as other:
        one.store(prompt())
        unknown = of_seed(8, CHUNKS * 16)
        keys = [w.key(tokens, "same", worker_id=None) for w, tokens in ((one, prompt()), (other, unknown))]
        one.client.lookup(keys[0], 1).result(10)
        other.client.lookup(keys[1], 1).result(10)
        seen = [w.client.wait_prefetch_status("same", 5.0).result(10) for w in (one, other)]
        return f"{seen[0]} and {seen[1]} chunks (8 and 0 are right)"


@case("", "A page of another site posts to `/cache/clear` from a browser on the node")
def other_site(kind: str, directory: Path) -> str:
    with server(kind) as process, worker(process) as one:
        one.store(prompt())
        headers = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site", "Content-Type": "text/plain"}
        url = f"http://127.0.0.1:{process.http_port}/cache/clear"
        try:
            request = urllib.request.Request(url, data=b"{}", headers=headers, method="POST")
            status = urllib.request.urlopen(request, timeout=10).status
        except urllib.error.HTTPError as error:
            status = error.code
        return f"{status}, {one.hit(prompt())} of {CHUNKS} chunks left"


@case("", "Modes of files in L2, with a umask of 022")
def modes(kind: str, directory: Path) -> str:
    stored(kind, directory)
    return " ".join(sorted({oct(path.stat().st_mode & 0o777)[2:] for path in files(directory)}))


def run_one(name: str, kind: str) -> str:
    with tempfile.TemporaryDirectory(prefix="larder-reports-") as scratch:
        try:
            return CASES[name][2](kind, Path(scratch) / "l2")
        except Exception as error:  # What a server does to the client is a result.
            return f"{type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--case", action="append", choices=CASES)
    parser.add_argument("--server", choices=SERVERS, help="run one case here and print what was seen")
    options = parser.parse_args()
    names = options.case or list(CASES)
    if options.server:
        print(run_one(names[0], options.server))
        return 0
    print("| Report | What is done | Larder | LMCache |\n|---|---|---|---|", flush=True)
    for name in names:
        seen = []
        for kind in SERVERS:
            for _ in range(CLIENT_TRIES):
                command = [sys.executable, __file__, "--case", name, "--server", kind]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=600)
                result = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else f"exit status {done.returncode}"
                if "LMCacheTimeoutError" not in result:
                    break
            seen.append(result)
        print(f"| {CASES[name][0]} | {CASES[name][1]} | {seen[0]} | {seen[1]} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
