"""Serves the repositories below a directory over HTTP on loopback, by git http-backend: serve.py DIRECTORY PORT [TOKEN].
Port 0 takes a free one; which one is printed. With a token, a request needs it as its password. The variable SERVE_TLS
names a directory with cert.pem and key.pem; SERVE_VERSION=0 forgets which version of the protocol a client asks for."""

import base64
import http.server
import os
import ssl
import subprocess
import sys
from urllib.parse import urlsplit


class Backend(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if len(sys.argv) > 3 and self.password() != sys.argv[3]:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        url = urlsplit(self.path)
        said = {
            "GIT_PROJECT_ROOT": sys.argv[1],
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_PROTOCOL": "" if os.environ.get("SERVE_VERSION") == "0" else self.headers.get("git-protocol", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("content-encoding", ""),
            "PATH_INFO": url.path,
            "QUERY_STRING": url.query,
            "REMOTE_ADDR": self.client_address[0],
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("content-type", ""),
        }
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        environment = os.environ | said
        made = subprocess.run(["git", "http-backend"], input=body, stdout=subprocess.PIPE, env=environment, check=False)
        head, _, content = made.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
        self.send_response(int(headers.pop("Status", "200").split()[0]))
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET

    def password(self):
        method, _, value = self.headers.get("authorization", "").partition(" ")
        return base64.b64decode(value).decode().partition(":")[2] if method == "Basic" else None

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Backend)
if directory := os.environ.get("SERVE_TLS"):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{directory}/cert.pem", f"{directory}/key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()
