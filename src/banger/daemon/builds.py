"""Images out of Dockerfiles and out of stopped machines: `image build` and `image commit`.

A build is worked out completely before a machine is made (model/recipe.py): the key of each step says whether its outcome is known. What is known is
not done again: the whole image, if one of that key is on the shelf, else all steps up to the last whose state is in the cache. What is unfinished lies
in a staging folder of the shelf and on a builder's disk; both go, whatever happens.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from banger.daemon import plan as planning
from banger.daemon.buildcache import BuildCache
from banger.daemon.builders import SPARE, Builder, building, copying
from banger.daemon.images import Images, refuse_used
from banger.daemon.making import own_file
from banger.daemon.operations import Operations, Progress
from banger.daemon.vms import Vms
from banger.host import Host
from banger.host.buildcontext import Content, Context, digest_of, ignored_in, read_text
from banger.host.mmdebstrap import check_room
from banger.host.rootfs import Written, limits_of
from banger.model.catalog import ImageConfig, ImageManifest
from banger.model.dockerfile import LONGEST, Dockerfile, parse
from banger.model.errors import AlreadyExists, BadRequest, BangerError, Busy, Cancelled, NotFound, ToolFailed, WrongState
from banger.model.event import report, step
from banger.model.ids import valid_artefact_name
from banger.model.inits import init_of
from banger.model.oci import Pruned
from banger.model.paths import whole
from banger.model.recipe import AnyStep, BuildSpec, Copy, Recipe, Run, check_given, first_key, next_key, recipe, start_of, unclaimed, whole_key
from banger.model.vm import VmSpec

log = logging.getLogger(__name__)
#: Sources of images that a later one of the same name may replace.
MADE = frozenset({"build", "commit"})


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """A build that is worked out: its steps, what each copies and its digest, and the key after each."""

    made: Dockerfile
    base: ImageManifest
    recipe: Recipe
    contents: dict[int, tuple[Content, str]]
    keys: tuple[str, ...]
    whole: str

    @property
    def steps(self) -> tuple[AnyStep, ...]:
        """In order."""
        return self.recipe.steps


class Builds:
    """Makes images."""

    def __init__(self, host: Host, operations: Operations, images: Images, vms: Vms) -> None:
        self.host, self.operations, self.images, self.vms = host, operations, images, vms
        self.cache = BuildCache(host)

    # -- build ----------------------------------------------------------------------------------------------------------------------------------

    def build(self, asked: BuildSpec) -> AsyncIterator[Progress[ImageManifest]]:
        """Make an image of a Dockerfile as an operation; a file that is wrong, and a name that is taken, are told at once."""
        check_given(asked.args)
        self._require_name(asked.name, force=asked.force)
        if asked.network is not None:
            planning.known("network", asked.network, list(self.vms.making.resources.networks))
        context = folder(asked.context)
        file = whole(asked.file) if asked.file else context / "Dockerfile"
        made = parse(read_text(file, LONGEST), file=file.name)
        start_of(made, asked.args)
        return self.operations.follow(self.operations.begin("image.build", asked.name, lambda: self._build(asked, made, context, file)))

    def _require_name(self, name: str, *, force: bool) -> None:
        valid_artefact_name(name)
        shelf = self.images.shelf
        if name in shelf.catalog and not force:
            raise AlreadyExists(f"{name} is the name of an image of the catalog", hint="choose another one with --tag")
        found = shelf.local(name)
        if found is not None and found.source not in MADE and not force:
            raise AlreadyExists(f"there is an image {name} already, which no build made", hint="choose another name, or --force to replace it")
        refuse_used("image", name, self.images.users(name))

    async def _build(self, asked: BuildSpec, made: Dockerfile, context: Path, file: Path) -> ImageManifest:
        for name in unclaimed(made, asked.args):
            report(f"warning: no ARG has the name of the build argument {name}")
        base = await self.images.need(start_of(made, asked.args))
        async with step("read the context", str(context)):
            work = await self._read_context(asked, made, base, context, file)
        known = self._known(work) if asked.cache else None
        if known is not None:
            report(f"nothing has changed since image {known.name} was made")
            return known if known.name == asked.name else await self._again(asked, known)
        with self._staged(asked.name) as staging:
            written = await self._perform(asked, work, staging / "rootfs.ext4")
            manifest = await self._manifest(asked.name, "build", base, work.recipe.config, written, staging)
            return await self._publish(msgspec.structs.replace(manifest, recipe=work.whole), staging, force=asked.force)

    async def _read_context(self, asked: BuildSpec, made: Dockerfile, base: ImageManifest, context: Path, file: Path) -> Work:
        """In a thread, which ends soon after nobody waits for it any more, and with more than an image may have."""
        reading = Reading(limits_of(self.host.settings).size)

        def work() -> Work:
            return self._work_out(made, base, asked.args, Context(context, ignored_in(context, file), reading.hear), reading)

        try:
            return await asyncio.to_thread(work)
        finally:
            reading.over = True

    def _work_out(self, made: Dockerfile, base: ImageManifest, args: Mapping[str, str], context: Context, reading: Reading) -> Work:
        """All that can be known before anything is done; reads what is going to be copied."""
        found = recipe(made, base.config, args)
        contents: dict[int, tuple[Content, str]] = {}
        key, keys = first_key(base.digest, ImageConfig()), []
        for place, each in enumerate(found.steps):
            if isinstance(each, Copy):
                contents[place] = self._content(made, each, context, reading)
            key = next_key(key, each, contents[place][1] if place in contents else "")
            keys.append(key)
        return Work(made=made, base=base, recipe=found, contents=contents, keys=tuple(keys), whole=whole_key(key, found.config, base.kernel))

    def _content(self, made: Dockerfile, each: Copy, context: Context, reading: Reading) -> tuple[Content, str]:
        """What a step copies, and its digest. A source that a variable had a part in is called by its place only."""

        def named(source: str) -> str:
            return source if source in each.shown else f"source {each.sources.index(source) + 1}"

        try:
            content = context.content(each.sources, into=each.into, unpack=each.unpack, named=named)
            inline = tuple((file.name, file.text.encode("utf-8", "surrogatepass")) for file in each.files)
            content = msgspec.structs.replace(content, inline=inline)
            return content, digest_of(content, reading.hear)
        except (BangerError, OSError) as error:
            raise told(made, each, error) from error

    def _known(self, work: Work) -> ImageManifest | None:
        """An image on the shelf that this very build has made."""
        return next((image for image in self.images.shelf.every() if image.recipe == work.whole), None)

    async def _again(self, asked: BuildSpec, known: ImageManifest) -> ImageManifest:
        """The same files under another name."""
        with self._staged(asked.name) as staging:
            self.host.files.link(self.images.base(known), staging / "rootfs.ext4")
            return await self._publish(msgspec.structs.replace(known, name=asked.name), staging, force=asked.force)

    async def _perform(self, asked: BuildSpec, work: Work, rootfs: Path) -> Written:
        """Do the steps that are not known, and write what comes of all of them."""
        check_room(self.host.files, rootfs.parent, 2 * work.base.used_bytes + SPARE, f"image {asked.name}")
        last = self.cache.last(work.keys) if asked.cache else None
        seed = copying(self.host, self.cache.path(work.keys[last])) if last is not None else None
        spec = VmSpec(
            name=f"build-{self.host.clock.random(4).hex()}",
            image=work.base.name,
            disk="overlay",
            network=asked.network,
            vcpu=asked.vcpu,
            memory_mib=asked.memory_mib,
            rm=True,
        )
        async with building(self.host, self.vms, spec, seed) as builder:
            if builder.machine.plan.image_digest != work.base.digest:
                raise Busy(f"image {work.base.name} was replaced while the build began", hint="build again")
            begin = 0 if last is None else last + 1
            for place in range(begin):
                report(f"| step {place + 1} of {len(work.steps)}, as before: {work.steps[place].shown}")
            if work.base.config.workdir:
                await builder.folder(work.base.config.workdir)
            for place in range(begin, len(work.steps)):
                await self._step(work, place, builder)
            return await builder.root(rootfs, asked.name)

    async def _step(self, work: Work, place: int, builder: Builder) -> None:
        each = work.steps[place]
        async with step(f"step {place + 1} of {len(work.steps)}", each.shown):
            try:
                if isinstance(each, Run):
                    await self._run(each, builder)
                    await builder.settled(lambda disk: self.cache.keep(work.keys[place], disk))
                elif isinstance(each, Copy):
                    await builder.copy(each, *work.contents[place])
                else:
                    await builder.folder(each.target)
            except BangerError as error:
                raise told(work.made, each, error) from error

    async def _run(self, each: Run, builder: Builder) -> None:
        ended = await builder.run(each, lambda lines: report("\n".join(f"| {line}" for line in lines)))
        if ended.trouble:
            raise ToolFailed(f"{each.shown}: {ended.trouble}", hint="what it printed is above; the steps before it are not done again")

    # -- commit ---------------------------------------------------------------------------------------------------------------------------------

    def commit(self, reference: str, name: str, *, force: bool) -> AsyncIterator[Progress[ImageManifest]]:
        """Make an image of what a stopped machine's disk holds, as an operation; the machine stays as it is."""
        machine = self.vms.roster.kept(reference)
        self._require_name(name, force=force)
        self._require_stopped(reference)
        base = self.images.show(machine.plan.image)

        async def work() -> ImageManifest:
            with self._staged(name) as staging:
                written = await self._read(reference, name, staging / "rootfs.ext4")
                manifest = await self._manifest(name, "commit", base, machine.plan.config, written, staging)
                return await self._publish(manifest, staging, force=force)

        return self.operations.follow(self.operations.begin("image.commit", name, work))

    def _require_stopped(self, reference: str) -> None:
        machine = self.vms.roster.kept(reference)
        if machine.inspect().running:
            raise WrongState(f"machine {machine.plan.name} is running", hint=f"run: banger vm stop {machine.plan.name}")

    async def _read(self, reference: str, name: str, rootfs: Path) -> Written:
        """A copy of its disk is looked at by a machine of ours, so that it is not started itself."""
        machine = self.vms.roster.kept(reference)
        plan = machine.plan

        async def seed(target: Path) -> None:
            async with machine.lock:
                self._require_stopped(plan.id)
                await copying(self.host, own_file(self.host.paths, plan.disk))(target)

        spec = VmSpec(
            name=f"commit-{self.host.clock.random(4).hex()}",
            image=plan.image,
            disk=plan.disk.backend,
            disk_bytes=plan.disk.size,
            network="none",
            rm=True,
        )
        async with building(self.host, self.vms, spec, seed) as builder:
            return await builder.root(rootfs, name)

    # -- both -----------------------------------------------------------------------------------------------------------------------------------

    @contextmanager
    def _staged(self, name: str) -> Iterator[Path]:
        """A staging folder for the length of a block; in the end it is gone, or what it was exchanged for is."""
        path = self.images.shelf.staging(name)
        try:
            yield self.host.files.private_folder(path)
        finally:
            self.host.files.remove_tree(path)

    async def _manifest(self, name: str, source: str, base: ImageManifest, config: ImageConfig, written: Written, staging: Path) -> ImageManifest:
        rootfs = staging / "rootfs.ext4"
        async with step("make image", "compute digest"):
            digest = await self.host.archive.sha256(rootfs)
        return ImageManifest(
            name=name,
            kernel=base.kernel,
            source=source,
            digest=digest,
            size_bytes=written.size,
            used_bytes=self.host.files.used_bytes(rootfs),
            packages=0,
            init=init_of(written.found),
            built=self.host.clock.now(),
            architecture=base.architecture or self.host.facts.architecture(),
            config=config,
        )

    async def _publish(self, manifest: ImageManifest, staging: Path, *, force: bool) -> ImageManifest:
        """Under its name, unless somebody has begun to use what had it."""
        self._require_name(manifest.name, force=force)
        await self.images.shelf.adopt(manifest, staging, force=True)
        log.info("image %s is ready", manifest.name)
        return manifest

    def prune_cache(self, *, dry: bool) -> Pruned:
        """Forget layers that no image was made of, and all steps of builds; Busy while either is being made use of."""
        under_way = [running for running in self.operations.running.values() if running.seen.name == "image.build"]
        if under_way and not dry:
            raise Busy(f"image {under_way[0].seen.subject} is being built", hint="wait for it: banger daemon operations")
        layers, steps = self.images.prune_cache(dry=dry), self.cache.prune(dry=dry)
        return msgspec.structs.replace(layers, removed=layers.removed + steps.removed, removed_bytes=layers.removed_bytes + steps.removed_bytes)


class Reading:
    """Of a context: how much of it may still be read. `over`: nobody waits for it any more."""

    def __init__(self, limit: int) -> None:
        self.limit = self.left = limit
        self.over = False

    def hear(self, size: int) -> None:
        """So much more was read; Cancelled, or BadRequest, when there shall be no more."""
        self.left -= size
        if self.over:
            raise Cancelled("nobody waits for the context any more")
        if self.left < 0:
            raise BadRequest(f"more is copied than an image may hold ({self.limit} bytes)", hint="leave something out by a .dockerignore")


def told(made: Dockerfile, each: AnyStep, error: BaseException) -> BangerError:
    """An error with file and line before it."""
    kind: Callable[..., BangerError] = type(error) if isinstance(error, BangerError) else BadRequest
    hint, tail = (error.hint, error.tail) if isinstance(error, BangerError) else ("", ())
    return kind(f"{made.file}:{each.line}: {error}", hint=hint, tail=tail)


def folder(path: str) -> Path:
    """A context; BadRequest when it is not a whole path, NotFound when it is no folder that can be read."""
    with suppress(OSError):
        if whole(path).is_dir():
            return Path(path)
    raise NotFound(f"there is no folder {path}", hint="name the folder with what is copied")
