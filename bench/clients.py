"""What runs inside a cell to measure. Each source is given to `python -c` and prints one JSON object."""

FIXED_RATE = r"""
import asyncio, ctypes, json, os, ssl, struct, sys, time, uvloop
host, port = sys.argv[1], int(sys.argv[2])
rate, seconds, width = float(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5])
request = f"GET /v1/things HTTP/1.1\r\nhost: {host}:{port}\r\nuser-agent: bench\r\n\r\n".encode()
taken, failed, free, due = [], [0], [], []

class Client(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.buffer, self.at = transport, b"", None
        free.append(self)
    def ask(self, at):
        self.at = at
        self.transport.write(request)
    def data_received(self, data):
        self.buffer += data
        head, end, body = self.buffer.partition(b"\r\n\r\n")
        if not end:
            return
        size = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
        if len(body) < size:
            return
        self.buffer = b""
        taken.append(time.perf_counter() - self.at)
        failed[0] += not head.startswith(b"HTTP/1.1 200")
        if due:
            self.ask(due.pop(0))
        else:
            free.append(self)
    def connection_lost(self, error):
        failed[0] += self.at is not None
        if self in free:
            free.remove(self)

async def main():
    loop = asyncio.get_running_loop()
    tls = ssl.create_default_context()
    for _ in range(width):
        await loop.create_connection(Client, host, port, ssl=tls, server_hostname=host)
    start, sent, ended = time.perf_counter() + 1 / rate, 0, loop.create_future()
    libc, period = ctypes.CDLL(None), struct.pack("4q", 0, int(1e9 / rate), 0, int(1e9 / rate))
    timer = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK)
    def tick():
        nonlocal sent
        for _ in range(struct.unpack("Q", os.read(timer, 8))[0]):
            at = start + sent / rate
            sent += 1
            if free:
                free.pop().ask(at)
            else:
                due.append(at)
        if sent >= rate * seconds:
            loop.remove_reader(timer)
            ended.set_result(None)
    loop.add_reader(timer, tick)
    libc.timerfd_settime(timer, 0, period, None)
    await ended
    deadline = time.perf_counter() + 2
    while len(taken) < sent and time.perf_counter() < deadline:
        await asyncio.sleep(0.01)
    warm = sorted(taken[len(taken) // 10:])
    at = lambda share: warm[min(len(warm) - 1, int(len(warm) * share))] * 1e3
    print(json.dumps({"sent": sent, "answered": len(taken), "failed": failed[0],
                      "p50_ms": at(.5), "p90_ms": at(.9), "p99_ms": at(.99), "max_ms": warm[-1] * 1e3}))

uvloop.run(main())
"""

"""argv: host port rate seconds connections. Requests fall due at a fixed rate; latency counts from when one was due."""

NEW_NAMES = r"""
import json, socket, ssl, sys, time
port, names = int(sys.argv[1]), sys.argv[2:]
tls, taken, failed = ssl.create_default_context(), [], 0
for name in names:
    start = time.perf_counter()
    raw = socket.create_connection((name, port), timeout=30)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with tls.wrap_socket(raw, server_hostname=name) as opened:
        opened.sendall(f"GET /v1/things HTTP/1.1\r\nhost: {name}:{port}\r\nconnection: close\r\n\r\n".encode())
        answer = b""
        while chunk := opened.recv(65536):
            answer += chunk
    failed += not answer.startswith(b"HTTP/1.1 200")
    taken.append((time.perf_counter() - start) * 1e3)
taken.sort()
at = lambda share: taken[min(len(taken) - 1, int(len(taken) * share))]
print(json.dumps({"failed": failed, "p50_ms": at(.5), "p99_ms": at(.99), "max_ms": taken[-1]}))
"""
"""argv: port names. One new connection and one request a name, one after the other: lookup, TLS, request, answer."""

STREAM = r"""
import socket, ssl, sys, time
host, port = sys.argv[1], int(sys.argv[2])
tls = ssl.create_default_context()
with socket.create_connection((host, port), timeout=30) as raw, tls.wrap_socket(raw, server_hostname=host) as opened:
    opened.sendall(f"GET /stream/{sys.argv[3]} HTTP/1.1\r\nhost: {host}:{port}\r\n\r\n".encode())
    first = opened.recv(65536)
    print(first[:12].decode(), flush=True)
    try:
        while opened.recv(65536):
            pass
    except OSError:
        pass
    print(time.monotonic(), flush=True)
time.sleep(30)
"""
"""argv: host port name. Opens an endless answer and prints when it ended (the clock is the machine's)."""

RAW = r"""
import socket, sys, time
host, port = sys.argv[1], int(sys.argv[2])
with socket.create_connection((host, port), timeout=30) as opened:
    opened.sendall(f"GET /stream/{sys.argv[3]} HTTP/1.1\r\n\r\n".encode())
    try:
        while opened.recv(65536):
            pass
    except OSError:
        pass
time.sleep(30)
"""
"""argv: host port name. The same over TCP that nobody reads on the way."""

FLOOD = r"""
import socket, ssl, sys, time
host, port, limit = sys.argv[1], int(sys.argv[2]), int(sys.argv[4])
tls = ssl.create_default_context()
with socket.create_connection((host, port), timeout=30) as raw, tls.wrap_socket(raw, server_hostname=host) as opened:
    opened.sendall(f"GET /stream/{sys.argv[3]} HTTP/1.1\r\nhost: {host}:{port}\r\n\r\n".encode())
    got, reached = 0, None
    try:
        while data := opened.recv(65536):
            got += len(data)
            if reached is None and got >= limit:
                reached = time.monotonic()
    except OSError:
        pass
    if reached is not None:
        print((time.monotonic() - reached) * 1e3, got - limit, flush=True)
time.sleep(30)
"""
"""argv: host port name limit. Reads an endless answer; prints for how many milliseconds and bytes it went on behind
`limit`."""
