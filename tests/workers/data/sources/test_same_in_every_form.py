"""The same images as folder, csv, tar shards, parquet and through an S3 server: one digest, one trained net."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from image_forms import as_csv, as_parquet, as_shards
from listed import folder, store_of
from pictures import encoded, noise
from stages import contents, trained

from workers.data.store import Store
from workers.settings import AugmentationSettings, DatasetSettings, OptimizerSettings, ScheduleSettings, Source

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


def test_one_other_byte_in_one_image_gives_another_digest(small_folder, tmp_path):
    """The control: digests do not agree because they see nothing."""
    shards = DatasetSettings(source=Source.webdataset, root=str(as_shards(small_folder, tmp_path / "a")), size=SIZE)
    before = store_of(shards, tmp_path / "stores")
    (small_folder / "test" / "t0.png").write_bytes(encoded(noise(77)))
    changed = replace(shards, root=str(as_shards(small_folder, tmp_path / "b")))
    assert store_of(changed, tmp_path / "stores").digest != before.digest


@pytest.mark.soak
def test_each_form_trains_the_same_bits(photographs, tmp_path, to_s3, tiny_spec):
    recipe = replace(
        tiny_spec.recipe,
        optimizer=OptimizerSettings(lr=0.02, batch_size=16),
        schedule=ScheduleSettings(epochs=2),
        augmentation=AugmentationSettings(),
    )
    spec = replace(tiny_spec, recipe=recipe)
    stores = stores_of(photographs, tmp_path, to_s3)
    found = {
        name: contents(trained(replace(spec, store=store.path, stage_dir=tmp_path / "stages" / name)))
        for name, store in stores.items()
    }
    assert len(found) == 8
    assert {each.checkpoint.model_sha256 for each in found.values()} == {found["folder"].checkpoint.model_sha256}


def test_real_images_keep_counts_pixels_and_colour(real_images, tmp_path):
    names = sorted(path.name for path in (real_images / "train").iterdir())[:2]
    listed = tmp_path / "two.txt"
    listed.write_text("\n".join(names))
    settings = folder(real_images, classes=str(listed), size=64)
    store = store_of(settings, tmp_path / "stores")
    assert store.classes == tuple(names)
    assert sum(store.counts.values()) + len(store.left_out) == 2 * 250 + 2 * 50 + 1000
    assert (store.counts["val"], store.counts["test"]) == (100, 1000)
    assert abs(store.counts["dev"] - 50) <= 2
    assert store.unreadable("test") == ()
    assert (store.sizes("train") == 64).all()
    assert store.labels("test") is None
    assert all(0.25 < mean < 0.7 for mean in store.mean)
    # Natural colours vary mostly in brightness (Krizhevsky et al. 2012, section 4.1).
    assert store.eigenvalues[0] > 5 * store.eigenvalues[1]
    assert min(abs(row[0]) for row in store.eigenvectors) > 0.4
