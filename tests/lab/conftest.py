"""What is in `inside` runs in the lab machine only: there, and where it is listed, `BANGER_LAB` says so."""

from __future__ import annotations

import os

collect_ignore = [] if os.environ.get("BANGER_LAB") else ["inside"]
