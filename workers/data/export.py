"""Contact sheets (PNG), which show images in captioned bands, and the files that a run keeps of a store."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from workers.data.store import Store, stored_split, write_npy
from workers.settings import HELD_OUT, OUT_OF_FOLD, SPLITS
from workers.storage import layout, storage_errors, write_bytes, write_json, write_text

_MOST_CLASSES = 10
_TRAIN_ROWS = 3
_THUMBNAIL, _SMALL = 176, 64
_TILE, _GAP, _CAPTION, _TITLE = 112, 8, 18, 30
# Readable on light and dark pages: the sheet's background is transparent.
_TITLE_COLOUR, _CAPTION_COLOUR = "#4f86c6", "#8a94a3"


@dataclass(frozen=True, eq=False)
class Tile:
    """An image, [side, side, 3] uint8, and its caption."""

    pixels: np.ndarray
    caption: str


@dataclass(frozen=True, eq=False)
class Band:
    """Tiles under a title."""

    title: str
    tiles: Sequence[Tile]


def draw(bands: Sequence[Band], columns: int) -> bytes:
    """Draws the bands one below another, with `columns` tiles in a row, and returns a PNG."""
    rows = [-(-len(band.tiles) // columns) for band in bands]
    title_font, caption_font = ImageFont.load_default(size=15), ImageFont.load_default(size=11)
    longest = math.ceil(max(title_font.getlength(band.title) for band in bands))
    width = max(columns * (_TILE + _GAP) + _GAP, longest + 2 * _GAP)
    height = sum(_TITLE + count * (_TILE + _CAPTION + _GAP) for count in rows) + _GAP
    sheet = Image.new("RGBA", (width, height))
    pen = ImageDraw.Draw(sheet)
    top = 0
    for band, count in zip(bands, rows, strict=True):
        pen.text((_GAP, top + 8), band.title, fill=_TITLE_COLOUR, font=title_font)
        top += _TITLE
        for place, tile in enumerate(band.tiles):
            x = _GAP + place % columns * (_TILE + _GAP)
            y = top + place // columns * (_TILE + _CAPTION + _GAP)
            sheet.paste(_picture(tile.pixels), (x, y))
            pen.text((x, y + _TILE + 2), _fitting(tile.caption, caption_font), fill=_CAPTION_COLOUR, font=caption_font)
        top += count * (_TILE + _CAPTION + _GAP)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def thumbnail(pixels: np.ndarray) -> tuple[str, bytes]:
    """Returns the format, png or jpeg, and the content of a small picture of [side, side, 3] uint8."""
    buffer, picture = io.BytesIO(), Image.fromarray(np.ascontiguousarray(pixels))
    kind = "jpeg" if len(pixels) > _SMALL else "png"
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    picture.save(buffer, kind, quality=75)
    return kind, buffer.getvalue()


def _picture(pixels: np.ndarray) -> Image.Image:
    """Scales an image to the size of a tile; the pixels of small images stay visible."""
    resample = Image.Resampling.NEAREST if 2 * len(pixels) <= _TILE else Image.Resampling.BICUBIC
    return Image.fromarray(np.ascontiguousarray(pixels)).resize((_TILE, _TILE), resample)


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Shortens `text` to the width of a tile, keeping its end, where paths differ."""
    line = " ".join(text.split())
    if font.getlength(line) <= _TILE:
        return line
    while line and font.getlength("…" + line) > _TILE:
        line = line[1:]
    return "…" + line


def prepared_sheet(store: Store) -> bytes:
    """Draws prepared images of every split: of some classes, a few of train and one of the other splits."""
    bands = []
    for split in SPLITS:
        count = store.counts[split]
        if count:
            labels = store.labels(split)
            if labels is None:
                tiles, more = _of_rows(store, split), ", unlabelled"
            else:
                tiles, more = _of_classes(store, split, labels, _TRAIN_ROWS if split == "train" else 1), ""
            bands.append(Band(f"{split}: {count:,} in all{more}", tiles))
    return draw(bands, min(_MOST_CLASSES, max(len(band.tiles) for band in bands)))


def spread(count: int, most: int = _MOST_CLASSES) -> list[int]:
    """Returns at most `most` indices, such as labels, evenly spread over `count`."""
    shown = min(count, most)
    return [index * count // shown for index in range(shown)]


def _of_classes(store: Store, split: str, labels: np.ndarray, rows: int) -> list[Tile]:
    images = store.images(split)
    places = {label: np.flatnonzero(labels == label) for label in spread(store.num_classes)}
    return [
        Tile(images[int(found[row * len(found) // rows])], store.classes[label])
        for row in range(rows)
        for label, found in places.items()
        if len(found) > row
    ]


def _of_rows(store: Store, split: str) -> list[Tile]:
    images, names, unreadable = store.images(split), store.rows(split), set(store.unreadable(split))
    return [
        Tile(images[index], "unreadable" if index in unreadable else names[index])
        for index in spread(store.counts[split])
    ]


def export(store: Store, directory: Path, folds: np.ndarray | None = None) -> None:
    """Writes the files that scoring, submitting and reporting need of the target dataset, so that they need no store.

    These are `classes.txt`, `dataset.json`, `prepared.png` (some images of every split), and for dev, val and test
    `<split>.rows.txt`, `<split>.sizes.npy` and, if there are labels, `<split>.labels.npy`. Files of an earlier export
    that the store no longer has are deleted. With `folds` [images, repeats] int16, those of the training images, there
    are also `folds.npy` and, as the split `oof`, the files of train.
    """
    counts = {split: store.counts[split] for split in SPLITS}
    if folds is not None:
        counts[OUT_OF_FOLD] = store.counts["train"]
        write_npy(directory / layout.FOLDS, folds)
    write_text(directory / layout.CLASSES, "".join(f"{name}\n" for name in store.classes))
    for split in (*HELD_OUT, OUT_OF_FOLD):
        source = stored_split(split)
        labels = store.labels(source) if counts.get(split) else None
        if counts.get(split):
            write_text(directory / layout.rows(split), "".join(f"{row}\n" for row in store.rows(source)))
            write_npy(directory / layout.sizes(split), store.sizes(source))
        if labels is not None:
            write_npy(directory / layout.labels(split), labels)
        for name_of in (layout.rows, layout.sizes, layout.labels):
            if not counts.get(split) or (labels is None and name_of is layout.labels):
                # Old labels would be taken for those of the current images.
                with storage_errors(directory / name_of(split)):
                    (directory / name_of(split)).unlink(missing_ok=True)
    write_bytes(directory / layout.PREPARED, prepared_sheet(store))
    write_json(
        directory / layout.DATASET,
        {
            "digest": store.digest,
            "class_ids": list(store.class_ids),
            "counts": counts,
            "unreadable": {split: list(store.unreadable(split)) for split in HELD_OUT if counts[split]},
        },
    )
