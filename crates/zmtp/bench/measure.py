#!/usr/bin/env python3
"""Measures the echo example and a libzmq ROUTER echo (through pyzmq) side by side, in the same run.

    cargo build --release -p larder-zmtp --example echo
    python crates/zmtp/bench/measure.py target/release/examples/echo [--repeats 5] [--quick]

Both servers get the same clients, in turn within each repeat; the clients are libzmq through pyzmq, or
raw sockets where a client has to misbehave. The libzmq server is a Python loop, so its CPU per message
contains the interpreter's. Prints one line per figure: the median over the repeats for each server, and
the median of the ratios within a repeat.
"""

import argparse
import multiprocessing
import os
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time

import zmq
from zmq.utils.monitor import recv_monitor_message

GREETING = b"\xff" + bytes(7) + b"\x01\x7f\x03\x01NULL" + bytes(48)
READY = b"\x04\x29\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity\x00\x00\x00\x00"
REQUEST = [b"\x01", b"\x16", b"x" * 198]
LARGE_REQUEST = [b"\x01", b"\x08", b"x" * 500_000]
WINDOW = 64


def libzmq_echo():
    """The reference server: an echo loop over a libzmq ROUTER with its defaults."""
    router = zmq.Context().socket(zmq.ROUTER)
    router.bind("tcp://127.0.0.1:0")
    print(router.getsockopt_string(zmq.LAST_ENDPOINT), flush=True)
    while True:
        parts = router.recv_multipart(copy=False)
        if len(parts) == 4 and parts[1].bytes == b"burst":
            for _ in range(int(parts[2].bytes)):
                router.send_multipart([parts[0].bytes, b"x" * int(parts[3].bytes)])
        else:
            router.send_multipart(parts, copy=False)


class Server:
    def __init__(self, command):
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.endpoint = self.process.stdout.readline().strip()
        self.port = int(self.endpoint.rsplit(":", 1)[1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def memory_mib(self, field="VmRSS"):
        with open(f"/proc/{self.process.pid}/status") as status:
            for line in status:
                if line.startswith(field + ":"):
                    return int(line.split()[1]) / 1024
        raise RuntimeError(f"no {field}: the server has died")

    def cpu_s(self):
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def raw(self, *sent):
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=5)
        for part in sent:
            raw.sendall(part)
        return raw


class Client:
    """A DEALER with a context of its own, so that closing it leaves nothing behind."""

    def __init__(self, endpoint, **options):
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.rcvtimeo = 5000
        for name, value in options.items():
            self.socket.setsockopt(getattr(zmq, name), value)
        self.socket.connect(endpoint)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.destroy(linger=0)

    def call(self, parts=REQUEST):
        self.socket.send_multipart(parts)
        return self.socket.recv_multipart()

    def answered(self, timeout_ms):
        self.socket.send_multipart(REQUEST)
        return self.socket.poll(timeout_ms) != 0 and self.socket.recv_multipart() == REQUEST


def round_trip_us(server, count, parts=REQUEST):
    with Client(server.endpoint) as client:
        for _ in range(count // 10):
            client.call(parts)
        times = []
        for _ in range(count):
            begin = time.perf_counter()
            client.call(parts)
            times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1e6


def pipelining_client(endpoint, count, start, done):
    with Client(endpoint) as client:
        client.call()
        start.wait()
        sent = 0
        for received in range(count):
            while sent < count and sent - received < WINDOW:
                client.socket.send_multipart(REQUEST)
                sent += 1
            client.socket.recv_multipart()
        done.wait()


def throughput(server, count, clients=4):
    """Requests per second of all clients together, and server CPU (µs) per request."""
    start, done = (multiprocessing.Barrier(clients + 1) for _ in range(2))
    arguments = (server.endpoint, count, start, done)
    processes = [multiprocessing.Process(target=pipelining_client, args=arguments) for _ in range(clients)]
    for process in processes:
        process.start()
    start.wait()
    begin, cpu_begin = time.perf_counter(), server.cpu_s()
    done.wait()
    elapsed, cpu = time.perf_counter() - begin, server.cpu_s() - cpu_begin
    for process in processes:
        process.join()
    return clients * count / elapsed, cpu / (clients * count) * 1e6


def reconnects(server, count):
    """Growth of RSS (MiB) over `count` reconnects, after a tenth as many to warm up."""
    def reconnect(count):
        context = zmq.Context()
        for _ in range(count):
            client = context.socket(zmq.DEALER)
            client.linger = 0
            client.rcvtimeo = 5000
            client.connect(server.endpoint)
            client.send_multipart(REQUEST)
            assert client.recv_multipart() == REQUEST
            client.close()
        context.term()

    reconnect(max(count // 10, 1))
    before = server.memory_mib()
    reconnect(count)
    return server.memory_mib() - before


def stalled_reader(server, count):
    """Peak RSS (MiB) while a client asks for `count` answers of 64 KiB and reads none, and the median and
    longest round trip (ms) of another client meanwhile."""
    stalled = server.raw(GREETING, READY)
    request = [b"burst", str(count).encode(), b"65536"]
    times = []
    with Client(server.endpoint) as client:
        client.call()
        stalled.sendall(b"".join(bytes([at < 2, len(part)]) + part for at, part in enumerate(request)))
        peak, settled_at = 0, time.monotonic() + 1
        while time.monotonic() < settled_at:
            begin = time.perf_counter()
            client.call()
            times.append(time.perf_counter() - begin)
            if peak != (peak := server.memory_mib("VmHWM")):
                settled_at = time.monotonic() + 1
    stalled.close()
    return peak, statistics.median(times) * 1e3, max(times) * 1e3


def claimed_frame(server, size):
    """Whether the connection was closed within a second; growth of RSS and of address space (MiB)."""
    with Client(server.endpoint) as client:
        client.call()
        before = server.memory_mib(), server.memory_mib("VmSize")
        raw = server.raw(GREETING, READY, b"\x02" + struct.pack(">Q", size))
        raw.settimeout(1)
        closed = False
        try:
            while raw.recv(4096):
                pass
            closed = True
        except TimeoutError:
            pass
        except ConnectionError:
            closed = True
        growth = server.memory_mib() - before[0], server.memory_mib("VmSize") - before[1]
        assert client.answered(5000), "other clients are served"
        raw.close()
    return closed, *growth


def half_open(server, count):
    """Round trip (µs) of a client while `count` others never finish their greeting; RSS growth."""
    before = server.memory_mib()
    idle = [server.raw(GREETING[:10]) for _ in range(count)]
    p50 = round_trip_us(server, 500)
    growth = server.memory_mib() - before
    for raw in idle:
        raw.close()
    return p50, growth


def duplicate_identity(server):
    """What becomes of a second client with the routing id of a connected one."""
    with Client(server.endpoint, ROUTING_ID=b"same") as first:
        first.call()
        with Client(server.endpoint, ROUTING_ID=b"same") as second:
            served = second.answered(500)
            kept = first.answered(2000)
            first.socket.close()
            # What it sent above is answered once the first is gone, if it was only held back.
            recovers = second.socket.poll(3000) != 0 if not served else None
    return f"second {'served' if served else 'refused'}, first {'kept' if kept else 'lost'}" + (
        "" if recovers is None else f", then second {'served' if recovers else 'not served'}"
    )


def heartbeats(server, seconds):
    """Disconnects seen by a client that sends PING every 100 ms and wants the PONG within 300 ms."""
    options = {"HEARTBEAT_IVL": 100, "HEARTBEAT_TIMEOUT": 300, "HEARTBEAT_TTL": 1000}
    with Client(server.endpoint, **options) as client:
        client.call()
        monitor = client.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        disconnects = 0
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if monitor.poll(left * 1000):
                recv_monitor_message(monitor)
                disconnects += 1
        client.call()
        client.socket.disable_monitor()
    return disconnects


def measure(server_command, quick):
    scale = 10 if quick else 1
    figures = {}
    with Server(server_command) as server:
        figures["idle RSS, MiB"] = server.memory_mib()
        figures["round trip 200 B p50, us"] = round_trip_us(server, 10000 // scale)
        figures["round trip 500 kB p50, us"] = round_trip_us(server, 1000 // scale, LARGE_REQUEST)
        rate, cpu = throughput(server, 40000 // scale)
        figures["4 clients 200 B, requests/s"] = rate
        figures["server CPU per request, us"] = cpu
        figures["2,000 reconnects, RSS growth MiB"] = reconnects(server, 2000 // scale)
        closed, rss, space = claimed_frame(server, 1 << 40)
        figures["1 TiB frame header: closed"] = str(closed)
        figures["1 TiB frame header: RSS growth MiB"] = rss
        closed, rss, space = claimed_frame(server, (1 << 30) - 1)
        figures["1 GiB - 1 frame header: closed"] = str(closed)
        figures["1 GiB - 1 frame header: RSS growth MiB"] = rss
        figures["1 GiB - 1 frame header: address space growth MiB"] = space
        p50, growth = half_open(server, 250)
        figures["250 half-open: round trip p50, us"] = p50
        figures["250 half-open: RSS growth MiB"] = growth
        figures["same routing id twice"] = duplicate_identity(server)
        figures["heartbeats: disconnects in 3 s"] = heartbeats(server, 3)
    with Server(server_command) as server:
        peak, typical, longest = stalled_reader(server, 20000 // scale)
        figures["stalled reader, 20k x 64 KiB: peak RSS MiB"] = peak
        figures["stalled reader: another client's round trip p50, ms"] = typical
        figures["stalled reader: another client's longest, ms"] = longest
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("echo", help="the echo example, built in release mode")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, to try the script")
    arguments = parser.parse_args()
    commands = {"larder": [arguments.echo], "libzmq": [sys.executable, __file__, "libzmq-echo"]}
    runs = {name: [] for name in commands}
    for repeat in range(arguments.repeats):
        for name, command in commands.items():
            runs[name].append(measure(command, arguments.quick))
            print(f"# repeat {repeat + 1}, {name}: {runs[name][-1]}", file=sys.stderr, flush=True)
    print(f"libzmq {zmq.zmq_version()}, pyzmq {zmq.__version__}, {os.cpu_count()} CPUs, "
          f"load {os.getloadavg()[0]:.1f}, {arguments.repeats} repeats")
    for figure in runs["larder"][0]:
        columns = {name: [run[figure] for run in runs[name]] for name in commands}
        if isinstance(columns["larder"][0], str):
            cells = [" / ".join(sorted(set(column))) for column in columns.values()]
            print(f"{figure:54} larder: {cells[0]:30} libzmq: {cells[1]}")
            continue
        medians = {name: statistics.median(column) for name, column in columns.items()}
        ratios = [ours / theirs for ours, theirs in zip(*columns.values()) if theirs > 0]
        ratio = f"{statistics.median(ratios):8.2f}" if ratios else "       -"
        print(f"{figure:54} larder: {medians['larder']:12.2f} libzmq: {medians['libzmq']:12.2f} ratio: {ratio}")


if __name__ == "__main__":
    if sys.argv[1:] == ["libzmq-echo"]:
        libzmq_echo()
    else:
        main()
