"""A host and an internet of a test's own, in two network namespaces: one where banger runs, and one with a web server and a name server.

The addresses are those set aside for documentation (RFC 5737). Needs root. `Internet` is a context manager and removes what it made.
"""

from __future__ import annotations

import http.server
import itertools
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

WEB, RESOLVER, HOST = "203.0.113.10", "203.0.113.53", "198.51.100.2"
NAME = "www.example.test"
#: Tells those of one process apart; the names of links are short.
LETTERS = itertools.cycle("abcdefg")
#: What a web server here says; each says which one it is.
FAR, LOOPBACK, NEAR = "the internet", "the host's loopback", "the host itself"


def missing() -> str:
    """Why there can be none here, or nothing."""
    if os.geteuid() != 0:
        return "root is needed for network namespaces of one's own"
    return "" if shutil.which("ip", path="/usr/sbin:/sbin:/usr/bin") else "ip (package iproute2)"


class Internet:
    """`prefix` begins a command that is to run on the host; there, the name server is `nameserver`."""

    def __init__(self, *, nameserver: str = RESOLVER, route: bool = True) -> None:
        tag = f"bt{os.getpid()}{next(LETTERS)}"
        self.host, self.net = f"{tag}h", f"{tag}n"
        self.prefix = ("ip", "netns", "exec", self.host)
        self.nameserver, self.route = nameserver, route
        self.servers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Internet:
        near, far = f"{self.host}0", f"{self.net}0"
        for name in (self.host, self.net):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("link", "add", near, "netns", self.host, "type", "veth", "peer", "name", far, "netns", self.net)
        for name, link, address in ((self.host, near, f"{HOST}/24"), (self.net, far, "198.51.100.1/24")):
            ip("-n", name, "addr", "add", address, "dev", link)
            ip("-n", name, "link", "set", link, "up")
        for address in (WEB, RESOLVER):
            ip("-n", self.net, "addr", "add", f"{address}/32", "dev", "lo")
        if self.route:
            ip("-n", self.host, "route", "add", "default", "via", "198.51.100.1")
        settings = Path("/etc/netns") / self.host
        settings.mkdir(parents=True)
        (settings / "resolv.conf").write_text(f"nameserver {self.nameserver}\n")
        self._serve(self.net, f"web:{WEB}:8000:{FAR}", f"dns:{RESOLVER}:53:{WEB}")
        self._serve(self.host, f"web:127.0.0.1:8080:{LOOPBACK}", f"web:{HOST}:8081:{NEAR}", f"dns:127.0.0.53:53:{WEB}", f"dns:127.0.0.1:5353:{WEB}")
        return self

    def _serve(self, namespace: str, *what: str) -> None:
        command = ["ip", "netns", "exec", namespace, sys.executable, __file__, *what]
        server = subprocess.Popen(command, stdout=subprocess.PIPE)
        self.servers.append(server)
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"

    def __exit__(self, *_: object) -> None:
        for server in self.servers:
            server.kill()
            server.communicate()
        for name in (self.host, self.net):
            ip("netns", "del", name)
        shutil.rmtree(Path("/etc/netns") / self.host)


def ip(*arguments: str) -> None:
    """Run ip(8)."""
    subprocess.run(["ip", *arguments], check=True, timeout=20)


# --- the servers, in a process of their own


class Page(http.server.BaseHTTPRequestHandler):
    """Says which server it is."""

    text = ""

    def do_GET(self) -> None:
        """The same page, whatever is asked for."""
        body = self.text.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def answer(query: bytes, address: str) -> bytes:
    """A name server's answer: every A question has the same address, other questions have none."""
    end = query.index(b"\0", 12) + 5
    has = query[end - 4 : end - 2] == b"\0\1"
    head = query[:2] + b"\x81\x80\0\1" + (b"\0\1" if has else b"\0\0") + bytes(4)
    return head + query[12:end] + (b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(address) if has else b"")


def name_server(address: str, port: int, found: str) -> None:
    """For ever."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((address, port))
    while True:
        query, peer = server.recvfrom(512)
        server.sendto(answer(query, found), peer)


def main(arguments: list[str]) -> None:
    """`web:ADDRESS:PORT:TEXT` and `dns:ADDRESS:PORT:FOUND`, until killed."""
    for argument in arguments:
        kind, address, port, text = argument.split(":")
        if kind == "web":
            page = type("P", (Page,), {"text": text})
            server = http.server.ThreadingHTTPServer((address, int(port)), page)
            threading.Thread(target=server.serve_forever, daemon=True).start()
        else:
            threading.Thread(target=name_server, args=(address, int(port), text), daemon=True).start()
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1:])
