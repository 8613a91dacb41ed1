#!/usr/bin/env python3
"""One million objects in L1: memory for each, and whether anything holds up other clients.

A server with slots of 4 KiB is filled by one client. Meanwhile another process looks up 64 chunks again and again,
as an engine would. Its latency is reported for each phase, beside that of the empty server:

* ``fill``: L1 grows from empty to full, in stores of 512 chunks. ``store`` is the client's own latency.
* ``full``: nothing else happens.
* ``evict``: stores beyond the capacity, each of which evicts 512 chunks.
* ``gone``: a connection that holds pins of 512 chunks in each of 512 sessions is closed.
* ``follow``: the first subscriber to KV events arrives.
* ``clear``: L1 is emptied.

``memory`` is what the process grew by from start to full, apart from the arena, for each object.

``long``: on a second server, lookups of 128k tokens, of a prompt in L1 and of new ones, with pauses of 0, 20 and
200 ms between requests.

    .cache/venv/bin/python bench/scale.py --server target/release/larder --objects 1000000

Every lookup's hit is checked. With ``--require``, figures beyond the limits in the table fail the run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time

import zmq

import mpb_wire as w
from mpb_proc import PortAllocator, Server

ARGS = "server --host 127.0.0.1 --port {port} --http-port {http_port} --l1-size-gb {l1_gb} --shm-name {shm}"
CHUNK = 16
CHUNKS_PER_PROMPT = 512
PROBE_CHUNKS = 64
GEOMETRY = w.Geometry("scale", 1, 64, CHUNK)  # 4 KiB for each chunk
LONG_TOKENS = 128 * 1024
LONG_GAPS_MS = (0, 20, 200)


def percentile(values: list[float], p: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(p * len(ordered)))]


class Registered:
    """A client that is registered as a worker. It never copies: only the server's part is measured."""

    def __init__(self, url: str, geometry: w.Geometry, instance: int) -> None:
        self.context = zmq.Context()
        self.client = w.RawClient(self.context, url)
        self.geometry, self.instance = geometry, w.enc(instance)
        self.client.call("register_kv_cache_engine_driven_context", w.enc(geometry.register_payload(instance)))

    def store(self, prompt: w.Prompt, request: str) -> float:
        """Stores a whole prompt. Returns the seconds that preparing and committing took."""
        chunks = prompt.n // self.geometry.chunk_size
        key = w.make_key(self.geometry.model, prompt, 0, prompt.n, request, 0)
        began = time.perf_counter()
        plan = self.client.call("prepare_store", key, self.instance)
        done = self.client.call("commit_store", key, self.instance, w.enc(b""))
        took = time.perf_counter() - began
        slots = plan["context"]["slots"]
        w.check(len(slots) == chunks, f"{len(slots)} slots for {chunks} chunks")
        w.check(done is True, f"commit_store answered {done!r}")
        self.client.call("end_session", w.enc(request))
        return took

    def lookup(self, prompt: w.Prompt, request: str) -> tuple[float, int]:
        """Returns the seconds until the hit was known, and the hit."""
        key = w.make_key(self.geometry.model, prompt, 0, prompt.n, request, None)
        began = time.perf_counter()
        self.client.call("lookup", key, w.enc(1))
        hit = self.client.call("query_prefetch_status", w.enc(request))
        return time.perf_counter() - began, hit

    def end(self, request: str) -> None:
        self.client.call("end_session", w.enc(request))

    def close(self) -> None:
        self.client.close()
        self.context.destroy(0)


def probe(url: str, stop, sink) -> None:
    """Looks up one stored prompt until it is stopped. Reports (time, seconds) of each lookup."""
    worker = Registered(url, GEOMETRY, 900)
    prompt = w.make_prompt(77, PROBE_CHUNKS * CHUNK)
    worker.store(prompt, "probe-store")
    found, times = 0, []
    while not stop.is_set():
        took, hit = worker.lookup(prompt, "probe")
        w.check(hit in (0, PROBE_CHUNKS), f"the probe found {hit} chunks")
        found += hit == PROBE_CHUNKS
        worker.end("probe")
        times.append((time.perf_counter(), took))
        if hit == 0:
            worker.store(prompt, "probe-store")
        time.sleep(0.001)
    w.check(found > 0, "the probe has found nothing")
    sink.put(times)
    worker.close()


class Phases:
    def __init__(self) -> None:
        self.spans: list[tuple[str, float, float]] = []

    def run(self, name: str, work):
        began = time.perf_counter()
        result = work()
        self.spans.append((name, began, time.perf_counter()))
        time.sleep(0.3)
        return result

    def split(self, times: list[tuple[float, float]]) -> dict[str, list[float]]:
        # The clock is the same in all processes. A lookup belongs to each phase that it overlaps.
        return {
            name: [took for at, took in times if at >= begin and at - took <= end]
            for name, begin, end in self.spans
        }


class Scale:
    def __init__(self, options) -> None:
        self.options = options
        self.ports = PortAllocator(41000, 1000)
        self.work = tempfile.mkdtemp(prefix="larder-scale-")
        self.rows: dict[str, float] = {}
        self.prompts = w.PromptFactory(5, CHUNKS_PER_PROMPT * CHUNK)

    def server(self, gigabytes: float, extra: str) -> Server:
        return Server(
            "server",
            f"{self.options.server} {ARGS} {self.options.args} {extra}",
            self.ports,
            self.work,
            l1_gb=f"{gigabytes:.4f}",
            l2_dir=self.work,
            startup_timeout_s=60,
        )

    def fill(self, worker: Registered, first: int, count: int) -> list[float]:
        return [worker.store(self.prompts.get(first + i), f"store-{first + i}") for i in range(count)]

    def many_sessions(self, server: Server, stored: int) -> None:
        """A client that holds pins in 512 sessions, and goes without a word."""
        worker = Registered(server.url, GEOMETRY, 901)
        for i in range(512):
            _, hit = worker.lookup(self.prompts.get(stored - 1 - i % min(256, self.options.objects // CHUNKS_PER_PROMPT // 2)), f"held-{i}")
            w.check(hit == CHUNKS_PER_PROMPT, f"a hit of {hit} chunks")
        worker.close()
        time.sleep(1.0)

    def follow(self, server: Server) -> None:
        client = w.RawClient(zmq.Context(), server.url)
        arguments = [w.enc(x) for x in (902, GEOMETRY.model, 0, 16)]
        client.sock.send_multipart([w.enc(1), w.enc("subscribe_kv_events"), *arguments])
        client.recv()
        time.sleep(0.5)
        client.close()

    def million(self) -> None:
        prompts = max(1, self.options.objects // CHUNKS_PER_PROMPT)
        objects = prompts * CHUNKS_PER_PROMPT
        server = self.server((objects + 4096) * 4096 / 2**30, f"--chunk-size {CHUNK}")
        try:
            phases, stop, sink = Phases(), multiprocessing.Event(), multiprocessing.Queue()
            prober = multiprocessing.Process(target=probe, args=(server.url, stop, sink), daemon=True)
            prober.start()
            worker = Registered(server.url, GEOMETRY, 1)
            phases.run("empty", lambda: time.sleep(3))
            before = server.mem()["anon"]
            stores = phases.run("fill", lambda: self.fill(worker, 0, prompts))
            phases.run("full", lambda: time.sleep(3))
            self.rows["memory.bytes_per_object"] = (server.mem()["anon"] - before) * 2**20 / objects
            self.rows["memory.start_mib"] = before
            first = stores[: max(1, len(stores) // 20)]
            self.rows["store.first_p99_ms"] = percentile(first, 0.99) * 1e3
            self.rows["store.p50_ms"] = statistics.median(stores) * 1e3
            self.rows["store.p99_ms"] = percentile(stores, 0.99) * 1e3
            self.rows["store.max_ms"] = max(stores) * 1e3
            evicting = phases.run("evict", lambda: self.fill(worker, prompts, max(20, prompts // 10)))
            self.rows["store.evicting_p99_ms"] = percentile(evicting, 0.99) * 1e3
            stored = prompts + len(evicting)
            phases.run("gone", lambda: self.many_sessions(server, stored))
            phases.run("follow", lambda: self.follow(server))
            began = time.perf_counter()
            phases.run("clear", lambda: worker.client.call("clear", w.enc(False), timeout_s=60))
            self.rows["clear.total_ms"] = (time.perf_counter() - began) * 1e3
            stop.set()
            times = phases.split(sink.get(timeout=30))
            prober.join(10)
            for phase, lookups in times.items():
                self.rows[f"lookup.{phase}.p50_ms"] = statistics.median(lookups) * 1e3
                self.rows[f"lookup.{phase}.p99_ms"] = percentile(lookups, 0.99) * 1e3
                self.rows[f"lookup.{phase}.max_ms"] = max(lookups) * 1e3
            worker.close()
        finally:
            server.stop()

    def long(self) -> None:
        server = self.server(0.25, "")
        try:
            geometry = w.Geometry("long", 1, 16)
            worker = Registered(server.url, geometry, 1)
            prompts = w.PromptFactory(6, LONG_TOKENS)
            stored = prompts.get(0)
            worker.store(stored, "store")
            # As many as it takes for what the server keeps of recent prompts to be full.
            for i in range(160):
                worker.lookup(prompts.get(1 + i), f"warm-{i}")
                worker.end(f"warm-{i}")
            for gap in LONG_GAPS_MS:
                for kind in ("hit", "miss"):
                    times = []
                    for i in range(self.options.long_lookups if gap < 100 else self.options.long_lookups // 4):
                        prompt = stored if kind == "hit" else prompts.get(1000 * (gap + 1) + i)
                        took, hit = worker.lookup(prompt, f"long-{gap}-{kind}-{i}")
                        w.check(hit == (512 if kind == "hit" else 0), f"a hit of {hit} chunks")
                        worker.end(f"long-{gap}-{kind}-{i}")
                        times.append(took * 1e3)
                        time.sleep(gap / 1e3)
                    name = f"long.{kind}.gap{gap}"
                    self.rows[f"{name}.p50_ms"] = statistics.median(times)
                    self.rows[f"{name}.p99_ms"] = percentile(times, 0.99)
                    self.rows[f"{name}.p99_by_p50"] = percentile(times, 0.99) / statistics.median(times)
            worker.close()
        finally:
            server.stop()

    def limits(self) -> dict[str, float]:
        limits = {"memory.bytes_per_object": 200, "memory.start_mib": 30}
        limits |= {name: 1.5 for name in self.rows if name.endswith("p99_by_p50")}
        return limits

    def report(self) -> bool:
        limits, good = self.limits(), True
        for name, value in self.rows.items():
            limit = limits.get(name)
            beyond = limit is not None and value > limit
            good &= not beyond
            note = "" if limit is None else f"  at most {limit:g}{'  <-- beyond' if beyond else ''}"
            print(f"{name:32} {value:10.3f}{note}")
        if self.options.json:
            os.makedirs(os.path.dirname(self.options.json) or ".", exist_ok=True)
            with open(self.options.json, "w") as file:
                json.dump(self.rows, file, indent=1)
        return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--server", required=True, help="path of the server's program")
    parser.add_argument("--args", default="", help="further arguments for it")
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--long-lookups", type=int, default=400, help="lookups for each gap and kind")
    parser.add_argument("--cases", default="million,long")
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--require", action="store_true", help="fail if a figure is beyond its limit")
    options = parser.parse_args()
    scale = Scale(options)
    try:
        for case in options.cases.split(","):
            {"million": scale.million, "long": scale.long}[case]()
    finally:
        shutil.rmtree(scale.work, ignore_errors=True)
    return 0 if scale.report() or not options.require else 1


if __name__ == "__main__":
    sys.exit(main())
