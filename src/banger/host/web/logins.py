"""Who the user is to a registry, as `docker login` and `podman login` have left it: their files, and the credential helpers that these name.

Secrets come from a file or a helper's stdout and stay in memory for one pull: no log, no argument and no variable ever has one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec

from banger.host.proc import Proc
from banger.model.errors import BangerError
from banger.model.registry import TOKEN_USER, DockerConfig, Helped, Login, helper_for, login_name, written_login

log = logging.getLogger(__name__)
#: A helper may ask the user to unlock a store; seconds.
PATIENCE = 60.0
LARGEST = 1 << 20


class Logins:
    """Reads the files anew for each pull: a login counts at once."""

    def __init__(self, proc: Proc, files: Sequence[Path]) -> None:
        self.proc, self.files = proc, tuple(files)

    async def find(self, registry: str) -> Login | None:
        """The login for a registry, of the first file that has one; None when the user has none."""
        for path in self.files:
            config = self._read(path)
            if config is None:
                continue
            helper = helper_for(config, registry)
            found = await self._ask(helper, registry) if helper else None
            found = found or written_login(config, registry)
            if found is not None:
                return found
        return None

    def _read(self, path: Path) -> DockerConfig | None:
        try:
            with path.open("rb") as file:
                return msgspec.json.decode(file.read(LARGEST), type=DockerConfig)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            log.warning("logins in %s cannot be read: %s", path, type(error).__name__)  # a decoder's words may quote what is secret
            return None

    async def _ask(self, helper: str, registry: str) -> Login | None:
        """By the protocol of docker-credential-helpers: the registry on stdin, JSON on stdout, status 1 when it knows none."""
        try:
            said = await self.proc.run([f"docker-credential-{helper}", "get"], timeout=PATIENCE, data=login_name(registry).encode())
            found = msgspec.json.decode(said, type=Helped)
        except BangerError as error:
            log.warning("the credential helper %s gave no login for %s: %s", helper, registry, error)
            return None
        except (msgspec.DecodeError, UnicodeDecodeError):
            log.warning("the credential helper %s says what cannot be read", helper)
            return None
        return Login(token=found.secret) if found.username == TOKEN_USER else Login(user=found.username, secret=found.secret)
