"""What the name of an image means: one that is here, one of the catalog's, or a reference to a registry; and what a registry's image is called here.

A name with `/`, `:` or `@` is a reference. A bare word is looked up here, then in the catalog, and then, unless the setting `short_names` says no, it
is a short name of Docker Hub's, which is said. An image from a registry is known again by its reference, whatever it is called here.

Who needs an image takes the one that is here; who pulls it has the registry asked. Where a tag has moved on, the new image takes the place of the old
one. One that machines use stays what and where it is, but is from then on known by its digest: the new one gets a name of its own.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator

import msgspec

from banger.backends.image import Moving
from banger.daemon.artefacts import Shelf
from banger.model.catalog import ImageEntry, ImageManifest, ImagePart, Wish
from banger.model.errors import AlreadyExists, BadRequest, BangerError, NotFound, WrongState
from banger.model.event import report, step
from banger.model.ids import valid_artefact_name
from banger.model.oci import host_platform, machine_of, parse_platform
from banger.model.reference import Reference, local_names, looks_like_reference, parse_reference, pinned

#: From here on two names are so alike that one is a slip of the other, and nobody else's name.
ALIKE = 0.8


class References:
    """The images of a shelf, by any name; `users` says which machines use one."""

    def __init__(self, shelf: Shelf[ImageEntry, ImageManifest, ImagePart], users: Callable[[str], list[str]]) -> None:
        self.shelf, self.host, self.users = shelf, shelf.host, users

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

    def origin(self, name: str, wish: Wish) -> tuple[str, Wish] | None:
        """The reference by which a local image that came from a registry is pulled anew, and what makes it the same again; None for any other name."""
        image = None if looks_like_reference(name) or name in self.shelf.catalog else self.shelf.local(name)
        if image is None or not image.reference or wish.local not in ("", name):
            return None
        platform = wish.platform or (str(host_platform(image.architecture)) if image.architecture else "")
        return image.reference, msgspec.structs.replace(wish, local=name, kernel=wish.kernel or image.kernel, platform=platform)

    async def need(self, text: str) -> ImageManifest:
        """The image that a reference stands for: the one that is here, whatever the registry has by now; else its registry's."""
        return self.here(text) or await self.pull(text, Wish(), force=False)

    async def pull(self, text: str, wish: Wish, *, force: bool) -> ImageManifest:
        """The image that a reference stands for now: its registry is asked, and what is here stays if it is that; with `force` it is made anew."""
        reference = self.meant(text)
        assert reference is not None, "whoever calls this has asked"
        found = self.here(text, wish)
        if found is not None and reference.digest and not force:
            return found
        async with step("pull image", self._says(text, reference)):
            try:
                if found is not None:
                    return await self._again(reference, found, wish, force=force)
                return await self._named(reference, self._names(reference, wish), wish, lambda _: not force)
            except BangerError as error:
                self._note(error, text, found)
                raise

    def _note(self, error: BangerError, text: str, found: ImageManifest | None) -> None:
        if found is not None:
            error.add_note(f"image {found.name} of {found.built:%Y-%m-%d %H:%M} UTC is here still; machines can be made of it without the registry")
        elif not looks_like_reference(text):
            error.add_note(f"image {text!r} is neither here nor in the image catalog, so it was looked for at Docker Hub")

    async def _again(self, reference: Reference, found: ImageManifest, wish: Wish, *, force: bool) -> ImageManifest:
        """What the registry has by now for an image that is here."""
        kept = msgspec.structs.replace(wish, kernel=wish.kernel or found.kernel)
        current = await self.current(self._entry(found.name, reference, kept))
        if current == found.resolved and not force:
            report(f"note: {reference} is up to date")
            return found
        name = found.name
        if current != found.resolved:
            report(f"note: {reference} has moved on, from {short(found.resolved)} to {short(current)}")
            name = self._beside(found, wish, current)
        made = await self._named(reference, iter([name]), kept, lambda image: image.resolved == current and not force)
        if made.name != found.name:
            await self.shelf.amend(found.name, unnamed)
        return made

    async def current(self, entry: ImageEntry) -> str:
        """What the image of an entry would be now; empty where only making it anew can tell."""
        source = self.shelf.source(entry.source)
        return await source.current(entry) if isinstance(source, Moving) else ""

    def _beside(self, found: ImageManifest, wish: Wish, current: str) -> str:
        """The name of an image that is to take the place of another one: that one's, unless machines use it."""
        users = self.users(found.name)
        if not users:
            return found.name
        if wish.local:
            raise WrongState(f"image {found.name} is used by {', '.join(users)}, so nothing newer takes its place", hint="give --name another name")
        name = f"{found.name.removesuffix(f'-{short(found.resolved)}')}-{short(current)}"
        report(f"note: {found.name} is used by {', '.join(users)} and stays: the new one is {name}")
        return name

    async def _named(self, reference: Reference, names: Iterator[str], wish: Wish, fresh: Callable[[ImageManifest], bool]) -> ImageManifest:
        """Under the first of these names that is free or this image's already."""
        last: BangerError | None = None
        for name in names:
            entry = self._entry(name, reference, wish)

            def ready(name: str = name) -> None:
                if users := self.users(name):
                    raise WrongState(f"image {name} has come into use meanwhile, by {', '.join(users)}", hint="the same command again")

            try:
                return await self.shelf.obtain(entry, lambda image: self._is(image, reference, wish), fresh=fresh, ready=ready)
            except AlreadyExists as taken:
                last = taken
                report(f"{name} is another image's name: looking for one that is free")
        raise last or AlreadyExists(f"every name that {reference} could have is the catalog's", hint="choose one with --name")

    def _entry(self, name: str, reference: Reference, wish: Wish) -> ImageEntry:
        return ImageEntry(
            name=name,
            source="oci",
            kernel=wish.kernel or self.host.settings.default_kernel,
            reference=str(reference),
            platform=wish.platform,
            plain_http=wish.plain_http,
            size_mib=wish.size_mib,
        )

    def _says(self, text: str, reference: Reference) -> str:
        if looks_like_reference(text):
            return f"pulling {reference}"
        return f"{text} is neither here nor in the catalog: pulling {reference} from Docker Hub"

    def _names(self, reference: Reference, wish: Wish) -> Iterator[str]:
        if not wish.local:
            yield from (name for name in local_names(reference) if name not in self.shelf.catalog)
        elif wish.local in self.shelf.catalog:
            raise AlreadyExists(f"{wish.local} is the name of an image of the catalog", hint="choose another one with --name")
        else:
            yield wish.local


def short(digest: str) -> str:
    """A digest for people, and for names."""
    return digest.partition(":")[2][:12]


def unnamed(image: ImageManifest) -> ImageManifest:
    """The same image, known by its digest only: what its reference stands for is another one."""
    return msgspec.structs.replace(image, reference=pinned(image.reference, image.resolved))
