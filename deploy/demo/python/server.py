"""The second demo workload: as `counter`, in another language.

It counts requests, draws a nonce at start and counts a timer's ticks, all in memory only, so that the
answers tell a process that was restored from one that was started again. Standard library only.
"""

import json
import os
import secrets
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from urllib.parse import parse_qs, urlsplit

TICK_SECONDS = 0.1


class Counters:
    """What the process remembers."""

    def __init__(self):
        self.nonce = secrets.token_hex(8)
        self.ticks = 0
        self._count = 0
        self._lock = threading.Lock()

    def next_count(self):
        with self._lock:
            self._count += 1
            return self._count

    def tick_for_ever(self):
        while True:
            time.sleep(TICK_SECONDS)
            self.ticks += 1  # this thread is the only one that writes it


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keep-alive
    disable_nagle_algorithm = True  # head and body are two writes

    def do_GET(self):
        url = urlsplit(self.path)
        if url.path == "/":
            self.answer_json(self.greeting())
        elif url.path == "/healthz":
            self.answer(200, "text/plain", "ok")
        elif url.path == "/slow":
            self.slow(parse_qs(url.query))
        else:
            self.answer(404, "text/plain", "not found\n")

    do_HEAD = do_GET

    def greeting(self):
        counters = self.server.counters
        return {
            "count": counters.next_count(),
            "nonce": counters.nonce,
            "ticks": counters.ticks,
            "host": self.headers.get("Host", ""),
            "pid": os.getpid(),
        }

    def slow(self, query):
        text = query.get("ms", [""])[-1]
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            self.answer(400, "text/plain", "ms must be a number of milliseconds\n")
            return
        time.sleep(int(text) / 1000)
        self.answer_json({"ms": int(text)})

    def answer_json(self, value):
        self.answer(200, "application/json", json.dumps(value, separators=(",", ":")) + "\n")

    def answer(self, status, content_type, text):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            self.send_header("Connection", "close")  # its body was not read
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format, *args):
        pass  # one line a request would only be noise


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, port):
        super().__init__(("0.0.0.0", port), Handler)
        self.counters = Counters()

    def server_bind(self):
        TCPServer.server_bind(self)  # HTTPServer's would also look up a host name: no resolver here


def main():
    port = os.environ.get("PORT", "8080")
    if not port.isdigit() or int(port) > 65535:
        sys.exit(f"server.py: PORT must be a port number, not {port!r}")
    # As the first process of a container it would otherwise ignore SIGTERM.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server = Server(int(port))
    threading.Thread(target=server.counters.tick_for_ever, name="ticks", daemon=True).start()
    print(f"server.py listens on 0.0.0.0:{port}, nonce {server.counters.nonce}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
