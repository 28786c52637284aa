"""Starts the binary of the image in the image's file system, as its user, on a root that is read only, against a
sandbox behind TLS: `live.py ROOT IMAGE-JSON BINARY`, in a network and mount namespace of its own.

The resolver is configured as by Kubernetes, with ndots:5 and a search list, and asks a stand-in for the cluster's DNS."""

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

ROOT, IMAGE, BINARY = (Path(argument) for argument in sys.argv[1:])
DEFINITIONS = Path(__file__).parents[2] / "definitions"
NAME = "calry.example.com"
SEARCH = ["apps.svc.cluster.local", "svc.cluster.local", "cluster.local"]
asked = []


def check(holds, claim):
    if not holds:
        sys.exit(f"it does not hold that {claim}")
    print(claim, flush=True)


def loopback():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        up = struct.pack("16sh14x", b"lo", 0x1 | 0x40)  # IFF_UP, IFF_RUNNING
        fcntl.ioctl(any_socket, 0x8914, up)  # SIOCSIFFLAGS


def dns(server):
    """Knows one name, of which it knows the IPv4 address alone."""
    while True:
        question, peer = server.recvfrom(512)
        labels, at = [], 12
        while question[at]:
            labels.append(question[at + 1:at + 1 + question[at]].decode())
            at += 1 + question[at]
        name, kind = ".".join(labels), struct.unpack_from(">H", question, at + 1)[0]
        asked.append(name)
        answer = struct.pack(">HHHIH4B", 0xC00C, 1, 1, 5, 4, 127, 0, 0, 1) if name == NAME and kind == 1 else b""
        flags = 0x8180 if name == NAME else 0x8183  # no such name
        head = question[:2] + struct.pack(">HHHHH", flags, 1, 1 if answer else 0, 0, 0)
        server.sendto(head + question[12:at + 5] + answer, peer)


def pump(source, sink):
    try:
        while chunk := source.recv(65536):
            sink.sendall(chunk)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        sink.close()


def tls(server, context, port):
    while True:
        peer, _ = server.accept()
        try:
            peer = context.wrap_socket(peer, server_side=True)
        except OSError:
            continue
        behind = socket.create_connection(("127.0.0.1", port))
        threading.Thread(target=pump, args=(peer, behind), daemon=True).start()
        threading.Thread(target=pump, args=(behind, peer), daemon=True).start()


def mount(source, target, *options):
    subprocess.run(["mount", *options, source, target], check=True)


def get(path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:8080{path}", timeout=2) as answer:
            return answer.status
    except OSError:
        return 0


def until(holds, process, log):
    end = time.monotonic() + 30
    while time.monotonic() < end and process.poll() is None:
        if holds():
            return
        time.sleep(0.05)
    sys.exit(f"timed out; the daemon's log:\n{log.read_text()}")


def main():
    work = Path(tempfile.mkdtemp(dir=IMAGE.parent))
    config = json.loads(IMAGE.read_text())["OCIv1"]["config"]
    check(config["User"] == "65532:65532", "the user is not root")
    check(config["Cmd"] == ["run"], "it runs the daemon")
    check(config["Labels"]["org.opencontainers.image.revision"] == "0123abcd", "its labels tell the revision")

    loopback()
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))
    threading.Thread(target=dns, args=(server,), daemon=True).start()
    sandbox = subprocess.Popen([BINARY, "sandbox", "--listen", "127.0.0.1:4010"], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
    banner = ""
    while not (key := re.search(r"zepl\.sandbox-write\.[^ '\"]+", banner)):
        line = sandbox.stdout.readline()
        if not line:
            sys.exit(f"the sandbox did not start:\n{banner}")
        banner += line
    threading.Thread(target=sandbox.stdout.read, daemon=True).start()
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-days", "2", "-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}",
                    "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", work / "tls.key",
                    "-out", work / "tls.pem"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(work / "tls.pem", work / "tls.key")
    front = socket.create_server(("127.0.0.1", 443))
    threading.Thread(target=tls, args=(front, context, 4010), daemon=True).start()

    # What the kubelet puts into a container: volumes and the resolver's configuration.
    for directory in ("definitions", "run/key", "state"):
        (ROOT / directory).mkdir(parents=True)
    (ROOT / "etc/resolv.conf").touch()
    resolv = work / "resolv.conf"
    resolv.write_text(f"search {' '.join(SEARCH)}\nnameserver 127.0.0.1\noptions ndots:5\n")
    (work / "key").mkdir()
    (work / "key/api-key").write_text(key.group())
    (work / "state").mkdir()
    os.chown(work / "state", 65532, 65532)
    shutil.copytree(DEFINITIONS, work / "definitions")
    certificates = ROOT / "etc/ssl/certs/ca-certificates.crt"
    trusted = work / "trusted.crt"
    trusted.write_text(certificates.read_text() + (work / "tls.pem").read_text())

    mount("none", "/", "--make-rprivate")
    mount(ROOT, ROOT, "--bind")
    for source, target in {"definitions": "definitions", "key": "run/key", "resolv.conf": "etc/resolv.conf"}.items():
        mount(work / source, ROOT / target, "--bind", "-o", "ro")
    mount(work / "state", ROOT / "state", "--bind")
    mount("none", ROOT, "-o", "remount,bind,ro")
    program = [shutil.which("setpriv"), "--no-new-privs", shutil.which("chroot"), f"--userspec={config['User']}",
               "--groups=", ROOT, *config["Entrypoint"]]
    command = [*program, "run", "--definitions=/definitions", f"--api-url=https://{NAME}",
               "--api-key-file=/run/key/api-key", "--state-dir=/state", "--max-changes=none", "--listen=0.0.0.0:8080", "--log-format=json",
               "--interval=2s"]
    environment = {f"CALRY_SECRET_{name}": "x" for name in secrets()}

    once = subprocess.run([*command, "--once"], env=environment, capture_output=True, text=True, check=False)
    check(once.returncode == 1 and "SSL_CERT_FILE" in once.stderr, "an unknown certificate is not trusted")
    mount(trusted, certificates, "--bind")

    asked.clear()
    log = work / "log"
    with log.open("w") as said:
        daemon = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
    until(lambda: get("/readyz") == 200, daemon, log)
    print("it is ready, by the CA certificates where the image has them")
    status = [*program, "status"]
    until(lambda: subprocess.run(status, env={}, capture_output=True, check=False).returncode == 0, daemon, log)
    print("its own command says that the workspace is in sync")
    order = list(dict.fromkeys(asked))
    wanted = [f"{NAME}.{domain}" for domain in SEARCH] + [NAME]
    check(order == wanted, "its name was looked for in every search domain first")
    process = Path(f"/proc/{daemon.pid}/status").read_text()
    check(re.search(r"Uid:\s+65532\s+65532\s+65532", process), "it runs as its user")
    check(re.search(r"CapEff:\s+0+\n", process), "it has no capability")
    check(os.statvfs(f"/proc/{daemon.pid}/root").f_flag & os.ST_RDONLY, "its root is read only")
    check(os.readlink(f"/proc/{daemon.pid}/root") == str(ROOT), "its root is the image")
    until(lambda: any((work / "state").iterdir()), daemon, log)
    print("it remembers in its volume")
    (work / "definitions/guesty.yaml").write_text("provider: GUESTY\nicon: https://cdn.example.com/guesty-2.png\n")
    until(lambda: "GUESTY updated" in log.read_text(), daemon, log)
    print("a change reaches Calry")
    memory = int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{daemon.pid}/status").read_text())[1])
    check(memory < 64 << 10, f"it took {memory} KiB at most")
    daemon.send_signal(signal.SIGTERM)
    check(daemon.wait(30) == 0, "it ends when it is asked to")


def secrets():
    """The variables of the secrets to which the example definitions refer."""
    text = "".join(path.read_text() for path in DEFINITIONS.glob("*.yaml"))
    return {name.upper().replace("-", "_").replace(".", "_") for name in re.findall(r"\$\{secret:([^}]+)\}", text)}


main()
