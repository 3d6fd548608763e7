"""Stores that keep whole images: the pixels of each, its centre square, windows inside it, damage, the JPEG form."""

import io
import json
import os

import numpy as np
import pytest
from listed import flip, folder, store_of
from pictures import encoded, noise, smooth, write_tree
from PIL import Image, ImageOps

from workers.data.decoding import Rules, decode, encode, kept_pixels, read_content, stored_shape
from workers.data.decoding.decisions import Decision
from workers.data.export import export
from workers.data.loading import TrainingBatches, centre_batches, pixel_statistics
from workers.data.store import PrepareProgress, open_store, prepare
from workers.data.store.disk_space import store_bytes
from workers.errors import StorageError
from workers.settings import (
    AugmentationSettings,
    DatasetSettings,
    Keep,
    ModelSettings,
    OnBad,
    ScheduleSettings,
    Source,
    StoreFormat,
    TrainingSettings,
    dataset_options,
)
from workers.training.augmented import augmented_sheet

SIZE, WINDOW = 16, 12
WHOLE = Rules(keep=Keep.whole)
# Width and height of an original, and the height and width to which it is scaled.
SHAPES = {
    (40, 30): (16, 21),
    (30, 40): (21, 16),
    (25, 25): (16, 16),
    (16, 16): (16, 16),
    (31, 47): (24, 16),
    (200, 20): (16, 64),
    (10, 90): (64, 16),
}


def pillows(image: Image.Image) -> np.ndarray:
    """The whole of an image, or of its middle four squares, scaled by Pillow."""
    side, shape = min(image.size), SHAPES[image.size]
    across, down = (min(each, 4 * side) for each in image.size)
    left, top = (image.width - across) // 2, (image.height - down) // 2
    part = image.crop((left, top, left + across, top + down))
    return np.asarray(part.resize(shape[::-1], Image.Resampling.BICUBIC))


@pytest.fixture
def tree(tmp_path):
    """Two classes of images of every shape, three of each, and as many unlabelled ones; train's `b` are smooth."""
    files: dict[str, bytes] = {}
    for number, sides in enumerate(SHAPES):
        for copy in range(3):
            name, seed = f"{sides[0]}x{sides[1]}-{copy}.png", 10 * number + copy
            files[f"train/a/{name}"] = encoded(noise(seed, *sides))
            files[f"train/b/{name}"] = encoded(smooth(100 + seed, *sides))
            files[f"test/{name}"] = encoded(noise(200 + seed, *sides))
    return write_tree(tmp_path / "tree", files)


@pytest.fixture(params=StoreFormat)
def settings(request, tree):
    return folder(tree, size=SIZE, keep=Keep.whole, store_format=request.param)


@pytest.fixture
def store(settings, tmp_path):
    return store_of(settings, tmp_path / "stores")


def original(tree, split, row):
    return Image.open(tree / ("test" if split == "test" else "train") / row)


def test_each_image_is_pillows_scaling_of_the_whole_original(tree, settings, store):
    for split, count in store.counts.items():
        images, shapes = store.images(split, whole=True), np.load(store.path / f"{split}.shapes.npy")
        assert shapes.dtype == np.int32 and len(images) == len(shapes) == count
        for row, image, shape in zip(store.rows(split), images, shapes.tolist(), strict=True):
            source = original(tree, split, row)
            assert image.shape == (*SHAPES[source.size], 3) == (*shape, 3)
            wanted = pillows(source)
            if settings.store_format is StoreFormat.jpeg:
                wanted = np.asarray(Image.open(io.BytesIO(encode(np.asarray(wanted), settings.jpeg_quality))))
            np.testing.assert_array_equal(image, wanted)
    panoramas = [row for split in store.counts for row in store.rows(split) if row.rpartition("/")[2][:5] == "200x2"]
    assert len(panoramas) == 9 and store.decided == {Decision.ends_cut: 18}


def test_raw_shard_is_one_flat_array_that_its_shapes_divide(tree, tmp_path):
    store = store_of(folder(tree, size=SIZE, keep=Keep.whole), tmp_path / "stores")
    flat, shapes = np.load(store.path / "test-00000.images.npy"), np.load(store.path / "test.shapes.npy")
    assert flat.dtype == np.uint8 and flat.shape == (3 * shapes.prod(axis=1).sum(),)
    np.save(tmp_path / "again.npy", flat)
    assert (tmp_path / "again.npy").read_bytes() == (store.path / "test-00000.images.npy").read_bytes()
    first, second = (3 * height * width for height, width in shapes[:2].tolist())
    wanted = flat[first : first + second].reshape(*shapes[1], 3)
    np.testing.assert_array_equal(store.images("test", whole=True)[1], wanted)


def test_images_are_the_centre_squares_however_they_are_indexed(store):
    images, whole = store.images("train"), store.images("train", whole=True)
    squares = np.stack(
        [
            each[(top := (each.shape[0] - SIZE) // 2) : top + SIZE, (left := (each.shape[1] - SIZE) // 2) : left + SIZE]
            for each in whole
        ]
    )
    assert images.shape == squares.shape
    np.testing.assert_array_equal(images, squares)
    np.testing.assert_array_equal(images[2:9:3, 3:9, 1:-2], squares[2:9:3, 3:9, 1:-2])
    np.testing.assert_array_equal(images[[5, 1]], squares[[5, 1]])
    np.testing.assert_array_equal(images[-1, 4:], squares[-1, 4:])
    with pytest.raises(IndexError, match="one by one"):
        whole[0:2]
    images.will_need(3, 7)
    mean = squares.astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(store.mean_image(), mean, rtol=1e-6)
    np.testing.assert_allclose(store.mean, mean.mean(axis=(0, 1)) / 255, rtol=1e-5)


def test_square_originals_have_the_pixels_of_a_centre_store(tree, settings, store, tmp_path):
    centre = store_of(folder(tree, size=SIZE, store_format=settings.store_format), tmp_path / "stores")
    assert centre.path != store.path and centre.digest != store.digest and centre.rows("train") == store.rows("train")
    assert not (centre.path / "train.shapes.npy").exists() and Decision.ends_cut not in centre.decided
    same = [index for index, (width, height) in enumerate(store.sizes("train").tolist()) if width == height]
    assert len(same) >= 6
    np.testing.assert_array_equal(store.images("train")[same], centre.images("train")[same])
    other = [index for index in range(store.counts["train"]) if index not in same]
    assert not np.array_equal(store.images("train")[other], centre.images("train")[other])
    plain = centre.images("train", whole=True)
    np.testing.assert_array_equal(plain[0:3], centre.images("train")[0:3])


def test_unreadable_images_are_dropped_or_grey_squares(tree, tmp_path):
    write_tree(tree, {"train/a/bad.png": b"bad", "test/30x40-1.png": b""})
    store = store_of(folder(tree, size=SIZE, keep=Keep.whole, on_bad=OnBad.skip), tmp_path / "stores")
    index = store.rows("test").index("30x40-1.png")
    assert store.unreadable("test") == (index,) and "a/bad.png" not in store.rows("train")
    assert (store.images("test", whole=True)[index] == np.full((SIZE, SIZE, 3), 128)).all()
    for row, image in zip(store.rows("test"), store.images("test", whole=True), strict=True):
        if row != "30x40-1.png":
            np.testing.assert_array_equal(image, pillows(original(tree, "test", row)))


@pytest.mark.parametrize("random_crop", [True, False])
def test_training_windows_lie_inside_each_image_and_reach_its_edges(store, random_crop):
    augmentation = AugmentationSettings(random_crop=random_crop)
    statistics = pixel_statistics(store, augmentation)
    batches = TrainingBatches(store, statistics, augmentation, seed=1, batch_size=8, input_size=WINDOW)
    whole = store.images("train", whole=True)
    margins = np.array([each.shape[:2] for each in whole]) - WINDOW
    reached = np.zeros((2, *margins.shape), bool)
    for epoch in range(6 if random_crop else 1):
        draws = batches._draws(epoch)
        for index in range(batches.per_epoch):
            batch = batches.draw(epoch, index)
            chosen = draws.order[index * 8 : index * 8 + len(batch)]
            offsets = batch.windows.offsets
            assert (offsets >= 0).all() and (offsets <= margins[chosen]).all()
            if not random_crop:
                np.testing.assert_array_equal(offsets, margins[chosen] // 2)
            for pixels, image, (top, left) in zip(batch.pixels.numpy(), chosen.tolist(), offsets, strict=True):
                wanted = whole[image][top : top + WINDOW, left : left + WINDOW]
                np.testing.assert_array_equal(pixels, wanted)
            reached[0][chosen] |= offsets == 0
            reached[1][chosen] |= offsets == margins[chosen]
    # Of several images each edge, near and far, down and across.
    assert not random_crop or (reached.sum(axis=1) > 5).all()
    again = TrainingBatches(store, statistics, augmentation, seed=1, batch_size=8, input_size=WINDOW, depth=2)
    for step in range(5):
        np.testing.assert_array_equal(again.take(step).pixels, batches.draw(*divmod(step, batches.per_epoch)).pixels)
    again.close()


def test_evaluation_sees_the_middle_of_each_image(store):
    statistics = pixel_statistics(store, AugmentationSettings())
    (batch,) = centre_batches(store, "val", statistics, WINDOW)
    for pixels, image in zip(batch.pixels.numpy(), store.images("val", whole=True), strict=True):
        top, left = ((side - SIZE) // 2 + (SIZE - WINDOW) // 2 for side in image.shape[:2])
        np.testing.assert_array_equal(pixels, image[top : top + WINDOW, left : left + WINDOW])


def test_sheets_and_export_take_whole_images(store, tmp_path, training_settings):
    assert Image.open(io.BytesIO(augmented_sheet(store, training_settings, 0))).format == "PNG"
    export(store, tmp_path / "data")
    assert (tmp_path / "data" / "prepared.png").exists()


@pytest.fixture
def training_settings():
    return TrainingSettings(model=ModelSettings(input_size=WINDOW), schedule=ScheduleSettings(epochs=2))


@pytest.mark.parametrize("name", ["", "train.shapes.npy", "train.checksums.npy"])
def test_damage_is_found_when_read_and_packed_again_to_the_same_bytes(store, settings, tmp_path, name):
    name = name or next(iter(store.shards["train"])).images.name
    before = {path.name: path.read_bytes() for path in store.path.glob("[!.]*")}
    path = store.path / name
    flip(path, 140)
    with pytest.raises(StorageError, match="damaged"):
        list(store.images("train", whole=True))
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1))
    others = {each: (store.path / each).stat().st_ino for each in before if each != name}
    assert prepare(settings, tmp_path / "stores") == store.path
    assert {path.name: path.read_bytes() for path in store.path.glob("[!.]*")} == before
    assert {each: (store.path / each).stat().st_ino for each in others} == others, "more than the damage was packed"


def test_finished_shards_of_a_preparation_cut_short_are_used_again(settings, store, tmp_path, monkeypatch):
    """The record of a shard says that it holds whole images: one of squares is not taken for it."""
    wanted = {path.name: path.read_bytes() for path in store.path.glob("[!.]*")}
    left: list[int] = []

    def cut_short(progress: PrepareProgress) -> None:
        if progress.phase == "pack" and progress.done > 20:
            left.append(progress.done)
            raise KeyboardInterrupt

    other = tmp_path / "others"
    with pytest.raises(KeyboardInterrupt):
        prepare(settings, other, cut_short)
    assert left and list(other.glob(".building-*/*.records/*.json"))
    again = open_store(prepare(settings, other))
    assert {path.name: path.read_bytes() for path in again.path.glob("[!.]*")} == wanted
    records = [json.loads(path.read_text())["made_of"] for path in sorted((again.path / ".records").iterdir())]
    squares = DatasetSettings(root=settings.root, size=SIZE, store_format=settings.store_format)
    beside = store_of(squares, other)
    assert set(records).isdisjoint(
        json.loads(path.read_text())["made_of"] for path in (beside.path / ".records").iterdir()
    )


def test_new_image_is_prepared_as_the_store_prepared_it(tree, settings, store):
    if settings.store_format is StoreFormat.raw:
        for row, image in zip(store.rows("test"), store.images("test", whole=True), strict=True):
            new = decode(read_content(tree / "test" / row), store.size, rules=store.rules).pixels
            np.testing.assert_array_equal(new, image)
    assert store.rules == WHOLE


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("JPEG", {"quality": 95}), ("TIFF", {})])
def test_every_orientation_gives_the_whole_of_exif_transpose(orientation, kind, options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for sides in ((40, 30), (31, 47), (200, 20)):
        content = encoded(smooth(orientation, *sides), kind, exif=exif, **options)
        shown = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
        shape = stored_shape(*shown.size, SIZE, Keep.whole)
        picture = decode(content, SIZE, rules=WHOLE)
        across, down = (min(each, 4 * min(shown.size)) for each in shown.size)
        left, top = (shown.width - across) // 2, (shown.height - down) // 2
        part = shown.crop((left, top, left + across, top + down))
        if min(sides) < 2 * SIZE:  # Larger JPEGs are decoded at a fraction of their size.
            wanted = part.resize(shape[::-1], Image.Resampling.BICUBIC)
            np.testing.assert_array_equal(picture.pixels, wanted)
        assert (picture.width, picture.height) == shown.size
        assert (Decision.ends_cut in picture.decisions) == (sides == (200, 20))


@pytest.mark.parametrize(("sides", "shape"), [((500, 375), (16, 21)), ((375, 501), (21, 16)), ((900, 100), (16, 64))])
def test_jpeg_decoded_at_a_fraction_has_the_shape_of_its_original(sides, shape):
    content = encoded(smooth(1, *sides), "JPEG", quality=95)
    pixels = decode(content, 16, rules=WHOLE).pixels
    assert pixels.shape == (*shape, 3) == (*stored_shape(*sides, 16, Keep.whole), 3)
    image = Image.open(io.BytesIO(content))
    middle = ImageOps.fit(image, (min(sides[0], 4 * sides[1]), min(sides[1], 4 * sides[0])))
    plain = np.asarray(middle.resize(shape[::-1], Image.Resampling.BICUBIC))
    assert np.abs(pixels.astype(int) - plain).max() <= 12


@pytest.mark.parametrize("sides", SHAPES)
def test_image_in_memory_is_kept_whole_as_a_file_is(sides):
    image = noise(7, *sides)
    pixels = kept_pixels(image, SIZE, Keep.whole)
    np.testing.assert_array_equal(pixels, pillows(image))
    np.testing.assert_array_equal(pixels, decode(encoded(image), SIZE, rules=WHOLE).pixels)


def test_keep_is_in_key_and_hash_only_where_it_is_not_the_default():
    assert "keep" not in dataset_options(DatasetSettings())
    assert dataset_options(DatasetSettings(keep=Keep.whole))["keep"] == "whole"
    with pytest.raises(ValueError, match=r"keep=whole: only source=.*folder.* reads it, not digits"):
        DatasetSettings(source=Source.digits, keep=Keep.whole)


def test_space_that_is_required_covers_photographs_of_three_to_two():
    for store_format in StoreFormat:
        centre, whole = (store_bytes(100, 256, store_format, 90, keep) for keep in Keep)
        assert centre < whole < 1.51 * centre
    assert store_bytes(1, 256, StoreFormat.raw, 90, Keep.whole) >= 3 * 256 * 384


def test_photographs_whole_have_pillows_pixels_and_almost_those_of_their_centre_squares(real_photographs, tmp_path):
    photographs = sorted(real_photographs.iterdir())[:24]
    whole_bytes = centre_bytes = 0
    for path in photographs:
        content = path.read_bytes()
        whole, square = decode(content, 128, rules=WHOLE), decode(content, 128)
        height, width = whole.pixels.shape[:2]
        assert (whole.width, whole.height) == (square.width, square.height)
        assert (height, width) == stored_shape(whole.width, whole.height, 128, Keep.whole) and min(height, width) == 128
        whole_bytes, centre_bytes = whole_bytes + whole.pixels.size, centre_bytes + square.pixels.size
        top, left = (height - 128) // 2, (width - 128) // 2
        middle = whole.pixels[top : top + 128, left : left + 128].astype(int)
        # Both grids of pixels may be half a pixel apart.
        assert np.abs(middle - square.pixels).mean() < 12
        with Image.open(path) as image:
            if image.mode == "RGB" and min(image.size) < 256:
                wanted = image.resize((width, height), Image.Resampling.BICUBIC)
                np.testing.assert_array_equal(whole.pixels, wanted)
    assert 1.1 < whole_bytes / centre_bytes < 1.6
