"""`python -m tests.lab [NODE…]`: run tests of this checkout in a lab machine that is kept up between calls; what pytest understands may follow.

Without a node it is only started. `--shell` opens a shell in it, `--down` ends it, `--settings 'vmm=qemu network=none'` says what the tests run with.
"""

from __future__ import annotations

import argparse

from tests.lab.standing import call

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shell", action="store_true")
    parser.add_argument("--down", action="store_true")
    parser.add_argument("--settings", default="")
    known, nodes = parser.parse_known_args()
    raise SystemExit(call(nodes, settings=known.settings, shell=known.shell, down=known.down))
