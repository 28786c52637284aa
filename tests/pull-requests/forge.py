"""The comments of GitHub and GitLab, as far as the checks ask for them: pages, users, tokens that may not write.

It holds to what GitHub does where that matters: whoever may write may edit anybody's comment, /user is closed to apps.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

BOT = {"login": "github-actions[bot]", "type": "Bot"}
ALICE = {"login": "alice", "type": "User"}
TOKENS = {"ghs_bot-may-write": (BOT, True), "ghp_alice-may-write": (ALICE, True), "ghs_fork-may-read": (BOT, False)}


class Forge:
    def __init__(self):
        self.comments, self.requests, self.next = [], [], 1
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def add(self, user, body):
        self.comments.append({"id": self.next, "user": user, "body": body})
        self.next += 1
        return self.comments[-1]

    def writes(self):
        return [(r["method"], r["path"]) for r in self.requests if r["method"] != "GET" and r["path"] != "/graphql"]

    def handler(forge):
        class Handler(BaseHTTPRequestHandler):
            def answer(self, status, body):
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def ask(self):
                url = urlsplit(self.path)
                length = int(self.headers.get("content-length", 0))
                body = json.loads(self.rfile.read(length)) if length else None
                forge.requests.append({"method": self.command, "path": url.path, "body": body})
                if url.path.startswith("/api/v4/"):
                    return self.gitlab(self.command, url.path, parse_qs(url.query), body)
                user, may_write = TOKENS.get(self.headers.get("authorization", "").removeprefix("Bearer "), (None, False))
                if user is None:
                    return self.answer(401, {"message": "Bad credentials"})
                if url.path == "/graphql":
                    return self.answer(200, {"data": {"viewer": {"login": user["login"].removesuffix("[bot]")}}})
                if url.path == "/user":
                    return self.answer(*((200, user) if user["type"] == "User" else (403, {"message": "Forbidden"})))
                if self.command != "GET" and not may_write:
                    return self.answer(403, {"message": "Resource not accessible by integration"})
                if url.path == "/repos/acme/definitions/issues/7/comments":
                    if self.command == "POST":
                        return self.answer(201, forge.add(user, body["body"]))
                    query = parse_qs(url.query)
                    size, page = (int(query.get(name, [standard])[0]) for name, standard in [("per_page", 30), ("page", 1)])
                    return self.answer(200, forge.comments[(page - 1) * size : page * size])
                if self.command == "PATCH":
                    for comment in forge.comments:
                        if url.path == f"/repos/acme/definitions/issues/comments/{comment['id']}":
                            comment["body"] = body["body"]
                            return self.answer(200, comment)
                self.answer(404, {"message": "Not Found"})

            def gitlab(self, method, path, query, body):
                user = TOKENS.get(self.headers.get("private-token"), (None, False))[0]
                if user is None:
                    return self.answer(401, {"message": "401 Unauthorized"})
                number = sum(user["login"].encode())
                if path == "/api/v4/user":
                    return self.answer(200, {"id": number, "username": user["login"]})
                notes = "/api/v4/projects/42/merge_requests/7/notes"
                if path == notes and method == "POST":
                    return self.answer(201, forge.add({**user, "id": number}, body["body"]))
                if path == notes:
                    size, page = (int(query[name][0]) for name in ["per_page", "page"])
                    found = forge.comments[(page - 1) * size : page * size]
                    return self.answer(200, [{**c, "author": c["user"], "system": False} for c in found])
                for comment in forge.comments:
                    if method == "PUT" and path == f"{notes}/{comment['id']}":
                        comment["body"] = body["body"]
                        return self.answer(200, comment)
                self.answer(404, {"message": "404 Not found"})

            do_GET = do_POST = do_PATCH = do_PUT = ask

            def log_message(self, *_):
                pass

        return Handler
