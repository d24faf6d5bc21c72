"""`banger version`."""

from __future__ import annotations

import banger
from banger.frontends.cli.output import data
from banger.frontends.cli.parse import Given
from banger.model.build import build_id


def version(given: Given) -> int:
    """Print version and build; no daemon is asked."""
    if given.json:
        data(f'{{"version": "{banger.__version__}", "build": "{build_id()}"}}\n')
    else:
        data(f"banger {banger.__version__} (build {build_id()})\n")
    return 0
