"""References to images in registries: `alpine`, `alpine:3.20`, `docker.io/library/alpine`, `host:5000/a/b:tag@sha256:…`.

Grammar, default registry and default tag are those that Docker made usual and the Go module distribution/reference wrote down: a first component with a
dot or a colon, or `localhost`, is a registry; without one it is Docker Hub's, where a single component is in `library`. Pure.
"""

from __future__ import annotations

import re

import msgspec

from banger.model.errors import BadRequest

HUB, HUB_FOLDER, TAG = "docker.io", "library", "latest"
#: What Docker Hub is also called, and where its registry really answers.
HUB_ALIASES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
HUB_SERVER = "registry-1.docker.io"
LONGEST_NAME = 255

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?", re.ASCII)
REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*", re.ASCII)
TAGS = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}", re.ASCII)
#: The algorithms that the OCI image specification registers and this program computes.
DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}", re.ASCII)
_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)
_UNFIT = re.compile(r"[^a-zA-Z0-9._-]+")


class Reference(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A complete reference. With a digest, that is what is meant, and the tag says no more than what it was once called. `registry` may have a port."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        """In full, as `parse_reference` reads it again."""
        return f"{self.registry}/{self.repository}{f':{self.tag}' if self.tag else ''}{f'@{self.digest}' if self.digest else ''}"

    @property
    def target(self) -> str:
        """What a registry is asked for: the digest, else the tag."""
        return self.digest or self.tag

    @property
    def server(self) -> str:
        """Host and port where the registry answers."""
        return HUB_SERVER if self.registry == HUB else self.registry


def pinned(text: str, digest: str) -> str:
    """The reference to what a reference stands for now, whatever its tag will mean later; a text that is none, or has a digest, stays as it is."""
    if not text or not digest or "@" in text:
        return text
    reference = parse_reference(text)
    return str(Reference(registry=reference.registry, repository=reference.repository, digest=digest))


def looks_like_reference(text: str) -> bool:
    """Whether this cannot be the name of a local image: names have none of these."""
    return any(mark in text for mark in "/:@")


def parse_reference(text: str) -> Reference:
    """The complete reference; BadRequest says what is wrong with it."""
    rest, at, digest = text.partition("@")
    if at and not DIGEST.fullmatch(digest):
        raise _wrong(text, f"{digest[:100]!r} is no digest", "a digest is sha256: and 64 hex digits")
    name, tag = _split_tag(rest)
    if (name != rest) and not TAGS.fullmatch(tag):
        raise _wrong(text, f"{tag[:150]!r} is no tag", "a tag has at most 128 letters, digits, '_', '.' and '-', and begins with none of the last two")
    registry, repository = _split_registry(name)
    if not HOST.fullmatch(registry):
        raise _wrong(text, f"{registry[:100]!r} is no registry", "give HOST or HOST:PORT before the first '/'")
    if not REPOSITORY.fullmatch(repository):
        lower = repository.lower()
        hint = f"did you mean {lower}?" if REPOSITORY.fullmatch(lower) else "names have a-z, 0-9 and single '.', '_' or '-' between them"
        raise _wrong(text, f"{repository[:100]!r} is no name in a registry", hint)
    if len(registry) + 1 + len(repository) > LONGEST_NAME:
        raise _wrong(text, f"the name is longer than {LONGEST_NAME} bytes", "")
    if registry == HUB and _ID.fullmatch(name):
        raise _wrong(text, "64 hex digits are an id and no name", f"give NAME@sha256:{name}")
    return Reference(registry=registry, repository=repository, tag=tag or ("" if digest else TAG), digest=digest)


def _wrong(text: str, why: str, hint: str) -> BadRequest:
    return BadRequest(f"{text[:300]!r} is not a reference to an image: {why}", hint=hint)


def _split_tag(text: str) -> tuple[str, str]:
    """A colon before the last slash is a port's."""
    name, colon, tag = text.rpartition(":")
    return (name, tag) if colon and "/" not in tag else (text, "")


def _split_registry(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost" or first.lower() != first):
        first, rest = HUB, name
    if first in HUB_ALIASES:
        return HUB, rest if "/" in rest or not rest else f"{HUB_FOLDER}/{rest}"
    return first, rest


def local_names(reference: Reference) -> list[str]:
    """Names for the local image, the shortest first: `debian-bookworm`, `library-debian-bookworm`, `docker.io-library-debian-bookworm`."""
    tag = reference.tag if reference.tag != TAG else ""
    if not tag and reference.digest:
        tag = reference.digest.partition(":")[2][:12]
    parts = [reference.registry, *reference.repository.split("/")]
    names = ["-".join([*parts[at:], *([tag] if tag else [])]) for at in range(len(parts) - 1, -1, -1)]
    return [fitted for name in names if (fitted := re.sub(r"\.{2,}", ".", _UNFIT.sub("-", name)).strip("._-")) and len(fitted) <= 128]
