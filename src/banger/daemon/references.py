"""What the name of an image means: one that is here, one of the catalog's, or a reference to a registry; and what a registry's image is called here.

A name with `/`, `:` or `@` is a reference. A bare word is looked up here, then in the catalog, and then, unless the setting `short_names` says no, it
is a short name of Docker Hub's, which is said. An image from a registry is known again by its reference, whatever it is called here.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from banger.daemon.artefacts import Shelf
from banger.model.catalog import ImageEntry, ImageManifest, ImagePart, Wish
from banger.model.errors import AlreadyExists, BadRequest, BangerError, NotFound
from banger.model.event import report, step
from banger.model.ids import valid_artefact_name
from banger.model.oci import host_platform, machine_of, parse_platform
from banger.model.reference import Reference, local_names, looks_like_reference, parse_reference

#: From here on two names are so alike that one is a slip of the other, and nobody else's name.
ALIKE = 0.8


class References:
    """The images of a shelf, by any name."""

    def __init__(self, shelf: Shelf[ImageEntry, ImageManifest, ImagePart]) -> None:
        self.shelf, self.host = shelf, shelf.host

    def meant(self, text: str) -> Reference | None:
        """The reference that a text is; None for what is the name of an image here or in the catalog. NotFound for a bare word that nobody knows."""
        if looks_like_reference(text):
            return parse_reference(text)
        if text in self.shelf.catalog or self.shelf.here(text):
            return None
        if self.host.settings.short_names == "no" or difflib.get_close_matches(text, self.shelf.names(), n=1, cutoff=ALIKE):
            raise self.shelf.missing(text)
        try:
            return parse_reference(text)
        except BadRequest:
            raise self.shelf.missing(text) from None

    def here(self, text: str, wish: Wish | None = None) -> ImageManifest | None:
        """The local image that came from a reference, and is what is wished for."""
        reference = self.meant(text)
        same = (image for image in self.shelf.every() if reference is not None and self._is(image, reference, wish or Wish()))
        return next(same, None)

    def name(self, text: str) -> str:
        """The local name of what a text names: of a reference that of the image which came from it."""
        if not looks_like_reference(text):
            return text
        found = self.here(text)
        if found is None:
            raise NotFound(f"no image here came from {parse_reference(text)}", hint="run: banger image list")
        return found.name

    def _is(self, image: ImageManifest, reference: Reference, wish: Wish) -> bool:
        platform = parse_platform(wish.platform) if wish.platform else host_platform(self.host.facts.architecture())
        return (
            image.reference == str(reference)
            and image.architecture == machine_of(platform)
            and wish.kernel in ("", image.kernel)
            and wish.local in ("", image.name)
            and wish.size_mib << 20 in (0, image.size_bytes)
        )

    def check(self, wish: Wish) -> None:
        """BadRequest for what cannot be wished for."""
        if wish.local:
            valid_artefact_name(wish.local)
        if wish.platform:
            parse_platform(wish.platform)

    async def pull(self, text: str, wish: Wish, *, force: bool) -> ImageManifest:
        """The image that a reference stands for: the one that is here, else (and with `force`) from its registry."""
        reference = self.meant(text)
        assert reference is not None, "whoever calls this has asked"
        found = self.here(text, wish)
        if found is not None and not force:
            return found
        async with step("pull image", self._says(text, reference)):
            try:
                return await self._named(reference, found.name if found is not None else "", wish, force=force)
            except BangerError as error:
                if not looks_like_reference(text):
                    error.add_note(f"image {text!r} is neither here nor in the image catalog, so it was looked for at Docker Hub")
                raise

    def _says(self, text: str, reference: Reference) -> str:
        if looks_like_reference(text):
            return f"pulling {reference}"
        return f"{text} is neither here nor in the catalog: pulling {reference} from Docker Hub"

    async def _named(self, reference: Reference, former: str, wish: Wish, *, force: bool) -> ImageManifest:
        """Under the first name that is free or this image's already."""
        last: BangerError | None = None
        for name in self._names(reference, former, wish):
            entry = ImageEntry(
                name=name,
                source="oci",
                kernel=wish.kernel or self.host.settings.default_kernel,
                reference=str(reference),
                platform=wish.platform,
                plain_http=wish.plain_http,
                size_mib=wish.size_mib,
            )
            try:
                return await self.shelf.obtain(entry, lambda image: self._is(image, reference, wish), force=force)
            except AlreadyExists as taken:
                last = taken
                report(f"{name} is another image's name: looking for one that is free")
        raise last or AlreadyExists(f"every name that {reference} could have is the catalog's", hint="choose one with --name")

    def _names(self, reference: Reference, former: str, wish: Wish) -> Iterator[str]:
        if wish.local:
            if wish.local in self.shelf.catalog:
                raise AlreadyExists(f"{wish.local} is the name of an image of the catalog", hint="choose another one with --name")
            yield wish.local
            return
        yield from [former] if former else [name for name in local_names(reference) if name not in self.shelf.catalog]
