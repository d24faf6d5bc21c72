"""How made-up examples are tried: as they come, however long one takes. What a test claims of time it measures; the first example pays for imports."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("banger", deadline=None)
settings.load_profile("banger")
