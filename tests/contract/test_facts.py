"""Facts of this host."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from banger.host.facts import RealFacts


@pytest.mark.skipif(platform.machine() != "x86_64", reason="a processor with a time stamp counter")
def test_the_rate_of_the_counter_is_measured_alike_each_time() -> None:
    first, second = RealFacts().tsc_khz(), RealFacts().tsc_khz()
    assert 100_000 < first < 10_000_000
    assert abs(first - second) < first / 1000


def test_the_host_has_processors_and_memory() -> None:
    facts = RealFacts()
    assert facts.cpus() >= 1
    assert facts.memory_mib() > 100


def test_kvm_without_a_device_or_an_extension_is_not_usable_and_says_why() -> None:
    kvm = RealFacts().kvm()
    has_flag = any({"vmx", "svm"} & set(line.split()) for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    assert kvm.reason
    assert not kvm.usable or (has_flag and Path("/dev/kvm").exists())
