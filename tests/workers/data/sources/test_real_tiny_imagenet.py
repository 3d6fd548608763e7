"""A few classes of real Tiny-ImageNet images, where they are at hand."""

from pathlib import Path

from listed import folder, store_of


def test_real_images_keep_counts_pixels_and_colour(real_images: Path, tmp_path: Path) -> None:
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
