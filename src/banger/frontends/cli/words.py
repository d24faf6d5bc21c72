"""How commands, their flags and the parameters of operations look, and the words of the parameters: each once for every command that has it.

`op.parameter` wins over `parameter`. Plain data, no I/O.
"""

from __future__ import annotations


class Own:
    """A flag that only the command line has: a switch, or with a `metavar` one that takes a value and may repeat."""

    __slots__ = ("help", "long", "metavar", "short")

    def __init__(self, long: str, short: str, help: str, metavar: str = "") -> None:
        self.long, self.short, self.help, self.metavar = long, short, help, metavar


class Command:
    """One command. `op` gives its parameters but for those in `hide`; `handler` is `file:function` in this folder.

    `places` are the parameters given without a flag, `many` lets the first of them repeat, `rest` names what follows them or `--`.
    """

    __slots__ = ("about", "aliases", "examples", "handler", "hidden", "hide", "many", "noun", "op", "own", "places", "rest", "verb")

    def __init__(
        self,
        words: str,
        op: str = "",
        handler: str = "calls:call",
        *,
        about: str = "",
        places: tuple[str, ...] = (),
        many: bool = False,
        rest: str = "",
        hide: tuple[str, ...] = (),
        own: tuple[Own, ...] = (),
        aliases: tuple[str, ...] = (),
        examples: tuple[tuple[str, str], ...] = (),
        hidden: bool = False,
    ) -> None:
        self.noun, _, self.verb = words.partition(" ")
        self.op, self.handler, self.about, self.places, self.many, self.rest = op, handler, about, places, many, rest
        self.hide, self.own, self.aliases, self.examples, self.hidden = hide, own, aliases, examples, hidden

    @property
    def words(self) -> str:
        """`vm run`."""
        return f"{self.noun} {self.verb}".strip()


class Shown:
    """How a parameter looks. `unit` makes it a size: bytes in one unit of the parameter, and what a bare number counts."""

    __slots__ = ("choices", "help", "live", "metavar", "name", "short", "unit")

    def __init__(
        self, help: str, metavar: str = "", *, name: str = "", short: str = "", unit: int = 0, live: str = "", choices: tuple[str, ...] = ()
    ) -> None:
        self.help, self.metavar, self.name, self.short, self.unit, self.live, self.choices = help, metavar, name, short, unit, live, choices


MIB = 1 << 20
PARAMETERS = {
    "vm": Shown("a machine: its name, its id, or a unique beginning of the id", "NAME", live="vm.list"),
    "name": Shown("the machine's name (default: a new one): 1 to 63 of a-z, 0-9 and inner '-'", "NAME"),
    "image": Shown("image to boot; pulled if it is not local (default: the setting default_image)", "IMAGE", live="image.list"),
    "vcpu": Shown("virtual CPUs (default: a quarter of the host's, at most 4)", "N"),
    "memory_mib": Shown("memory: 512M, 2G; a bare number is MiB (default: an eighth of the host's, at most 8G)", "SIZE", name="memory", unit=MIB),
    "disk": Shown("kind of disk (default: the setting disk, overlay)", "KIND", choices=("overlay", "reflink", "devmapper")),
    "disk_bytes": Shown("how much the machine may write to its disk: 16G; a bare number is bytes (default: 8G)", "SIZE", name="disk-size", unit=1),
    "network": Shown(
        "user: outbound through the host, needs no privilege; bridge: an address that the host reaches, needs root; none: no device at all",
        "KIND",
        choices=("user", "bridge", "none"),
    ),
    "nat": Shown("let what it sends leave the host, under the host's address (on the bridge; default: yes)"),
    "host_access": Shown("let the guest reach the host's own loopback services, too"),
    "vmm": Shown("virtual machine monitor: auto or the name of one", "VMM", choices=("auto", "qemu", "firecracker")),
    "rm": Shown("delete the machine when this command ends, however it ends"),
    "vm.create.entrypoint": Shown("do not start what the image runs by itself, now or when the machine is started again"),
    "vm.create.env": Shown("set an environment variable for all that is run in the machine (may repeat)", "KEY=VALUE", short="e"),
    "vm.create.cwd": Shown("where all that is run in it begins (default: the image's working directory)", "DIR", name="workdir", short="w"),
    "vm.create.user": Shown("as whom all of it runs: a name or a number, with :GROUP or without (default: the image's, else root)", "USER", short="u"),
    "attended": Shown("whoever creates the machine runs what its image runs, this once"),
    "start": Shown("do not boot it yet: banger vm start does"),
    "wait": Shown("what to wait for. agent: commands can run; boot: the guest's init has settled", "WHAT", choices=("agent", "boot")),
    "vm.stop.force": Shown("do not ask the guest: cut the power; what it has not yet written is lost"),
    "signal": Shown("signal for the VMM's process", "SIGNAL", choices=("KILL", "TERM", "INT", "STOP", "CONT")),
    "follow": Shown("go on as the console grows, until Ctrl-C", short="f"),
    "vm.ssh.user": Shown("user in the guest", "USER"),
    "vm.sshd.user": Shown("who is going to log in", "USER"),
    "entrypoint": Shown("run the image's entrypoint, with CMD as its arguments, or else with the image's own"),
    "env": Shown("set an environment variable (may repeat)", "KEY=VALUE", short="e"),
    "cwd": Shown("working directory in the guest (default: the image's, else the user's home)", "DIR", name="workdir", short="w"),
    "user": Shown("user in the guest: a name or a number, with :GROUP or without (default: the image's, else root)", "USER", short="u"),
    "port": Shown("TCP port in the guest", "PORT"),
    "host": Shown("address to dial, seen from inside the guest", "ADDRESS"),
    "image.show.name": Shown("an image", "IMAGE", live="image.list"),
    "image.pull.name": Shown("an image of a catalog, or a reference to one in a registry", "IMAGE", live="image.list?available"),
    "local": Shown("what it is called here (default: made of the reference: debian-bookworm)", "NAME", name="name"),
    "platform": Shown("which of the reference's platforms: linux/amd64 (default: the host's)", "PLATFORM"),
    "size_bytes": Shown("how large its file system is: 4G (default: what the content needs)", "SIZE", name="size", unit=1),
    "plain_http": Shown("ask the registry without TLS"),
    "image.build.name": Shown("the image's name (default: the folder's)", "NAME", name="tag", short="t"),
    "context": Shown("the folder that COPY takes files from", "FOLDER"),
    "image.build.file": Shown("the Dockerfile (default: the one in the folder)", "FILE", short="f"),
    "build_args": Shown("what an ARG of the Dockerfile is to be (may repeat)", "KEY=VALUE", name="build-arg"),
    "cache": Shown("do every step, whatever earlier builds did"),
    "image.build.network": Shown(
        "what the commands reach: user, bridge, or none; it makes no difference to what is done again", "KIND", choices=("user", "bridge", "none")
    ),
    "image.build.vcpu": Shown("virtual CPUs of the machine that builds (default: as for any)", "N"),
    "image.build.memory_mib": Shown("its memory: 2G; a bare number is MiB (default: as for any)", "SIZE", name="memory", unit=MIB),
    "image.build.force": Shown("replace an image of that name, whatever made it, that no machine uses"),
    "image.commit.vm": Shown("a stopped machine", "VM", live="vm.list"),
    "image.commit.name": Shown("the image's name: letters, digits, '.', '_' and '-'", "NAME"),
    "image.commit.force": Shown("replace an image of that name, whatever made it, that no machine uses"),
    "image.register.name": Shown("the image's name: letters, digits, '.', '_' and '-'", "NAME"),
    "image.promote.name": Shown("a registered image", "IMAGE", live="image.list"),
    "image.tag.name": Shown("a local image", "IMAGE", live="image.list"),
    "rootfs": Shown("a file with a root file system: ext4, erofs or squashfs; or ext4 in a qcow2 file", "FILE"),
    "kernel": Shown("the kernel that it boots with (default: the setting default_kernel)", "KERNEL", live="kernel.list"),
    "new": Shown("the second name", "NAME"),
    "image.register.force": Shown("replace an image of that name that no machine uses"),
    "image.delete.force": Shown("delete the stopped machines made from it, too; refused while one of them runs"),
    "image.delete.name": Shown("a local image", "IMAGE", live="image.list"),
    "kernel.show.name": Shown("a kernel", "KERNEL", live="kernel.list"),
    "kernel.pull.name": Shown("a kernel of a catalog", "KERNEL", live="kernel.list?available"),
    "kernel.import.name": Shown("the kernel's name: letters, digits, '.', '_' and '-'", "NAME"),
    "kernel.import.file": Shown("a vmlinux or bzImage, or a folder with one, modules/ (or lib/modules/) and config", "FILE", name="from"),
    "kernel.import.force": Shown("replace a kernel of that name that nothing uses"),
    "kernel.delete.name": Shown("a local kernel", "KERNEL", live="kernel.list"),
    "names": Shown("images (their kernels come with them) or kernels", "NAME", live="image.list"),
    "bundle.save.file": Shown("a new file, or a folder for a file named after its content (default: this folder)", "FILE", name="output", short="o"),
    "bundle.load.file": Shown("a bundle that was saved, or the https address of one", "FILE"),
    "bundle.load.sha256": Shown("what the bundle's SHA-256 must be; needed for one from the web", "HEX"),
    "unverified": Shown("take what comes from the web without knowing what it must be"),
    "bundle.load.force": Shown("replace images and kernels of these names that nothing uses"),
    "location": Shown("the https address of a catalog, or a file; its signature lies beside it, with .minisig behind the name", "URL|FILE"),
    "catalog.add.name": Shown("what it is called here (default: after its file)", "NAME"),
    "key": Shown("minisign's public key that the catalog must be signed by: the key itself (RW…) or a file with it", "KEY"),
    "unsigned": Shown("take a catalog that nobody has signed"),
    "catalog.update.names": Shown("catalogs that were added (default: all)", "CATALOG", live="catalog.list"),
    "catalog.remove.name": Shown("a catalog that was added", "CATALOG", live="catalog.list"),
    "available": Shown("also what the catalogs offer"),
    "force": Shown("do it again, though it is there"),
    "daemon.stop.force": Shown("cancel the operations that are under way"),
    "version": Shown("a version of Firecracker: 1.16.1", "VERSION"),
    "firecracker.install.version": Shown("which version (default: the one that is known best)", "VERSION"),
    "file": Shown("the archive of a release, or a firecracker command: for a host that is offline", "FILE", name="from"),
    "sha256": Shown("what its SHA-256 must be (default: the known or published one; of a file: the known one, if any)", "HEX"),
    "newest": Shown("how many of the newest images are to stay, used or not", "N"),
    "dry_run": Shown("say what would be removed, and remove nothing", short="n"),
    "operation": Shown("an operation's id", "OPERATION"),
}
