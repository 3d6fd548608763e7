"""The same images as folder, csv, tar shards and parquet, here and on an S3 server, give one digest."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from image_forms import as_csv, as_parquet, as_shards
from listed import store_of

from workers.data.store import Store
from workers.settings import DatasetSettings, Source

Upload = Callable[[Path, str], str]
SIZE = 18


@pytest.fixture
def photographs(real_images: Path, tmp_path: Path) -> Path:
    """Three classes of real photographs: 16 for training, 4 for validation of each, and six of test."""
    root = tmp_path / "photographs"
    taken = [
        path
        for split, count in (("train", 16), ("val", 4))
        for folder in sorted((real_images / split).iterdir())[:3]
        for path in sorted(folder.rglob("*.JPEG"))[:count]
    ]
    for path in taken + sorted((real_images / "test").rglob("*.JPEG"))[:6]:
        place = root / path.relative_to(real_images)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    return root


def forms_of(folder: Path, tmp_path: Path, to_s3: Upload) -> dict[str, DatasetSettings]:
    """Settings that read the images of a folder from each of their forms."""
    settings = DatasetSettings(root=str(folder), size=SIZE)
    csv = replace(settings, source=Source.csv, root=str(as_csv(folder, tmp_path / "csv")))
    shards = replace(settings, source=Source.webdataset, root=str(as_shards(folder, tmp_path / "shards")))
    parquet = replace(
        settings, source=Source.parquet, root=str(as_parquet(folder, tmp_path / "parquet")), id_column="image.path"
    )
    local = {"folder": settings, "csv": csv, "webdataset": shards, "parquet": parquet}
    stored = {f"{name} on S3": replace(each, root=to_s3(Path(str(each.root)), name)) for name, each in local.items()}
    return {**local, **stored}


def stores_of(folder: Path, tmp_path: Path, to_s3: Upload) -> dict[str, Store]:
    forms = forms_of(folder, tmp_path, to_s3)
    return {name: store_of(form, tmp_path / "stores" / name) for name, form in forms.items()}


@pytest.mark.parametrize("images", ["small_folder", "photographs"])
def test_each_form_gives_one_digest(images, request, tmp_path, to_s3):
    stores = stores_of(request.getfixturevalue(images), tmp_path, to_s3)
    assert len(stores) == 8
    assert {name: store.digest for name, store in stores.items()} == dict.fromkeys(stores, stores["folder"].digest)
    assert {store.left_out for store in stores.values()} == {()}
