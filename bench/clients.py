"""What runs inside a cell to measure. Each source is given to `python -c` and prints one JSON object."""

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
