#!/usr/bin/env python3
"""Measures start, refusal of bad flags, idle cost, /status and /metrics, and the cost of a scrape for others.

    bench/surface.py                        all sections, with $LARDER_BIN or target/release/larder
    bench/surface.py --sections status,lookup --objects 100000

Sections: ``start`` (until the first answer), ``refuse`` (a bad flag until the exit), ``idle`` (memory and
processor time of an idle server), ``status`` (GETs over one kept connection, with many objects in
L1), ``lookup`` (round trips of lookups while a scraper asks), ``ping`` (whole processes).

Times are those of the client, its own work and the kernel's included. Nothing is compared with a limit: the
tables are for people.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mpb_wire as wire
import zmq

REPOSITORY = Path(__file__).resolve().parent.parent
CHUNK_TOKENS = 16
PROMPT_CHUNKS = 1000
LOOKUP_CHUNKS = 32
# 1 layer, 16 slots, 16 elements of 2 bytes, K and V: 1 KiB, which takes a page of L1.
GEOMETRY = wire.Geometry("surface", layers=1, hidden=16, chunk_size=CHUNK_TOKENS)
PAGE = 4096
PATHS = ("/status", "/metrics", "/cache/stats", "/readyz", "/healthcheck")
SCRAPER = "import surface, sys; surface.scrape(int(sys.argv[1]), float(sys.argv[2]))"

# Wrong values that the reference accepts silently, and the flag that the message has to name.
REFUSED: tuple[tuple[str, ...], ...] = (
    ("--port", "70000"),
    ("--chunk-size", "0"),
    ("--l1-size-gb", "0"),
    ("--eviction-ratio", "-1"),
    ("--eviction-trigger-watermark", "7"),
    ("--l2-adapter", '{"type":"fs","base_path":"/tmp","max_capacity":1}'),
    ("--hash-algorithm", "md5"),
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Server:
    """A server process on free ports."""

    process: subprocess.Popen[bytes]
    port: int
    http_port: int
    begun: float

    @property
    def url(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"


@contextmanager
def server(larder: str, *flags: str) -> Iterator[Server]:
    """Started, not waited for; ended and reaped."""
    port, http_port = free_port(), free_port()
    name = f"surface_{os.getpid()}_{port}"
    command = [
        larder, "server", "--host", "127.0.0.1", "--port", str(port), "--http-port", str(http_port),
        "--chunk-size", str(CHUNK_TOKENS), "--shm-name", name, "--log-level", "error", *flags,
    ]  # fmt: skip
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield Server(process, port, http_port, begun)
    finally:
        process.terminate()
        process.wait(30)


class Http:
    """GETs over one kept connection."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get(self, path: str) -> bytes:
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        answer = bytearray()
        while (end := answer.find(b"\r\n\r\n")) < 0:
            answer += self._some()
        head = bytes(answer[:end]).lower()
        assert head.startswith(b"http/1.1 200"), head
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        while len(answer) < end + 4 + length:
            answer += self._some()
        return bytes(answer[end + 4 :])

    def _some(self) -> bytes:
        part = self.socket.recv(1 << 17)
        assert part, "the server closed the connection"
        return part


def wait_for_http(running: Server) -> Http:
    """Connects as soon as the port is open."""
    while True:
        assert running.process.poll() is None, "the server has ended"
        try:
            return Http(running.http_port)
        except ConnectionRefusedError:
            time.sleep(0.0002)


def ping(running: Server, context: zmq.Context) -> None:
    client = wire.RawClient(context, running.url)
    client.call("ping", wire.enc(None))
    client.close()


# -- tables ------------------------------------------------------------------


def quantile(times: list[float], share: float) -> float:
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def table(title: str, head: Iterable[str], rows: list[list[str]]) -> None:
    lines = [list(head), *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    print(f"\n{title}")
    for line in lines:
        cells = [cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))]
        print("  " + "  ".join(cells).rstrip())
    sys.stdout.flush()


def ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}"


def spread(times: list[float]) -> list[str]:
    return [str(len(times)), ms(statistics.median(times)), ms(quantile(times, 0.99)), ms(max(times))]


SPREAD = ("n", "median ms", "p99 ms", "max ms")


def timed(act: Callable[[], object], repetitions: int) -> list[float]:
    times = []
    for _ in range(repetitions):
        begun = time.perf_counter()
        act()
        times.append(time.perf_counter() - begun)
    return times


# -- sections ----------------------------------------------------------------


def section_start(options: argparse.Namespace) -> None:
    http, request, ended = [], [], []
    for _ in range(options.starts):
        with server(options.larder, "--l1-size-gb", "0.25") as running:
            wait_for_http(running).get("/livez")
            http.append(time.perf_counter() - running.begun)
            context = zmq.Context()
            ping(running, context)
            request.append(time.perf_counter() - running.begun)
            context.term()
            stopping = time.perf_counter()
            running.process.terminate()
            running.process.wait(30)
            ended.append(time.perf_counter() - stopping)
    rows = [
        ["first HTTP answer", *spread(http)],
        ["then the first ping answered", *spread(request)],
        ["SIGTERM to exit, idle", *spread(ended)],
    ]
    table("From the start of the process", ["", *SPREAD], rows)


def section_refuse(options: argparse.Namespace) -> None:
    rows = []
    for flag, value in REFUSED:
        times: list[float] = []
        for _ in range(options.starts):
            begun = time.perf_counter()
            ran = subprocess.run([options.larder, "server", flag, value], capture_output=True, text=True, timeout=30)
            times.append(time.perf_counter() - begun)
            lines = ran.stderr.splitlines()
            assert ran.returncode == 2 and not ran.stdout, ran
            assert len(lines) == 1 and flag in lines[0], lines
        rows.append([f"{flag} {value}"[:60], *spread(times)])
    table("A bad value until the exit (status 2, one line that names the flag)", ["", *SPREAD], rows)


def cpu_seconds(pid: int) -> float:
    """Processor time of all threads, to the nanosecond."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def switches(pid: int) -> int:
    names = ("voluntary_ctxt_switches", "nonvoluntary_ctxt_switches")
    lines = [line for task in Path(f"/proc/{pid}/task").iterdir() for line in (task / "status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith(names))


def resident_mib(pid: int) -> dict[str, float]:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {name: int(fields[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile", "RssShmem")}


def section_idle(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        files = json.dumps({"type": "fs", "base_path": folder})
        for name, flags in (("bare", ()), ("with an fs adapter", ("--l2-adapter", files))):
            with server(options.larder, *flags) as running:
                wait_for_http(running).socket.close()
                time.sleep(2)
                pid = running.process.pid
                cpu, switched, begun = cpu_seconds(pid), switches(pid), time.perf_counter()
                time.sleep(options.idle_seconds)
                passed = time.perf_counter() - begun
                cpu, switched = cpu_seconds(pid) - cpu, switches(pid) - switched
                memory = resident_mib(pid)
                threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
            own = memory["RssAnon"] + memory["RssFile"]
            rows.append([name, f"{passed:.0f}", f"{own:.1f}", f"{memory['RssAnon']:.1f}", f"{memory['RssShmem']:.1f}",
                         f"{100 * cpu / passed:.4f}", f"{switched / passed:.2f}", str(threads)])  # fmt: skip
    head = ["", "seconds", "RSS MiB", "of it anonymous", "pool MiB", "CPU %", "switches/s", "threads"]
    table("Idle", head, rows)


def fill(running: Server, context: zmq.Context, objects: int) -> list[wire.Prompt]:
    """Has so many objects in L1. Slots are committed unwritten: they are never read."""
    client = wire.RawClient(context, running.url)
    client.call("register_kv_cache_engine_driven_context", wire.enc(GEOMETRY.register_payload(1)))
    factory = wire.PromptFactory(7, PROMPT_CHUNKS * CHUNK_TOKENS)
    prompts = [factory.get(i) for i in range(-(-objects // PROMPT_CHUNKS))]
    for i, prompt in enumerate(prompts):
        key = wire.make_key(GEOMETRY.model, prompt, 0, prompt.n, f"fill{i}", 0)
        slots = client.call("prepare_store", key, wire.enc(1))["context"]["slots"]
        assert len(slots) == PROMPT_CHUNKS, f"space for {len(slots)} chunks of {PROMPT_CHUNKS}"
        assert client.call("commit_store", key, wire.enc(1), wire.enc(b"")) is True
        client.call("end_session", wire.enc(f"fill{i}"))
    client.close()
    return prompts


@contextmanager
def filled(options: argparse.Namespace, context: zmq.Context) -> Iterator[tuple[Server, list[wire.Prompt]]]:
    gib = (options.objects + 2 * PROMPT_CHUNKS) * PAGE / 2**30
    with server(options.larder, "--l1-size-gb", f"{gib:.4f}") as running:
        wait_for_http(running).socket.close()
        prompts = fill(running, context, options.objects)
        status = json.loads(Http(running.http_port).get("/status"))
        count = status["storage_manager"]["l1_manager"]["total_object_count"]
        assert count >= options.objects, count
        yield running, prompts


def section_status(options: argparse.Namespace) -> None:
    context = zmq.Context()
    rows = []
    with filled(options, context) as (running, _):
        connection = Http(running.http_port)
        for path in PATHS:
            size = len(connection.get(path))
            times = timed(lambda path=path: connection.get(path), options.gets)
            rows.append([f"GET {path}", str(size), *spread(times)])
    context.term()
    table(f"Over one kept connection, {options.objects} objects resident", ["", "bytes", *SPREAD], rows)


def scrape(http_port: int, pause_s: float) -> None:
    """Scrapes until it is ended; prints a line once it has begun."""
    connection = Http(http_port)
    connection.get("/metrics")
    print("scraping", flush=True)
    while True:
        connection.get("/metrics")
        time.sleep(pause_s)


@contextmanager
def scraper(running: Server, pause_s: float | None) -> Iterator[None]:
    if pause_s is None:
        yield
        return
    command = [sys.executable, "-c", SCRAPER, str(running.http_port), str(pause_s)]
    process = subprocess.Popen(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline().strip() == b"scraping"
        yield
    finally:
        process.kill()
        process.wait()


def look_up(client: wire.RawClient, prompt: wire.Prompt, request_id: str, key: bytes) -> float:
    """One lookup with its result, in seconds; the session is ended after that."""
    begun = time.perf_counter()
    client.call("lookup", key, wire.enc(1))
    hit = client.call("query_prefetch_status", wire.enc(request_id))
    took = time.perf_counter() - begun
    assert hit == LOOKUP_CHUNKS, f"a hit of {hit} chunks of {prompt.n // CHUNK_TOKENS}"
    client.call("end_session", wire.enc(request_id))
    return took


def section_lookup(options: argparse.Namespace) -> None:
    context = zmq.Context()
    rows = []
    with filled(options, context) as (running, prompts):
        client = wire.RawClient(context, running.url)
        prefixes = [prompt.prefix(LOOKUP_CHUNKS * CHUNK_TOKENS) for prompt in prompts]
        serial = 0
        regimes = (("no scrapes", None), ("a scrape each second", 1.0), ("back to back", 0.0)) * options.rounds
        for name, pause_s in regimes:
            times: list[float] = []
            with scraper(running, pause_s):
                until = time.perf_counter() + options.lookup_seconds
                while time.perf_counter() < until:
                    serial += 1
                    prompt, request_id = prefixes[serial % len(prefixes)], f"look{serial}"
                    key = wire.make_key(GEOMETRY.model, prompt, 0, prompt.n, request_id, None)
                    times.append(look_up(client, prompt, request_id, key))
            rows.append([name, *spread(times)])
        client.close()
    context.term()
    title = f"Lookup of {LOOKUP_CHUNKS} chunks and its result, {options.objects} objects resident"
    table(title, ["", *SPREAD], rows)


def section_ping(options: argparse.Namespace) -> None:
    rows = []
    with server(options.larder, "--l1-size-gb", "0.25") as running:
        wait_for_http(running).socket.close()
        url = f"http://127.0.0.1:{running.http_port}"
        commands = [("larder ctl ping", [options.larder, "ctl", "ping", "--url", url], 50)]
        if stock := options.lmcache or shutil.which("lmcache"):
            commands.append(("lmcache ping kvcache", [stock, "ping", "kvcache", "--url", url], 3))
        for name, command, repetitions in commands:
            def run(command: list[str] = command) -> None:
                subprocess.run(command, check=True, capture_output=True, timeout=120)

            rows.append([name, *spread(timed(run, repetitions))])
    table("Whole processes", ["", *SPREAD], rows)


SECTIONS = {
    "start": section_start, "refuse": section_refuse, "idle": section_idle, "status": section_status,
    "lookup": section_lookup, "ping": section_ping,
}  # fmt: skip


def main() -> None:
    binary = os.environ.get("LARDER_BIN", str(REPOSITORY / "target/release/larder"))
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--larder", default=binary, help="the server's binary (%(default)s)")
    parser.add_argument("--lmcache", default=None, help="the stock command, for `ping` (found on PATH)")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="which, in order (%(default)s)")
    parser.add_argument("--starts", type=int, default=50, help="starts, and refusals of each value (%(default)s)")
    parser.add_argument("--idle-seconds", type=float, default=60.0, help="(%(default)s)")
    parser.add_argument("--objects", type=int, default=100_000, help="resident objects (%(default)s)")
    parser.add_argument("--gets", type=int, default=1000, help="GETs of each path (%(default)s)")
    parser.add_argument("--lookup-seconds", type=float, default=10.0, help="for each kind of scraper (%(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="rounds over the kinds of scrapers (%(default)s)")
    options = parser.parse_args()
    unknown = [name for name in options.sections.split(",") if name not in SECTIONS]
    if unknown:
        parser.error(f"--sections: no {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    print(f"{options.larder}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for name in options.sections.split(","):
        SECTIONS[name](options)


if __name__ == "__main__":
    main()
