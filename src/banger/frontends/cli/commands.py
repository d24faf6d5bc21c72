"""What a signature cannot say: how operations are presented as commands. Flags themselves derive from the operations' parameters.

`GROUPS` lists the commands in the order of their help; the words of their parameters are in words.py. Plain data, no I/O; a test checks that every
operation has a command and every parameter its words.
"""

from __future__ import annotations

from banger.frontends.cli.words import Command, Own

QUIET = Own("quiet", "q", "print names only")
YES = Own("force", "f", "do not ask")
INTERACTIVE = Own("interactive", "i", "pass stdin on (it is, unless --no-stdin is given)")
TERMINAL = Own("tty", "t", "run it on a terminal; needs one on stdin")
NO_STDIN = Own("no-stdin", "n", "give it an empty stdin, so that a loop around banger keeps its own")
INSTALL = Own("install", "", "let ssh itself know about machines: one line at the top of ~/.ssh/config")
UNINSTALL = Own("uninstall", "", "take that line out again")
OWNER = Own("owner", "", "the user whose daemon the helper serves (default: who called sudo)", "USER")
ROOT = Own("root", "", "one more folder of the user's with images or machines, if the settings name one (may repeat)", "FOLDER")
DRY = Own("dry-run", "n", "say what would be done, and do nothing")
KEEP = Own("keep", "", "an image or kernel that is to stay (may repeat)", "NAME")
ENV = Own("env", "e", "set an environment variable for what is run (may repeat)", "KEY=VALUE")
WORKDIR = Own("workdir", "w", "where it is run (default: the image's working directory, else the user's home)", "DIR")
USER = Own("user", "u", "as whom: a name or a number, with :GROUP or without (default: the image's user, else root)", "USER")
SHELL = Own("shell", "s", "a shell, whatever the image runs by itself")
DETACH = Own("detach", "d", "leave the machine running and return")

GROUPS: dict[str, tuple[str, tuple[Command, ...]]] = {
    "vm": (
        "machines: run, stop, look into",
        (
            Command(
                "vm run",
                "vm.create",
                "run:run",
                about="Create a machine, boot it, and run a command, what its image runs by itself, or a shell in it.",
                hide=("start", "attended", "env", "cwd", "user"),
                own=(DETACH, SHELL, ENV, WORKDIR, USER),
                rest="CMD",
                examples=(
                    ("banger vm run", "a shell in a new machine, which is kept"),
                    ("banger vm run --rm -- uname -a", "one command; the machine is deleted, the exit status is the command's"),
                    ("banger vm run --image IMAGE", "what the image runs by itself (its entrypoint and cmd), else a shell"),
                    ("banger vm run --image IMAGE --shell", "a shell instead"),
                    ("banger vm run -d --name web --image IMAGE", "what the image runs is started with the machine, and you are back"),
                    ("tar c . | banger vm run --rm -- tar xv", "stdin and stdout are passed through, byte for byte"),
                ),
            ),
            Command(
                "vm create",
                "vm.create",
                "run:create",
                about="Create a machine and boot it; print its name.",
                hide=("rm", "attended"),
                examples=(
                    ("banger vm create --name web", "then: banger vm exec web -- CMD"),
                    ("banger vm create --no-start --name later", "boot it later"),
                ),
            ),
            Command("vm start", "vm.start", "calls:each", many=True, examples=(("banger vm start web db", "several at once"),)),
            Command("vm stop", "vm.stop", "calls:each", many=True, examples=(("banger vm stop web", "its files are there after the next start"),)),
            Command("vm restart", "vm.restart", "calls:each", many=True, examples=(("banger vm restart web", ""),)),
            Command(
                "vm set", "vm.set", "calls:each", many=True, examples=(("banger vm set --no-nat web", "cut it off from the internet; it runs on"),)
            ),
            Command("vm kill", "vm.kill", "calls:each", many=True, examples=(("banger vm kill --signal TERM web", ""),)),
            Command("vm delete", "vm.delete", "calls:each", many=True, aliases=("rm",), examples=(("banger vm delete web db", "running or not"),)),
            Command(
                "vm list",
                "vm.list",
                "calls:call",
                own=(QUIET,),
                aliases=("ls",),
                examples=(("banger vm list", ""), ("banger vm stop $(banger vm list -q)", "stop all"), ("banger ps", "the same as banger vm list")),
            ),
            Command("vm show", "vm.show", examples=(("banger vm show web", ""), ("banger vm show web --json", "for programs"))),
            Command("vm logs", "vm.logs", "calls:logs", examples=(("banger vm logs web", ""), ("banger vm logs -f web", "until Ctrl-C"))),
            Command("vm metrics", "vm.metrics", examples=(("banger vm metrics web", "with Firecracker"), ("banger vm metrics web --json", ""))),
            Command(
                "vm exec",
                "vm.exec",
                "session:execute",
                about="Run a command in a running machine; the exit status is the command's.",
                hide=("argv", "rows", "cols", "term", "stdin"),
                own=(INTERACTIVE, TERMINAL, NO_STDIN),
                rest="CMD",
                examples=(
                    ("banger vm exec web -- ls -l /srv", ""),
                    ("banger vm exec -it web -- top", "on a terminal"),
                    ("banger vm exec -u postgres -w /tmp -e PGPORT=5433 web -- psql", ""),
                    ("banger vm exec web -- tar c /etc > etc.tar", "bytes come as they are"),
                ),
            ),
            Command(
                "vm shell",
                "vm.exec",
                "session:shell",
                about="Open a login shell in a running machine.",
                hide=("argv", "entrypoint", "rows", "cols", "term", "stdin"),
                examples=(("banger vm shell web", ""),),
            ),
            Command(
                "vm prune",
                "vm.prune",
                "calls:prune",
                own=(YES,),
                examples=(("banger vm prune", "asks first"), ("banger vm prune -f", "does not ask")),
            ),
            Command(
                "vm dial",
                "vm.dial",
                "session:dial",
                about="Connect stdin and stdout to a TCP port inside a machine.",
                places=("vm", "port"),
                examples=(
                    ("banger vm dial web 80", ""),
                    ("printf 'HEAD / HTTP/1.0\\r\\n\\r\\n' | banger vm dial web 80", "any network mode, also none"),
                ),
            ),
            Command(
                "vm ssh",
                "vm.ssh",
                "ssh:ssh",
                about="Log in to a running machine by ssh, in any network mode; the exit status is ssh's.",
                rest="SSH",
                examples=(
                    ("banger vm ssh web", "a shell"),
                    ("banger vm ssh web -- df -h /", "a command; as with ssh, the guest's shell takes its words apart"),
                    ("banger vm ssh web -N -L 8080:localhost:80", "options of ssh's own follow the name"),
                    ("banger vm ssh --user postgres web -- psql", ""),
                ),
            ),
            Command(
                "vm sshd",
                "vm.sshd",
                "session:sshd",
                about="Connect stdin and stdout to an ssh server in a machine: what ssh takes as its ProxyCommand.",
                examples=(("ssh -o ProxyCommand='banger vm sshd --user %r %h' root@web.vm", "banger ssh-config writes this, and what else is needed"),),
            ),
        ),
    ),
    "image": (
        "root file systems",
        (
            Command("image list", "image.list", own=(QUIET,), aliases=("ls",), examples=(("banger image list --available", ""),)),
            Command("image show", "image.show", examples=(("banger image show debian-bookworm", ""),)),
            Command(
                "image pull",
                "image.pull",
                "calls:each",
                examples=(
                    ("banger image pull debian-bookworm", "vm run does it when needed"),
                    ("banger image pull alpine:3.20", "from a registry; vm run --image alpine:3.20 does this, too"),
                    ("banger image pull --plain-http localhost:5000/team/app:1 --name app", ""),
                ),
            ),
            Command(
                "image build",
                "image.build",
                "files:build",
                places=("context",),
                examples=(
                    ("banger image build -t app .", "as ./Dockerfile says, with the files of this folder"),
                    ("banger image build -t app -f Dockerfile.test --build-arg VERSION=2 .", ""),
                ),
            ),
            Command("image commit", "image.commit", "files:commit", places=("vm", "name"), examples=(("banger image commit web mine", "web stays"),)),
            Command(
                "image cache prune",
                "image.cache-prune",
                examples=(("banger image cache prune --dry-run", "what would be removed, and how much room that is"),),
            ),
            Command(
                "image register",
                "image.register",
                "files:register",
                examples=(
                    ("banger image register mine --rootfs root.ext4", "the file stays where it is, and is never written"),
                    ("banger image register mine --rootfs cloud.qcow2 --kernel debian-6.1", "unfolded into a copy"),
                ),
            ),
            Command("image promote", "image.promote", "calls:each", examples=(("banger image promote mine", "the file is not needed any more"),)),
            Command("image tag", "image.tag", "calls:call", places=("name", "new"), examples=(("banger image tag mine mine-1.0", ""),)),
            Command(
                "image export",
                "bundle.save",
                "files:save",
                about="Save an image and its kernel to one file: the same as banger bundle save.",
                places=("names",),
                many=True,
                examples=(("banger image export debian-bookworm -o debian.tar.zst", ""),),
            ),
            Command(
                "image import",
                "bundle.load",
                "files:load",
                about="Take an image and its kernel from such a file: the same as banger bundle load.",
                places=("file",),
                examples=(
                    ("banger image import debian.tar.zst", ""),
                    ("banger image import https://example.org/debian.tar.zst --sha256 HEX", "fetched, and checked before it is opened"),
                ),
            ),
            Command("image delete", "image.delete", "calls:each", many=True, aliases=("rm",), examples=(("banger image delete debian-bookworm", ""),)),
        ),
    ),
    "kernel": (
        "guest kernels",
        (
            Command("kernel list", "kernel.list", own=(QUIET,), aliases=("ls",), examples=(("banger kernel list --available", ""),)),
            Command("kernel show", "kernel.show", examples=(("banger kernel show debian-6.1", ""),)),
            Command("kernel pull", "kernel.pull", "calls:each", examples=(("banger kernel pull debian-6.1", ""),)),
            Command(
                "kernel import",
                "kernel.import",
                "files:take_kernel",
                examples=(
                    ("banger kernel import mine --from ./linux", "a folder: vmlinux or bzImage, modules/, config"),
                    ("banger kernel import host --from /boot/vmlinuz-6.1.0-42-amd64", "with the modules in /lib/modules"),
                ),
            ),
            Command("kernel delete", "kernel.delete", "calls:each", many=True, aliases=("rm",), examples=(("banger kernel delete debian-6.1", ""),)),
        ),
    ),
    "bundle": (
        "images and kernels in one file, for hosts without a network",
        (
            Command(
                "bundle save",
                "bundle.save",
                "files:save",
                places=("names",),
                many=True,
                examples=(("banger bundle save debian-bookworm debian-bookworm-slim -o both.tar.zst", "with their kernels"),),
            ),
            Command("bundle load", "bundle.load", "files:load", places=("file",), examples=(("banger bundle load both.tar.zst", ""),)),
        ),
    ),
    "catalog": (
        "where images and kernels can be had: catalogs of others",
        (
            Command(
                "catalog add",
                "catalog.add",
                "catalogs:add",
                places=("location",),
                examples=(
                    (
                        "banger catalog add https://example.org/team.json --key RWSc07rNHX+bx…",
                        "signed by minisign's key; team.json.minisig is beside it",
                    ),
                    ("banger catalog add /media/stick/team.json --key minisign.pub", ""),
                    ("banger catalog add https://example.org/team.json --unsigned", "whoever has the server decides what you get"),
                ),
            ),
            Command("catalog list", "catalog.list", own=(QUIET,), aliases=("ls",), examples=(("banger catalog list", "their keys, too"),)),
            Command(
                "catalog update",
                "catalog.update",
                "catalogs:update",
                hide=("names",),
                rest="CATALOG",
                examples=(("banger catalog update", "all of them"), ("banger catalog update team", "")),
            ),
            Command("catalog remove", "catalog.remove", "calls:each", many=True, aliases=("rm",), examples=(("banger catalog remove team", ""),)),
        ),
    ),
    "firecracker": (
        "the virtual machine monitor: install, list",
        (
            Command(
                "firecracker install",
                "firecracker.install",
                "firecracker:install",
                examples=(
                    ("banger firecracker install", "from Firecracker's own releases"),
                    ("banger firecracker install --version 1.16.1 --from firecracker-v1.16.1-x86_64.tgz", "offline"),
                ),
            ),
            Command("firecracker list", "firecracker.list", aliases=("ls",), examples=(("banger firecracker list", "which one is used, and why"),)),
            Command(
                "firecracker uninstall",
                "firecracker.uninstall",
                "calls:each",
                many=True,
                aliases=("rm",),
                examples=(("banger firecracker uninstall 1.16.1", ""),),
            ),
        ),
    ),
    "daemon": (
        "the process behind the commands; it starts by itself",
        (
            Command("daemon status", "daemon.status", examples=(("banger daemon status", "process, socket, log"),)),
            Command("daemon stop", "daemon.stop", "calls:stop_daemon", examples=(("banger daemon stop", "machines go on running"),)),
            Command("daemon operations", "daemon.operations", examples=(("banger daemon operations", ""),)),
            Command("daemon operation", "daemon.operation", examples=(("banger daemon operation op-1a2b3c4d", ""),)),
            Command("daemon cancel", "daemon.cancel", examples=(("banger daemon cancel op-1a2b3c4d", ""),)),
        ),
    ),
    "system": (
        "space on disk; the privileged helper and the daemon as services",
        (
            Command("system df", "system.df", examples=(("banger system df", "images, kernels, layers, cache, machines, logs"),)),
            Command(
                "system prune",
                "system.prune",
                "files:prune",
                hide=("keep",),
                own=(KEEP, YES),
                examples=(
                    ("banger system prune --dry-run", "what would go"),
                    ("banger system prune --newest 2 --keep debian-6.1", "asks first"),
                    ("banger vm prune", "is for machines"),
                ),
            ),
            Command(
                "system install",
                "",
                "system:install",
                about="Install the privileged helper, and the daemon, for one user; again: bring them up to date. Run it as root.",
                own=(OWNER, ROOT, DRY),
                examples=(("banger system install --owner ada", "then ada may use --network bridge and --disk devmapper"),),
            ),
            Command(
                "system status", "", "system:status", about="Show how the services stand.", examples=(("banger system status", "any user may ask"),)
            ),
            Command(
                "system uninstall",
                "",
                "system:uninstall",
                about="Remove what install made, and nothing else. Run it as root.",
                own=(DRY,),
                examples=(("banger system uninstall --dry-run", "what would be removed"),),
            ),
        ),
    ),
}
SINGLE: dict[str, Command] = {
    "ps": Command("ps", "vm.list", own=(QUIET,), about="List machines: the same as banger vm list.", examples=(("banger ps", ""),)),
    "doctor": Command(
        "doctor",
        "",
        "doctor:doctor",
        about="Check whether this host has what banger needs; changes nothing.",
        examples=(("banger doctor", "PASS, WARN and FAIL, each with its fix"), ("banger doctor --json", "")),
    ),
    "ssh-config": Command(
        "ssh-config",
        "ssh.access",
        "sshconfig:configure",
        about="Print ssh's configuration for machines, or install it, so that ssh, scp, rsync and editors know NAME.vm.",
        own=(INSTALL, UNINSTALL),
        rest="FILE",
        examples=(
            ("banger ssh-config --install", "then: ssh web.vm"),
            ("banger ssh-config > web.conf", "or without: ssh -F web.conf web.vm"),
            ("banger ssh-config --uninstall", "leaves the file as it was before"),
        ),
    ),
    "completion": Command(
        "completion",
        "",
        "complete:script",
        about="Print a completion script for a shell.",
        rest="SHELL",
        examples=(
            ('eval "$(banger completion bash)"', "in ~/.bashrc"),
            ('eval "$(banger completion zsh)"', "in ~/.zshrc"),
            ("banger completion fish | source", "in ~/.config/fish/config.fish"),
        ),
    ),
    "version": Command("version", "", "version:version", about="Print the version and the build.", examples=(("banger version", ""),)),
    "reference": Command("reference", "", "reference:write", about="Print this program's reference as Markdown.", hidden=True),
}
