"""GitHub and GitLab as far as the checks ask for them: pages, users, tokens that may not write, comments, issues, branches.

It holds to what GitHub does where that matters: an account with write permission may edit any comment, and /user is closed to apps.
"""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

BOT = {"login": "github-actions[bot]", "type": "Bot"}
ALICE = {"login": "alice", "type": "User"}
TOKENS = {"ghs_bot-may-write": (BOT, True), "ghp_alice-may-write": (ALICE, True), "ghs_fork-may-read": (BOT, False)}
REPOSITORY = "/repos/acme/definitions"


class Forge:
    def __init__(self):
        self.comments, self.requests, self.next = [], [], 1
        self.issues, self.pulls, self.refs, self.commits = [], [], {}, []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def add(self, user, body):
        self.comments.append({"id": self.next, "user": user, "body": body})
        self.next += 1
        return self.comments[-1]

    def open(self, what, user, body):
        self.next += 1
        what.append({"number": self.next, "id": 9000 + self.next, "user": user, "state": "open", "comments": []} | body)
        return what[-1]

    def writes(self):
        return [(r["method"], r["path"]) for r in self.requests if r["method"] != "GET" and r["path"] != "/graphql"]

    def github(forge, method, path, query, body, user):
        """The answer for a user who may do this: a status and a body."""
        size, page = (int(query.get(name, [standard])[0]) for name, standard in [("per_page", 30), ("page", 1)])

        def listed(found):
            return 200, found[(page - 1) * size : page * size]

        match method, path.strip("/").split("/"):
            case "POST", ["graphql"]:
                return 200, forge.commit(body["variables"]["input"])
            case "GET", ["issues", "7", "comments"]:
                return listed(forge.comments)
            case "POST", ["issues", "7", "comments"]:
                return 201, forge.add(user, body["body"])
            case "PATCH", ["issues", "comments", number]:
                for comment in forge.comments:
                    if comment["id"] == int(number):
                        comment["body"] = body["body"]
                        return 200, comment
            case "GET", ["issues"]:
                return listed([issue for issue in forge.issues if issue["state"] == query["state"][0]])
            case "POST", ["issues"]:
                return 201, forge.open(forge.issues, user, body)
            case "POST", ["issues", number, "comments"]:
                for issue in forge.issues:
                    if issue["number"] == int(number):
                        issue["comments"].append(body["body"])
                        return 201, {"id": 1}
            case "GET", ["pulls"]:
                head = query["head"][0].removeprefix("acme:")
                return listed([pull for pull in forge.pulls if pull["state"] == "open" and pull["head"] == head])
            case "POST", ["pulls"]:
                return 201, forge.open(forge.pulls, user, body)
            case "PATCH", ["issues" | "pulls" as kind, number]:
                for item in forge.issues if kind == "issues" else forge.pulls:
                    if item["number"] == int(number):
                        item.update(body)
                        return 200, item
            case "GET", ["git", "ref", *ref]:
                if commit := forge.refs.get("/".join(ref)):
                    return 200, {"object": {"sha": commit}}
            case "POST", ["git", "refs"]:
                forge.refs[body["ref"].removeprefix("refs/")] = body["sha"]
                return 201, {}
            case "PATCH", ["git", "refs", *ref] if body["force"]:
                forge.refs["/".join(ref)] = body["sha"]
                return 200, {}
            case "DELETE", ["git", "refs", *ref]:
                del forge.refs["/".join(ref)]
                return 204, {}
        return 404, {"message": "Not Found"}

    def commit(self, given):
        branch = f"heads/{given['branch']['branchName']}"
        if self.refs.get(branch) != given["expectedHeadOid"]:
            return {"errors": [{"message": "the branch is not at the expected commit"}]}
        added = {file["path"]: base64.b64decode(file["contents"]).decode() for file in given["fileChanges"]["additions"]}
        self.commits.append(added)
        self.refs[branch] = f"{len(self.commits):040}"
        return {"data": {"createCommitOnBranch": {"commit": {"oid": self.refs[branch]}}}}

    def handler(forge):
        class Handler(BaseHTTPRequestHandler):
            def answer(self, status, body):
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                if status != 204:
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
                if url.path == "/graphql" and "viewer" in body["query"]:
                    return self.answer(200, {"data": {"viewer": {"login": user["login"].removesuffix("[bot]")}}})
                if url.path == "/user":
                    return self.answer(*((200, user) if user["type"] == "User" else (403, {"message": "Forbidden"})))
                if self.command != "GET" and not may_write:
                    return self.answer(403, {"message": "Resource not accessible by integration"})
                path = url.path.removeprefix(REPOSITORY)
                self.answer(*forge.github(self.command, path, parse_qs(url.query), body, user))

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

            do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = ask

            def log_message(self, *_):
                pass

        return Handler
