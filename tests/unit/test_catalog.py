"""The shipped catalogs are sound: strict JSON, safe names, kernels that exist, entries that their sources accept."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from banger.backends import names
from banger.backends.image.debian import request as image_request
from banger.backends.kernel.debian import request as kernel_request
from banger.host.mmdebstrap import validate
from banger.model import codec
from banger.model.catalog import ImageCatalog, KernelCatalog
from banger.model.config import Settings
from banger.model.errors import Corrupt
from banger.model.ids import valid_artefact_name


def images() -> ImageCatalog:
    return codec.decode((files("banger") / "catalog/images.json").read_bytes(), ImageCatalog, what="images.json")


def kernels() -> KernelCatalog:
    return codec.decode((files("banger") / "catalog/kernels.json").read_bytes(), KernelCatalog, what="kernels.json")


def test_names_are_safe_and_unique() -> None:
    for catalog in (images(), kernels()):
        found = [valid_artefact_name(entry.name) for entry in catalog.entries]
        assert len(found) == len(set(found))


def test_the_default_image_is_there() -> None:
    assert Settings().default_image in {entry.name for entry in images().entries}


def test_every_images_kernel_is_there() -> None:
    assert {entry.kernel for entry in images().entries} <= {entry.name for entry in kernels().entries}


def test_every_source_is_a_backend_that_accepts_the_entry() -> None:
    for image in images().entries:
        assert image.source in names("image")
        validate(image_request(image))
    for kernel in kernels().entries:
        assert kernel.source in names("kernel")
        assert kernel_request(kernel).packages[0].endswith("-{arch}")


def test_an_unknown_field_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(Corrupt, match="mirror"):
        codec.decode(b'{"version": 1, "entries": [{"name": "a", "source": "b", "kernel": "c", "mirror": "d"}]}', ImageCatalog, what="images.json")
