#!/usr/bin/env python3
"""`pairwise lm serve` under everything at once: `python3 benches/peers/serve_load.py target/release/pairwise MODEL`.

Starts the server on this machine with a chat template that never ends. At the same time come 200 connections that send
their heads byte by byte, 300 MB of heads without end, chats (which never render), and 10,000 requests of 50 clients.
Meanwhile another process asks for a token and for /health, again and again. Prints what was measured; exits with 1 where
one of these took a second or more, one of the 10,000 failed, or the server had more than 200 MB in memory.
"""

import asyncio
import http.client
import json
import multiprocessing
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time

SLOW, CLIENTS, REQUESTS, HEAD_BYTES, CHATS = 200, 50, 10_000, 300_000_000, 8
MOST_SECONDS, MOST_MEGABYTES = 1.0, 200
ENDLESS = "{% for a in range(20000) %}{% for b in range(20000) %}{% for c in range(20000) %}{% endfor %}{% endfor %}{% endfor %}"
TOKEN = json.dumps({"prompt": "Once", "max_tokens": 4, "seed": 1})
HEADERS = {"Content-Type": "application/json"}


def ask(connection, path, body=None):
    connection.request("POST" if body else "GET", path, body, HEADERS if body else {})
    answer = connection.getresponse()
    return answer.status, answer.read()


def probe(port, done, results):
    """Asks on new connections and on a kept one, as a client that has nothing to do with the rest."""
    took, failed = [], 0
    kept = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    while not done.is_set():
        fresh = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for connection, path, body in [(fresh, "/v1/completions", TOKEN), (kept, "/v1/completions", TOKEN), (fresh, "/health", None)]:
            begun = time.perf_counter()
            try:
                failed += ask(connection, path, body)[0] != 200
            except OSError:
                failed += 1
                connection.close()
            took.append(time.perf_counter() - begun)
        fresh.close()
        time.sleep(0.05)
    results.put(("probe", {"answers": len(took), "failed": failed, "seconds": sorted(took)}))


def slow(port, done, results):
    """Heads that come byte by byte; who is closed comes again."""
    closed = 0

    async def one():
        nonlocal closed
        while not done.is_set():
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                for byte in b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 1000:
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(0.5)
                    if done.is_set() or reader.at_eof():
                        break
                writer.close()
            except OSError:
                pass
            closed += not done.is_set()

    async def all_of_them():
        await asyncio.gather(*(one() for _ in range(SLOW)))

    asyncio.run(all_of_them())
    results.put(("slow", {"connections": SLOW, "closed by the server": closed}))


def heads(port, done, results):
    """Heads without end, as long as the server takes them."""
    line, sent, longest = b"X: " + b"x" * 65_000 + b"\r\n", 0, 0
    while sent < HEAD_BYTES:
        own = 0
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
                while sent + own < HEAD_BYTES:
                    connection.sendall(line)
                    own += len(line)
        except OSError:
            pass
        sent, longest = sent + own, max(longest, own)
    results.put(("heads", {"bytes sent": sent, "most on one connection": longest}))


def chats(port, done, results):
    body = json.dumps({"messages": [{"role": "user", "content": "a"}], "max_tokens": 1})
    told, lock = {}, threading.Lock()

    def one():
        while not done.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
            try:
                status = ask(connection, "/v1/chat/completions", body)[0]
            except OSError as error:
                status = type(error).__name__
            connection.close()
            with lock:
                told[status] = told.get(status, 0) + 1

    threads = [threading.Thread(target=one, daemon=True) for _ in range(CHATS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(130)
    results.put(("chats", {"answers by status": told}))


def load(port, done, results):
    failed, lock = [], threading.Lock()

    def one():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for i in range(REQUESTS // CLIENTS):
            path, body = ("/v1/completions", TOKEN) if i % 2 else ("/v1/models", None)
            try:
                status = ask(connection, path, body)[0]
            except OSError as error:
                status = repr(error)
                connection.close()
            if status != 200:
                with lock:
                    failed.append(status)

    begun = time.perf_counter()
    threads = [threading.Thread(target=one) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.put(("load", {"requests": REQUESTS, "clients": CLIENTS, "failed": failed, "seconds": time.perf_counter() - begun}))


def memory(pid):
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: int(value.split()[0]) / 1024 for name, value in (line.split(":", 1) for line in lines)
            if name in ("VmHWM", "VmRSS")}


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    binary, model = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        template = pathlib.Path(folder, "endless.jinja")
        template.write_text(ENDLESS)
        command = [binary, "lm", "serve", "--model", model, "--port", "0", "--chat-template", str(template),
                   "--request-seconds", "20"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            port = int(server.stdout.readline().rsplit(":", 1)[1].split("/")[0])
            idle = memory(server.pid)["VmRSS"]
            done, results = multiprocessing.Event(), multiprocessing.Queue()
            finite = [multiprocessing.Process(target=one, args=(port, done, results)) for one in (heads, load)]
            others = [multiprocessing.Process(target=one, args=(port, done, results)) for one in (probe, slow, chats)]
            for process in others:
                process.start()
            time.sleep(2)
            for process in finite:
                process.start()
            found = dict(results.get() for _ in finite)
            done.set()
            found.update(results.get() for _ in others)
            for process in finite + others:
                process.join()
            most = memory(server.pid)["VmHWM"]
            server.send_signal(2)
            ended = server.wait(10)
        finally:
            server.kill()
    seconds = found["probe"].pop("seconds")
    found["probe"].update({"median s": seconds[len(seconds) // 2], "slowest s": seconds[-1]})
    for name, values in found.items():
        print(name, values)
    print(f"memory, MB: {idle:.0f} at the beginning, {most:.0f} at most; exit code {ended}")
    fine = (seconds[-1] < MOST_SECONDS and not found["probe"]["failed"] and not found["load"]["failed"]
            and most < MOST_MEGABYTES and ended == 0)
    sys.exit(0 if fine else "failed: others are to be answered within a second, all of them, in 200 MB")


if __name__ == "__main__":
    main()
