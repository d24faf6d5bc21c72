"""A registry with a small image, plain and behind a front, for the tests of what pulls from registries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pulling import LAYER
from tests.registry import Daemon, Front, certificates, registry, tar


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with registry(tmp_path_factory.mktemp("plain") / "registry") as made:
        made.image("team/box", "1", [LAYER])
        made.index(
            "team/box",
            "all",
            {
                "linux/amd64": made.image("team/box", "1", [LAYER]),
                "linux/arm64/v8": made.image("team/box", "arm", [tar({"a": b"arm"})], architecture="arm64"),
            },
        )
        yield made


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificates(tmp_path_factory.mktemp("tls") / "made")


@pytest.fixture
def front(upstream: Daemon) -> Iterator[Front]:
    made = Front(upstream.host)
    yield made
    made.close()


@pytest.fixture
def nothing_of_this_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
