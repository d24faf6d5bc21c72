"""What a machine of an image starts as, by the names of its files and by its configuration."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from banger.model import codec
from banger.model.catalog import ImageConfig, ImageManifest
from banger.model.inits import command_of, init_of, is_init

CASES = json.loads((Path(__file__).parents[1] / "vectors" / "inits.json").read_text())["cases"]
OLD = (
    b'{"version":1,"name":"box","source":"debian","digest":"sha256:1","size_bytes":1,"built":"2026-01-01T00:00:00Z","kernel":"linux",'
    b'"used_bytes":1,"packages":1,"init":"systemd"}'
)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_an_images_init_is_known_by_its_files(case: dict[str, object]) -> None:
    paths = case["paths"]
    assert isinstance(paths, list)
    assert init_of(frozenset(map(str, paths))) == case["init"]


@pytest.mark.parametrize(
    ("argv", "whether"),
    [
        (("/sbin/init",), True),
        (("/usr/lib/systemd/systemd", "--system"), True),
        (("/init",), True),
        (("init",), True),
        (("/usr/local/bin/init", "db"), False),
        (("/sbin/tini", "--", "app"), False),
        (("/docker-entrypoint.sh",), False),
        ((), False),
    ],
)
def test_some_commands_insist_on_being_process_1(argv: tuple[str, ...], whether: bool) -> None:
    assert is_init(argv) is whether


def test_cmd_follows_the_entrypoint() -> None:
    assert command_of(ImageConfig(entrypoint=("/app", "-v"), cmd=("serve",))) == ("/app", "-v", "serve")
    assert command_of(ImageConfig(cmd=("sh",))) == ("sh",)


def test_a_manifest_of_before_says_nothing_of_how_commands_run() -> None:
    found = codec.decode(OLD, ImageManifest, what="image box")
    assert (found.config, found.architecture) == (ImageConfig(), "")


def test_a_manifest_comes_back_as_it_was_written() -> None:
    config = ImageConfig(env={"PATH": "/app", "A": "b=c"}, workdir="/srv", user="7:8", entrypoint=("/app",), cmd=("x",), stop_signal="SIGQUIT")
    manifest = msgspec.structs.replace(codec.decode(OLD, ImageManifest, what="image box"), config=config, architecture="x86_64")
    assert codec.decode(codec.encode(manifest), ImageManifest, what="image box") == manifest
