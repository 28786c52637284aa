"""A proxy between the daemon and the sandbox that injects faults of every kind, at a rate. It runs in a thread of the program that
uses it, listens on loopback, and counts what it sees."""

import asyncio
import collections
import json
import random
import socket
import struct
import threading
import time

HUGE = 33 << 20
HTML = b"<!DOCTYPE html><html><body><h1>Gateway</h1></body></html>"
# How often each kind is chosen: all faults that the sandbox can inject, and more that a network has.
KINDS = {
    "status 408": 2, "status 425": 1, "status 429": 4, "status 429 with Retry-After": 4, "status 500": 4, "status 502": 4,
    "status 503": 4, "status 503 with Retry-After": 2, "status 504": 4, "status 520": 1, "status 400": 2, "status 401": 1,
    "status 403": 1, "status 404": 1, "html 200": 2, "html 502": 3, "garbage": 3, "empty": 2, "answer": 3, "echo": 2,
    "redirect": 2, "huge": 1, "delay": 6, "hang": 1, "trickle": 3, "drop before": 8, "drop after": 8, "reset": 4, "truncate": 6,
}


class Cut(Exception):
    """The connection ends without an answer."""


class Proxy:
    def __init__(self, upstream, rate, hang, seed=0):
        self.upstream = upstream.removeprefix("http://").split(":")
        self.rate, self.hang = rate, hang
        self.random = random.Random(seed)
        self.tokens, self.filled = 0.0, time.monotonic()
        self.faults = collections.Counter()
        self.faulty_updates = self.requests = self.updates = self.reads_of_workspaces = 0
        self.address, self.connections = None, set()
        started = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self.serve(started)), daemon=True).start()
        started.wait()

    async def serve(self, started):
        server = await asyncio.start_server(self.connection, "127.0.0.1", 0, limit=1 << 20, backlog=1024)
        self.address = "http://127.0.0.1:%d" % server.sockets[0].getsockname()[1]
        started.set()
        await server.serve_forever()

    def choose(self):
        """The fault of a request, or None. Not each request gets one while the rate allows it, so that a repeated one may succeed."""
        now = time.monotonic()
        self.tokens = min(self.tokens + (now - self.filled) * self.rate, max(self.rate, 1))
        self.filled = now
        if self.rate == 0 or self.tokens < 1 or self.random.random() < 0.4:
            return None
        self.tokens -= 1
        kind = self.random.choices(list(KINDS), KINDS.values())[0]
        self.faults[kind] += 1
        return kind

    async def connection(self, reader, writer):
        # Nothing else refers to the task while it waits.
        self.connections.add(asyncio.current_task())
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(length_of(head))
                method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
                self.requests += 1
                self.updates += method == "PATCH"
                self.reads_of_workspaces += path == "/api/v1/workspace"
                kind = self.choose()
                self.faulty_updates += kind is not None and method == "PATCH"
                await self.answer(kind, head, body, writer)
                await writer.drain()
        except (Cut, OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.connections.discard(asyncio.current_task())
            writer.close()

    async def answer(self, kind, head, body, writer):
        word, _, rest = (kind or "").partition(" ")
        if word == "status":
            code, _, pause = rest.partition(" ")
            writer.write(error(int(code), "No.", "Retry-After: 2\r\n" if pause else ""))
        elif word == "html":
            writer.write(response(int(rest), HTML, "Content-Type: text/html\r\n"))
        elif word == "garbage":
            writer.write(response(200, b'\xff\xfe{"id": <html>\0'))
        elif word == "empty":
            writer.write(response(200, b""))
        elif word == "redirect":
            writer.write(error(307, "Moved", "Location: https://example.com/\r\n"))
        elif word == "echo":
            writer.write(error(400, "Cannot process " + body.decode() + head.decode()))
        elif word == "huge":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n\"" % HUGE)
            for _ in range(HUGE >> 16):
                writer.write(b"x" * (1 << 16))
                await writer.drain()
            raise Cut
        elif word == "reset":
            # Closing it sends RST, and what was not sent yet is lost.
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            raise Cut
        elif kind == "drop before":
            raise Cut
        else:
            answered = await self.forward(head, body)
            if word == "delay":
                await asyncio.sleep(self.random.uniform(0.2, 3))
            elif word == "hang":
                await asyncio.sleep(self.hang)
            elif kind == "drop after":
                raise Cut
            elif word == "truncate":
                writer.write(answered[: len(answered) // 2])
                await writer.drain()
                raise Cut
            elif word == "answer":
                answered = response(200, b'{"id": "7", "provider": "ANOTHER", "fieldsToSync": {}}')
            elif word == "trickle":
                for at in range(0, len(answered), 4096):
                    writer.write(answered[at : at + 4096])
                    await writer.drain()
                    await asyncio.sleep(0.1)
                return
            writer.write(answered)

    async def forward(self, head, body):
        reader, writer = await asyncio.open_connection(*self.upstream, limit=1 << 20)
        try:
            writer.write(head + body)
            head = await reader.readuntil(b"\r\n\r\n")
            return head + await reader.readexactly(length_of(head))
        finally:
            writer.close()


def length_of(head):
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def response(code, body, headers="Content-Type: application/json\r\n"):
    return f"HTTP/1.1 {code} Status\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


def error(code, message, headers=""):
    body = {"timestamp": "2026-01-01T00:00:00.000Z", "path": "/", "message": message, "details": []}
    return response(code, json.dumps(body).encode(), "Content-Type: application/json\r\n" + headers)
