"""Threads, an open file and an open SQLite transaction: each request takes one step in all of them."""

import json
import os
import queue
import secrets
import sqlite3
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer

NONCE = secrets.token_hex(8)
ticks = 0


def tick_for_ever():
    global ticks
    while True:
        time.sleep(0.1)
        ticks += 1


class Clerk(threading.Thread):
    """Owns the database, as SQLite wants it, and counts in a variable of its own."""

    def __init__(self):
        super().__init__(daemon=True)
        self.asked = queue.Queue()

    def run(self):
        # In the root directory. Nothing is ever committed but the table: what is kept is the transaction.
        database = sqlite3.connect("/var/notes.db", isolation_level=None)
        database.execute("PRAGMA journal_mode = DELETE")
        database.execute("CREATE TABLE notes (text TEXT)")
        database.execute("BEGIN IMMEDIATE")
        others = sqlite3.connect("/var/notes.db", timeout=0)
        lines, count = open("/var/lines"), 0
        while True:
            answer = self.asked.get()
            count += 1
            database.execute("INSERT INTO notes VALUES (?)", (f"note {count}",))
            rows = database.execute("SELECT count(*) FROM notes").fetchone()[0]
            seen = others.execute("SELECT count(*) FROM notes").fetchone()[0]
            answer.put({"thread": count, "rows": rows - seen, "line": int(lines.readline())})


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        answer = queue.Queue()
        self.server.clerk.asked.put(answer)
        reply = {"nonce": NONCE, "steps": answer.get(), "ticks": {"thread": ticks}}
        body = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self):
        TCPServer.server_bind(self)  # HTTPServer's would also look up a host name: no resolver here



os.makedirs("/var", exist_ok=True)
with open("/var/lines", "w") as lines:
    lines.writelines(f"{n}\n" for n in range(1, 1001))
threading.Thread(target=tick_for_ever, daemon=True).start()
server = Server(("0.0.0.0", 8080), Handler)
server.clerk = Clerk()
server.clerk.start()
server.serve_forever()
