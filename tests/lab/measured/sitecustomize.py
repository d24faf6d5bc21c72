"""On the path of the lab's Python where coverage is measured: each process that starts, the daemon too, measures itself."""

import coverage

coverage.process_startup()
