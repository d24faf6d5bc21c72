"""Asks a name server, as a program of its own so that it can do so in another network namespace: `python -m tests.asker PORT tcp|udp NAME TYPE`.

Prints the response code, then the answer's records, one a line.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import dns.message
import dns.query
import dns.rcode

from tests.world import ROOT

SECONDS = 5.0


def ask(port: int, transport: str, name: str, kind: str) -> list[str]:
    """The code and the records."""
    over = dns.query.tcp if transport == "tcp" else dns.query.udp
    response = over(dns.message.make_query(name, kind), "127.0.0.1", port=port, timeout=SECONDS)
    return [dns.rcode.to_text(response.rcode()), *(str(record) for rrset in response.answer for record in rrset)]


def asked(prefix: Sequence[str], port: int, name: str, kind: str = "A", *, transport: str = "udp") -> list[str]:
    """The same, asked behind a command prefix."""
    command = [*prefix, sys.executable, "-m", "tests.asker", str(port), transport, name, kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split()


if __name__ == "__main__":
    print("\n".join(ask(int(sys.argv[1]), *sys.argv[2:5])))
