"""Small trees of generated images, in both layouts that the folder source reads."""

import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from s3_server import s3_server, upload

SECRET = "never-to-be-told"


def png(seed: int, side: int = 10) -> bytes:
    """A PNG of noise; another seed gives other pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def make_png() -> Callable[[int], bytes]:
    return png


@pytest.fixture
def write_tree() -> Callable[[Path, Mapping[str, int | bytes]], Path]:
    """Writes files below a root: bytes as they are, a number as the noise image of that seed."""

    def write(root: Path, files: Mapping[str, int | bytes]) -> Path:
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else png(content))
        return root

    return write


@pytest.fixture
def plain_tree(tmp_path: Path, write_tree: Callable[..., Path]) -> Path:
    """Three classes of 20 training images, no val, five unlabelled test images."""
    files = {
        f"train/{name}/{index}.png": 100 * place + index for place, name in enumerate("abc") for index in range(20)
    }
    return write_tree(tmp_path / "plain", files | {f"test/t{index}.png": 1000 + index for index in range(5)})


@pytest.fixture
def published_tree(tmp_path: Path, write_tree: Callable[..., Path]) -> Path:
    """Tiny-ImageNet's layout: three classes of 10, six annotated val images, four test images."""
    files: dict[str, int | bytes] = {
        f"train/n{place}/images/n{place}_{index}.JPEG": 100 * place + index for place in range(3) for index in range(10)
    }
    files |= {f"train/n{place}/n{place}_boxes.txt": b"n_0.JPEG\t0\t0\t9\t9\n" for place in range(3)}
    files |= {f"val/images/val_{index}.JPEG": 2000 + index for index in range(6)}
    lines = [f"val_{index}.JPEG\tn{index % 3}\t0\t0\t9\t9\n" for index in range(6)]
    files["val/val_annotations.txt"] = "".join(lines).encode()
    return write_tree(
        tmp_path / "published", files | {f"test/images/test_{index}.JPEG": 3000 + index for index in range(4)}
    )


@pytest.fixture
def small_folder(tmp_path: Path, write_tree: Callable[..., Path]) -> Path:
    """Three classes of eight training and two validation images, five unlabelled test images."""
    files = {f"train/{name}/{index}.png": 50 * place + index for place, name in enumerate("abc") for index in range(8)}
    files |= {
        f"val/{name}/v{index}.png": 500 + 50 * place + index for place, name in enumerate("abc") for index in (0, 1)
    }
    return write_tree(tmp_path / "folder", files | {f"test/t{index}.png": 1000 + index for index in range(5)})


@pytest.fixture(scope="session")
def s3_address() -> Iterator[str]:
    """The address of an S3 server on this machine."""
    pytest.importorskip("moto")
    pytest.importorskip("s3fs")
    with s3_server() as address:
        yield address


@pytest.fixture
def to_s3(s3_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, str], str]:
    """Uploads a folder under a name of the test's own and tells its URL; the environment has what it takes to read."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a-test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return lambda folder, name: upload(folder, f"{tmp_path.name}/{name}")
