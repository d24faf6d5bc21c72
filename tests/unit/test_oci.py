"""What registries say is read strictly where it counts, bounded everywhere, and never more than an error of ours when it is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.model import oci
from banger.model.errors import BadRequest, BangerError, Corrupt, NotFound
from banger.model.oci import Index, Manifest, Platform, choose, host_platform, parse_config, parse_document, parse_platform

DIGEST = "sha256:" + "0" * 64
AMD, ARM = Platform(os="linux", architecture="amd64"), Platform(os="linux", architecture="arm64")


def descriptor(kind: str, digest: str = DIGEST, **more: object) -> dict[str, object]:
    return {"mediaType": kind, "digest": digest, "size": 10} | more


def manifest(**changes: object) -> dict[str, object]:
    layer = descriptor("application/vnd.oci.image.layer.v1.tar+gzip")
    return {"schemaVersion": 2, "mediaType": oci.OCI_MANIFEST, "config": descriptor(oci.OCI_CONFIG), "layers": [layer]} | changes


def index(*platforms: dict[str, str] | None, **changes: object) -> dict[str, object]:
    images = [descriptor(oci.OCI_MANIFEST, f"sha256:{at:064x}", **({"platform": one} if one else {})) for at, one in enumerate(platforms)]
    return {"schemaVersion": 2, "mediaType": oci.OCI_INDEX, "manifests": images} | changes


def read(document: object, kind: str = "") -> Index | Manifest:
    return parse_document(json.dumps(document).encode(), kind, what="the image x")


def linux(architecture: str, variant: str = "") -> dict[str, str]:
    return {"os": "linux", "architecture": architecture} | ({"variant": variant} if variant else {})


def test_manifests_and_indexes_of_both_kinds_are_read() -> None:
    docker = manifest(
        mediaType=oci.DOCKER_MANIFEST, config=descriptor(oci.DOCKER_CONFIG), layers=[descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip")]
    )
    assert isinstance(read(manifest()), Manifest)
    assert isinstance(read(docker, oci.DOCKER_MANIFEST), Manifest)
    assert isinstance(read(index(linux("amd64"))), Index)
    assert isinstance(read(index(linux("amd64"), mediaType=oci.DOCKER_INDEX), oci.DOCKER_INDEX), Index)


def test_unknown_fields_are_allowed() -> None:
    found = read(manifest(artifactType="x", subject=descriptor("y"), future={"deep": [1]}))
    assert isinstance(found, Manifest)


def test_without_a_media_type_the_registry_says_what_it_is_or_the_fields_do() -> None:
    bare, many = manifest(), index(linux("amd64"))
    del bare["mediaType"], many["mediaType"]
    assert isinstance(read(bare), Manifest)
    assert isinstance(read(bare, "application/json"), Manifest)
    assert isinstance(read(many, oci.OCI_INDEX), Index)


@pytest.mark.parametrize(
    ("document", "kind", "error", "words"),
    [
        ({"schemaVersion": 1, "fsLayers": []}, "", BadRequest, "schema 1"),
        ({"schemaVersion": 3}, "", Corrupt, "schema version 3"),
        ({}, "", Corrupt, "schema version 0"),
        ([], "", Corrupt, "cannot be read"),
        (manifest(manifests=[]), "", Corrupt, "at once"),
        (manifest(), oci.OCI_INDEX, Corrupt, "by the registry"),
        (manifest(mediaType=oci.OCI_INDEX), "", Corrupt, "not the"),
        (index(mediaType=oci.OCI_MANIFEST), "", Corrupt, "not the"),
        (manifest(mediaType="application/x"), "", BadRequest, "no image"),
        (manifest(config=descriptor("application/vnd.cncf.helm.config.v1+json")), "", BadRequest, "artefact"),
        (manifest(config=descriptor(oci.OCI_CONFIG, size=1 << 30)), "", Corrupt, "configuration of"),
        (manifest(layers=[]), "", BadRequest, "no layers"),
        (manifest(layers=None), "", BadRequest, "no layers"),
        (manifest(layers=[descriptor("application/wasm")]), "", BadRequest, "application/wasm"),
        (manifest(layers=[descriptor("application/vnd.oci.image.layer.v1.tar")] * 513), "", Corrupt, "512"),
        (manifest(layers=[descriptor("application/vnd.oci.image.layer.v1.tar", size=size) for size in (1, 2)]), "", Corrupt, "two sizes"),
        (manifest(layers=[descriptor("application/vnd.oci.image.layer.v1.tar", size=-1)]), "", Corrupt, "size"),
        (manifest(layers=[descriptor("application/vnd.oci.image.layer.v1.tar", size=1 << 40)]), "", Corrupt, "size"),
        (manifest(layers=[descriptor("application/vnd.oci.image.layer.v1.tar", size=1.5)]), "", Corrupt, "size"),
        (manifest(layers=[descriptor("application/vnd.oci.image.layer.v1.tar", "sha256:../../x")]), "", Corrupt, "digest"),
        (manifest(layers=[descriptor("application/vnd.oci.image.layer.v1.tar", DIGEST + "\n")]), "", Corrupt, "digest"),
        (manifest(layers=[descriptor("application/vnd.oci.image.layer.v1.tar", "md5:" + "0" * 32)]), "", Corrupt, "digest"),
        (index(*[linux("amd64")] * 1025), "", Corrupt, "1024"),
    ],
)
def test_what_is_wrong_is_refused_by_name(document: object, kind: str, error: type[BangerError], words: str) -> None:
    with pytest.raises(error, match=words):
        read(document, kind)


@pytest.mark.parametrize("data", [b"", b"\xff", b"{", b"null", b"[" * 100_000, b'{"schemaVersion":2,"layers":' + b"[" * 100_000])
def test_broken_json_is_refused(data: bytes) -> None:
    with pytest.raises(Corrupt):
        parse_document(data, "", what="x")


def chosen(document: dict[str, object], wanted: Platform) -> int:
    found = read(document)
    assert isinstance(found, Index)
    return int(choose(found, wanted, what="the image x").digest[7:], 16)


def test_the_platform_is_chosen() -> None:
    many = index(
        linux("arm", "v7"),
        {"os": "windows", "architecture": "amd64"},
        linux("amd64"),
        linux("arm64", "v8"),
        {"os": "unknown", "architecture": "unknown"},
    )
    assert chosen(many, AMD) == 2
    assert chosen(many, ARM) == 3
    assert chosen(many, parse_platform("linux/arm/v7")) == 0
    assert chosen(many, parse_platform("arm")) == 0


def test_a_variant_that_was_not_asked_for_is_not_taken_for_arm64() -> None:
    assert chosen(index(linux("arm64", "v9"), linux("arm64")), ARM) == 1
    with pytest.raises(NotFound):
        chosen(index(linux("arm", "v6")), parse_platform("linux/arm/v7"))


def test_a_platform_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(NotFound, match=r"not there for linux/amd64: it is made for linux/arm/v7, linux/s390x") as refused:
        chosen(index(linux("s390x"), linux("arm", "v7"), {"os": "unknown", "architecture": "unknown"}), AMD)
    assert "--platform" in refused.value.hint
    with pytest.raises(NotFound, match="no platform at all"):
        chosen(index(), AMD)


def test_a_single_image_that_does_not_say_for_what_it_is_is_taken() -> None:
    assert chosen(index(None), AMD) == 0
    with pytest.raises(NotFound):
        chosen(index(None, None), AMD)


@pytest.mark.parametrize(("text", "found"), [("linux/amd64", AMD), ("AMD64", AMD), ("x86_64", AMD), ("linux/aarch64", ARM), ("arm64", ARM)])
def test_platforms_are_read(text: str, found: Platform) -> None:
    assert parse_platform(text) == found


@pytest.mark.parametrize("text", ["", "/", "linux/", "linux/a/b/c", "windows/amd64", "darwin/arm64", "linux/am d64", "linux/é"])
def test_platforms_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_platform(text)


def test_the_hosts_platform() -> None:
    assert (host_platform("x86_64"), host_platform("aarch64"), str(host_platform("riscv64"))) == (AMD, ARM, "linux/riscv64")


def test_a_configuration_is_read_with_the_nulls_of_go() -> None:
    found = read(manifest())
    assert isinstance(found, Manifest)
    data = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": None, "Cmd": ["sh"], "Volumes": None},
        "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
    }
    config = parse_config(json.dumps(data).encode(), found, what="x")
    assert (config.config and config.config.cmd, config.platform) == (("sh",), AMD)
    with pytest.raises(Corrupt, match="1 layers, but its configuration names 0"):
        parse_config(b'{"os": "linux"}', found, what="x")


WRONG = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.lists(st.integers(), max_size=3) | st.just({})


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:  # noqa: ANN401
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


def mutate(data: st.DataObject, value: object) -> Any:  # noqa: ANN401
    """A copy in which one to three places hold something else."""
    document: Any = json.loads(json.dumps(value))
    for _ in range(data.draw(st.integers(1, 3))):
        *above, last = data.draw(st.sampled_from(places(document) or [("x",)]))
        inner = document
        for key in above:
            inner = inner[key]
        inner[last] = data.draw(WRONG)
    return document


@given(st.data())
def test_a_mutated_document_is_an_error_of_ours_or_sound(data: st.DataObject) -> None:
    document = mutate(data, data.draw(st.sampled_from([manifest(), index(linux("amd64"), linux("arm64", "v8"))])))
    try:
        found = read(document)
        if isinstance(found, Index):
            choose(found, AMD, what="x")
    except BangerError:
        return
    if isinstance(found, Manifest):
        assert found.layers
        assert all(layer.digest.startswith("sha") and layer.size >= 0 for layer in found.layers)


@given(st.binary(max_size=300))
def test_any_bytes_are_an_error_of_ours_or_sound(data: bytes) -> None:
    try:
        parse_document(data, "", what="x")
    except (Corrupt, BadRequest):
        return
