"""References to images are read as Docker reads them, and become names of local images."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.model.errors import BadRequest
from banger.model.ids import valid_artefact_name
from banger.model.reference import HUB_SERVER, Reference, local_names, looks_like_reference, parse_reference

SHA = "sha256:" + "a1" * 32


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("alpine", "docker.io/library/alpine:latest"),
        ("alpine:3.20", "docker.io/library/alpine:3.20"),
        ("library/alpine", "docker.io/library/alpine:latest"),
        ("docker.io/alpine", "docker.io/library/alpine:latest"),
        ("docker.io/library/alpine:3.20", "docker.io/library/alpine:3.20"),
        ("index.docker.io/alpine", "docker.io/library/alpine:latest"),
        ("grafana/grafana:11.1.0", "docker.io/grafana/grafana:11.1.0"),
        ("localhost/a", "localhost/a:latest"),
        ("localhost:5000/a", "localhost:5000/a:latest"),
        ("host:5000/x/y:tag", "host:5000/x/y:tag"),
        (f"host:5000/x/y:tag@{SHA}", f"host:5000/x/y:tag@{SHA}"),
        (f"alpine@{SHA}", f"docker.io/library/alpine@{SHA}"),
        ("registry.example/a.b_c__d---e/f:V_1.0-x", "registry.example/a.b_c__d---e/f:V_1.0-x"),
        ("[::1]:5000/a:b", "[::1]:5000/a:b"),
        ("Upper/a", "Upper/a:latest"),
        ("a/b/c/d", "docker.io/a/b/c/d:latest"),
        ("xn--mnchen-3ya.example/a", "xn--mnchen-3ya.example/a:latest"),
        (f"a@sha512:{'0f' * 64}", f"docker.io/library/a@sha512:{'0f' * 64}"),
    ],
)
def test_a_reference_is_completed_as_docker_does(text: str, full: str) -> None:
    assert str(parse_reference(text)) == full
    assert str(parse_reference(full)) == full


@pytest.mark.parametrize(
    "text",
    [
        "", ":", "@", "/", "a/", "/a", "a//b", "a:", "a:b:c", "alpine:3.20 ", " alpine", "Alpine", "a_-b", "a___b", "-a", "a-", "a..b", "a/../b",
        "../a",
        "a@sha256:12",
        f"a@{SHA.upper()}", f"a@md5:{'a' * 32}", f"a@{SHA}\n", "a\n", "a\x00b", "a:tag\n", "a:.x", "a:" + "x" * 129, "host:port/a",
        "host:123456/a", "-host.example/a", "docker.io/", "a" * 256, "x.example/" + "a" * 246, "a1" * 32, "é",
        "host.example/é", "٣.example/a",
        "http://host.example/a", "a?b", "a#b", "[::1/a", "user:pw@host.example/a", "host.example:80:80/a",
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="is not a reference to an image"):
        parse_reference(text)


def test_a_capital_letter_is_told_with_what_may_be_meant() -> None:
    with pytest.raises(BadRequest) as refused:
        parse_reference("registry.example/MyApp")
    assert refused.value.hint == "did you mean myapp?"


def test_the_hub_answers_elsewhere() -> None:
    assert parse_reference("alpine").server == HUB_SERVER
    assert parse_reference("host:5000/a").server == "host:5000"


def test_a_digest_counts_more_than_a_tag() -> None:
    assert parse_reference(f"a:b@{SHA}").target == SHA
    assert parse_reference("a:b").target == "b"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("docker.io/library/debian:bookworm", ["debian-bookworm", "library-debian-bookworm", "docker.io-library-debian-bookworm"]),
        ("alpine", ["alpine", "library-alpine", "docker.io-library-alpine"]),
        ("host:5000/a/b_c:1.0", ["b_c-1.0", "a-b_c-1.0", "host-5000-a-b_c-1.0"]),
        (f"alpine@{SHA}", ["alpine-a1a1a1a1a1a1", "library-alpine-a1a1a1a1a1a1", "docker.io-library-alpine-a1a1a1a1a1a1"]),
    ],
)
def test_the_local_name_is_made_of_the_reference(text: str, names: list[str]) -> None:
    assert local_names(parse_reference(text)) == names


def test_names_are_told_from_references() -> None:
    assert [looks_like_reference(text) for text in ("alpine", "debian-bookworm", "a:b", "a/b", f"a@{SHA}")] == [False, False, True, True, True]


@given(st.text(max_size=300) | st.text("ab.:/@-_0[]", max_size=80))
def test_any_text_is_a_reference_that_is_read_again_or_refused(text: str) -> None:
    try:
        found = parse_reference(text)
    except BadRequest:
        return
    assert parse_reference(str(found)) == found
    assert not any(mark in str(found) for mark in "\n\r\0 ?#%")
    for name in local_names(found):
        valid_artefact_name(name)


@given(
    st.from_regex(r"[a-z0-9]{1,8}([._-][a-z0-9]{1,8}){0,2}(/[a-z0-9]{1,8}){0,3}", fullmatch=True),
    st.from_regex(r"[A-Za-z0-9_.-]{0,130}", fullmatch=True),
)
def test_every_reference_that_is_made_of_sound_parts_has_a_usable_local_name(repository: str, tag: str) -> None:
    for name in local_names(Reference(registry="registry.example:5000", repository=repository, tag=tag)):
        valid_artefact_name(name)
