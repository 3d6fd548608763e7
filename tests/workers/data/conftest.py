"""Small trees of generated images, in both layouts that the folder source reads."""

import pytest
from pictures import write_tree
from s3_server import s3_server, upload

SECRET = "never-to-be-told"


@pytest.fixture
def plain_tree(tmp_path):
    """Three classes of 20 training images, no val, five unlabelled test images."""
    files = {
        f"train/{name}/{index}.png": 100 * place + index for place, name in enumerate("abc") for index in range(20)
    }
    return write_tree(tmp_path / "plain", files | {f"test/t{index}.png": 1000 + index for index in range(5)})


@pytest.fixture
def published_tree(tmp_path):
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
def small_folder(tmp_path):
    """Three classes of eight training and two validation images, five unlabelled test images."""
    files = {f"train/{name}/{index}.png": 50 * place + index for place, name in enumerate("abc") for index in range(8)}
    files |= {
        f"val/{name}/v{index}.png": 500 + 50 * place + index for place, name in enumerate("abc") for index in (0, 1)
    }
    return write_tree(tmp_path / "folder", files | {f"test/t{index}.png": 1000 + index for index in range(5)})


@pytest.fixture(scope="session")
def s3_address():
    """The address of an S3 server on this machine."""
    pytest.importorskip("moto")
    pytest.importorskip("s3fs")
    with s3_server() as address:
        yield address


@pytest.fixture
def to_s3(s3_address, tmp_path, monkeypatch):
    """Uploads a folder under a name of the test's own and tells its URL; the environment has what it takes to read."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a-test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return lambda folder, name: upload(folder, f"{tmp_path.name}/{name}")
