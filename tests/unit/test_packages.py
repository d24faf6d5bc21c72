"""What has to be installed, in the words of the host's distribution, and everything that is lacking told at once."""

from __future__ import annotations

import pytest

from banger.model.finding import Finding, Level
from banger.model.packages import FAMILIES, NAMES, family, install, refusal, with_fix

PASST = Finding(level=Level.FAIL, subject="network user", message="passt is not installed", packages=("passt",))
QEMU = Finding(level=Level.FAIL, subject="qemu", message="qemu is not installed", packages=("qemu-system-x86",))
KVM = Finding(level=Level.FAIL, subject="kvm", message="/dev/kvm is missing", fix="load the module kvm")
FINE = Finding(level=Level.PASS, subject="tar", message="tar is /bin/tar")
SLOW = Finding(level=Level.WARN, subject="kvm", message="TCG is used", fix="nothing")


@pytest.mark.parametrize(
    ("distribution", "command"),
    [
        (("debian",), "apt-get install qemu-system-x86 passt"),
        (("ubuntu", "debian"), "apt-get install qemu-system-x86 passt"),
        (("linuxmint", "ubuntu", "debian"), "apt-get install qemu-system-x86 passt"),
        (("fedora",), "dnf install qemu-system-x86 passt"),
        (("rocky", "rhel", "centos", "fedora"), "dnf install qemu-system-x86 passt"),
        (("arch",), "pacman -S qemu-system-x86 passt"),
        (("manjaro", "arch"), "pacman -S qemu-system-x86 passt"),
        (("opensuse-tumbleweed", "opensuse", "suse"), "zypper install qemu-x86 passt"),
        (("alpine",), "apk add qemu-system-x86_64 passt"),
        (("nixos",), "install qemu-system-x86, passt (as Debian calls it)"),
        ((), "install qemu-system-x86, passt (as Debian calls it)"),
    ],
)
def test_each_distribution_installs_in_its_own_way(distribution: tuple[str, ...], command: str) -> None:
    assert install(("qemu-system-x86", "passt"), distribution) == command


def test_what_a_distribution_does_not_have_is_said() -> None:
    assert install(("mmdebstrap", "tar"), ("arch",)).startswith("pacman -S tar; Arch has no package of mmdebstrap")
    assert install(("mmdebstrap",), ("alpine",)).startswith("Alpine has no package of mmdebstrap")


def test_the_table_is_whole() -> None:
    assert all(len(names) == len(FAMILIES) - 1 for names in NAMES.values())
    assert [family([word]) for each in FAMILIES for word in each.words] == [each for each in FAMILIES for _ in each.words]


def test_nothing_is_installed_twice() -> None:
    assert install(("libnftables1", "nftables"), ("fedora",)) == "dnf install nftables"


def test_a_row_of_doctor_is_told_in_the_words_of_the_distribution() -> None:
    row = with_fix(QEMU, ("opensuse-leap", "suse"))
    assert (row.fix, row.packages) == ("zypper install qemu-x86", ("qemu-x86",))
    assert with_fix(QEMU, ("nixos",)).packages == ("qemu-system-x86",)
    assert with_fix(KVM, ("fedora",)) is KVM


def test_all_that_fails_is_one_error_with_one_command_and_each_other_fix() -> None:
    error = refusal([FINE, QEMU, SLOW, KVM, PASST, QEMU], ("fedora",))
    assert error is not None
    assert str(error) == "qemu is not installed; /dev/kvm is missing; passt is not installed"
    assert error.hint == "as root: dnf install qemu-system-x86 passt; load the module kvm"


def test_where_nothing_fails_nothing_is_refused() -> None:
    assert refusal([FINE, SLOW], ("debian",)) is None
