"""Settings: one line each. Type, default and help stand here; TOML key, `BANGER_*` variable and the reference page derive from it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Annotated

import msgspec

from banger.model.errors import BadRequest
from banger.model.registry import parse_mirrors
from banger.model.sizes import parse_size

Seconds = float
#: At most 15 bytes, and with the number of a machine after it a TAP's name has no more (backends/network/bridge.py).
BRIDGE = "^br-banger(-[a-z0-9]{1,5})?$"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the user may set in `config.toml`, or by `BANGER_NAME` in the environment of the command that starts the daemon."""

    default_image: Annotated[str, msgspec.Meta(description="image of a machine that names none")] = "debian-bookworm"
    default_kernel: Annotated[str, msgspec.Meta(description="kernel of an image that names none")] = "debian-6.1"
    vcpu: Annotated[int, msgspec.Meta(description="virtual CPUs; 0: a quarter of the host's, at most 4", ge=0, le=64)] = 0
    memory_mib: Annotated[int, msgspec.Meta(description="memory in MiB; 0: an eighth of the host's, at most 8192", ge=0)] = 0
    disk: Annotated[str, msgspec.Meta(description="kind of disk of a machine that names none")] = "overlay"
    disk_size: Annotated[str, msgspec.Meta(description="how much a machine may write to its disk")] = "8G"
    network: Annotated[str, msgspec.Meta(description="network of a machine that names none")] = "user"
    bridge: Annotated[str, msgspec.Meta(description="bridge of the network bridge: br-banger, or br-banger-x", pattern=BRIDGE)] = "br-banger"
    subnet: Annotated[str, msgspec.Meta(description="private IPv4 subnet of the bridge, /16 to /29; no other route of the host's")] = "172.30.0.0/24"
    nameservers: Annotated[str, msgspec.Meta(description="name servers of machines on the bridge; empty: the host's")] = ""
    tap_pool: Annotated[int, msgspec.Meta(description="how many TAPs are kept ready for machines on the bridge; 0: none", ge=0, le=64)] = 0
    vmm: Annotated[str, msgspec.Meta(description="virtual machine monitor: auto or the name of one")] = "auto"
    kvm: Annotated[str, msgspec.Meta(description="use KVM: auto, yes or no", pattern="^(auto|yes|no)$")] = "auto"
    firecracker: Annotated[str, msgspec.Meta(description="path of the firecracker command; empty: an installed one, else PATH's")] = ""
    jailer: Annotated[str, msgspec.Meta(description="run Firecracker behind its jailer: auto (as root), yes or no", pattern="^(auto|yes|no)$")] = "auto"
    jail_uid_first: Annotated[int, msgspec.Meta(description="first of the users that jailed machines run as", ge=65536, le=(1 << 31) - 2)] = 1879048192
    jail_uid_count: Annotated[int, msgspec.Meta(description="how many such users there are", ge=1, le=(1 << 31) - 2)] = 268435454
    jailer_path: Annotated[str, msgspec.Meta(description="path of the jailer command; empty: beside firecracker, else PATH's")] = ""
    firecracker_releases: Annotated[str, msgspec.Meta(description="where Firecracker's releases are fetched from; empty: its own")] = ""
    helper: Annotated[str, msgspec.Meta(description="socket of the privileged helper; empty: where systemd has it once it is installed")] = ""
    catalog: Annotated[str, msgspec.Meta(description="folder with an images.json or kernels.json of your own")] = ""
    registry_mirrors: Annotated[str, msgspec.Meta(description="mirrors that are asked first: REGISTRY=HOST[:PORT][/FOLDER], several with a comma")] = ""
    short_names: Annotated[
        str, msgspec.Meta(description="look at Docker Hub for an image by a bare name that nobody here knows: yes or no", pattern="^(yes|no)$")
    ] = "yes"
    images_dir: Annotated[str, msgspec.Meta(description="where images are kept; empty: below the state folder")] = ""
    kernels_dir: Annotated[str, msgspec.Meta(description="where kernels are kept; empty: below the state folder")] = ""
    image_limit: Annotated[str, msgspec.Meta(description="what all layers of an image may unpack to")] = "64G"
    image_entries_limit: Annotated[int, msgspec.Meta(description="how many files, folders and links they may have", ge=1, le=1 << 24)] = 1_000_000
    image_depth_limit: Annotated[int, msgspec.Meta(description="how many folders deep a path in an image may be", ge=1, le=2000)] = 128
    image_path_limit: Annotated[int, msgspec.Meta(description="how many bytes long a path in an image may be", ge=1, le=1 << 16)] = 4096
    image_xattrs_limit: Annotated[int, msgspec.Meta(description="how many bytes a file's extended attributes may take", ge=0, le=4000)] = 4000
    build_cache: Annotated[str, msgspec.Meta(description="how much room the steps of image builds may take in the cache")] = "8G"
    dns_port: Annotated[int, msgspec.Meta(description="port of 127.0.0.1 where NAME.vm is answered; 0: nowhere", ge=0, le=65535)] = 42069
    console_bytes: Annotated[int, msgspec.Meta(description="how much of a guest's console is kept, in bytes", ge=4096)] = 1 << 20
    boot_timeout: Annotated[Seconds, msgspec.Meta(description="seconds until a guest's agent must answer", gt=0)] = 90.0
    stop_timeout: Annotated[Seconds, msgspec.Meta(description="seconds a guest has to power off before it is forced", gt=0)] = 10.0
    log_level: Annotated[str, msgspec.Meta(description="debug, info, warning or error", pattern="^(debug|info|warning|error)$")] = "info"


def load_settings(text: str, environment: Mapping[str, str], *, file: str = "config.toml") -> Settings:
    """Settings from the text of a TOML file, overridden by `BANGER_*` variables; BadRequest names the file or variable that is wrong, and the key."""
    try:
        values: dict[str, object] = dict(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise BadRequest(f"the settings file {file} is not TOML: {error}") from error
    checked(values, f"the settings file {file}")
    for name in Settings.__struct_fields__:
        variable = f"BANGER_{name.upper()}"
        if variable in environment:
            checked({name: environment[variable]}, variable)
            values[name] = environment[variable]
    return msgspec.convert(values, Settings, strict=False)


def checked(values: Mapping[str, object], where: str) -> Settings:
    """The settings if these are all; BadRequest says where the wrong one stands."""
    try:
        settings = msgspec.convert(values, Settings, strict=False)
        key = "disk_size: "
        parse_size(settings.disk_size)
        key = "image_limit: "
        parse_size(settings.image_limit)
        key = "build_cache: "
        parse_size(settings.build_cache)
        key = "registry_mirrors: "
        parse_mirrors(settings.registry_mirrors)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$.")
        key = f"{place.rstrip('`')}: " if place else ""
        raise BadRequest(f"{where}: {key}{message[:1].lower()}{message[1:]}", hint="the guide's page on settings lists them all") from error
    except BadRequest as error:
        raise BadRequest(f"{where}: {key}{error}", hint=error.hint) from error
    return settings
