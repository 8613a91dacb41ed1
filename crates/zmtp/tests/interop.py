"""The libzmq side of the interop tests (run by pyzmq.rs): `interop.py SCENARIO [ENDPOINT]`.

A scenario prints lines that the test waits for and exits with 0 if all it expects came true.
"""

import os
import sys
import threading
import time

import zmq
from zmq.utils.monitor import recv_monitor_message

TIMEOUT_MS = 30_000


def dealer(context, endpoint, **options):
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    socket.rcvtimeo = socket.sndtimeo = TIMEOUT_MS
    for name, value in options.items():
        socket.setsockopt(getattr(zmq, name), value)
    socket.connect(endpoint)
    return socket


def echoed(socket, parts):
    socket.send_multipart(parts)
    answer = socket.recv_multipart()
    assert answer == parts, f"sent {[len(part) for part in parts]}, got {[len(part) for part in answer]}"


def disconnects(monitor, milliseconds):
    """How often the connection broke within the time given."""
    count = 0
    deadline = time.monotonic() + milliseconds / 1000
    while (left := deadline - time.monotonic()) > 0:
        if monitor.poll(left * 1000):
            recv_monitor_message(monitor)
            count += 1
    return count


def client_echo(context, endpoint):
    socket = dealer(context, endpoint)
    for parts in ([b"a"], [b""], [b"", b""], [b"uid", b"", b"payload"]):
        echoed(socket, parts)
    # Both forms of the size, on both sides of the border.
    for size in (254, 255, 256, 257, 8191, 8192, 16384, 65535, 65536, 1_000_000):
        echoed(socket, [b"\x01", os.urandom(size)])


def client_large(context, endpoint):
    socket = dealer(context, endpoint)
    large = os.urandom(1 << 20) * 64
    echoed(socket, [b"uid", large, b"end"])
    echoed(socket, [large, large])


def client_parts(context, endpoint):
    socket = dealer(context, endpoint)
    echoed(socket, [b"%d" % at for at in range(64)])
    echoed(socket, [bytes(at) for at in range(64)])


def client_too_many_parts(context, endpoint):
    socket = dealer(context, endpoint)
    monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    socket.send_multipart([b""] * 65)
    assert monitor.poll(TIMEOUT_MS), "the connection must be closed"
    # libzmq connects again by itself; what follows is served.
    echoed(socket, [b"next"])


def client_pipelined(context, endpoint):
    count = 20_000
    sockets = [dealer(context, endpoint, SNDHWM=0, RCVHWM=0) for _ in range(4)]
    for at in range(count):
        for socket in sockets:
            socket.send_multipart([b"%d" % at, b"x" * (at % 700)])
    for socket in sockets:
        for at in range(count):
            assert socket.recv_multipart() == [b"%d" % at, b"x" * (at % 700)]


def client_heartbeats(context, endpoint):
    socket = dealer(context, endpoint, HEARTBEAT_IVL=50, HEARTBEAT_TIMEOUT=5000, HEARTBEAT_TTL=5000)
    echoed(socket, [b"before"])
    monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    assert disconnects(monitor, 1500) == 0, "PINGs are answered"
    echoed(socket, [b"after"])


def client_pinged(context, endpoint):
    """The server pings; libzmq answers by itself."""
    socket = dealer(context, endpoint)
    echoed(socket, [b"before"])
    monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    assert disconnects(monitor, 1500) == 0, "PONGs are understood"
    echoed(socket, [b"after"])


def client_req(context, endpoint):
    socket = context.socket(zmq.REQ)
    socket.linger = 0
    socket.rcvtimeo = TIMEOUT_MS
    socket.connect(endpoint)
    for at in range(10):
        socket.send(b"%d" % at)
        assert socket.recv() == b"%d" % at


def client_reconnects(context, endpoint):
    """A line on stdin says that the server has been restarted."""
    socket = dealer(context, endpoint, RECONNECT_IVL=10)
    monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    for _ in range(3):
        echoed(socket, [b"up"])
        print("echoed", flush=True)
        assert monitor.poll(TIMEOUT_MS), "the server goes down"
        recv_monitor_message(monitor)
        assert sys.stdin.readline().strip() == "restarted"
    echoed(socket, [b"up"])


def client_many_connections(context, endpoint):
    for at in range(200):
        socket = dealer(context, endpoint)
        echoed(socket, [b"%d" % at])
        socket.close()


def client_duplicate(context, endpoint):
    first = dealer(context, endpoint, ROUTING_ID=b"same")
    echoed(first, [b"first"])
    second = dealer(context, endpoint, ROUTING_ID=b"same", RECONNECT_IVL=10)
    monitor = second.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    second.send_multipart([b"second"])
    assert monitor.poll(TIMEOUT_MS), "the second is turned away"
    assert second.poll(0) == 0
    echoed(first, [b"first again"])
    first.close()
    # Turned away before it sent anything, the second has kept its message.
    assert second.recv_multipart() == [b"second"]


def client_wrong_kind(context, endpoint):
    socket = context.socket(zmq.SUB)
    socket.linger = 0
    monitor = socket.get_monitor_socket(zmq.EVENT_ALL)
    socket.connect(endpoint)
    while recv_monitor_message(monitor, 0)["event"] not in (
        zmq.EVENT_DISCONNECTED, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
    ):
        pass
    echoed(dealer(context, endpoint), [b"others are served"])


def client_stalls(context, endpoint):
    """Does not read while the server answers; then everything arrives in order."""
    socket = dealer(context, endpoint, RCVHWM=1, RCVBUF=4096)
    count = 500
    sender = threading.Thread(
        target=lambda: [socket.send_multipart([b"%d" % at, bytes(20_000)]) for at in range(count)]
    )
    sender.start()
    sender.join()
    other = dealer(context, endpoint)
    echoed(other, [b"not blocked"])
    for at in range(count):
        assert socket.recv_multipart()[0] == b"%d" % at


def server_echo(context, endpoint, **options):
    """A libzmq ROUTER that echoes until stdin ends."""
    router = context.socket(zmq.ROUTER)
    router.linger = 0
    for name, value in options.items():
        router.setsockopt(getattr(zmq, name), value)
    router.bind(endpoint or "tcp://127.0.0.1:0")
    print(router.getsockopt_string(zmq.LAST_ENDPOINT), flush=True)
    poller = zmq.Poller()
    poller.register(router, zmq.POLLIN)
    poller.register(sys.stdin, zmq.POLLIN)
    while True:
        ready = dict(poller.poll())
        if router in ready:
            router.send_multipart(router.recv_multipart())
        elif not sys.stdin.readline():
            return


def server_heartbeats(context, endpoint):
    server_echo(context, endpoint, HEARTBEAT_IVL=50, HEARTBEAT_TIMEOUT=1000, HEARTBEAT_TTL=1000)


def main():
    scenario = sys.argv[1]
    endpoint = sys.argv[2] if len(sys.argv) > 2 else ""
    context = zmq.Context()
    globals()[scenario](context, endpoint)
    context.destroy(linger=0)
    print("done", flush=True)


if __name__ == "__main__":
    main()
