"""Datasets: IDX and CSV files, where they are looked for, downloads, splits, scaling and what is shared."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import multiprocessing
import struct
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from swathe.errors import BadInputError
from swathe.training import cifar, sources
from swathe.training.data import find, load, obtain
from swathe.training.idx import read_idx
from swathe.training.recipe import CSV, Data

TRAIN, TEST = 50, 20


def idx(array: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(folder: Path, *, plain: bool = False) -> None:
    """Write a small dataset in MNIST's four files."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    for part, count in (("train", TRAIN), ("t10k", TEST)):
        images = draw.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for name, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            content = idx(array)
            path = folder / (name if plain else f"{name}.gz")
            path.write_bytes(content if plain else gzip.compress(content, mtime=0))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def _no_system_datasets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sources, "SYSTEM_DATASETS", tmp_path / "system")
    monkeypatch.setenv("SWATHE_HOME", str(tmp_path / "home"))


# IDX files.


@pytest.mark.parametrize("zipped", [True, False])
def test_an_idx_file_is_read_plain_or_gzipped(tmp_path: Path, zipped: bool) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
    np.testing.assert_array_equal(read_idx(path, 3), array)


GOOD = idx(np.arange(6, dtype=np.uint8).reshape(2, 3))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no IDX file"),
        (b"<html>not found</html>", "is no IDX file"),
        (b"\0\0\x0d" + GOOD[3:], "type 0x0d; allowed: 0x08"),
        (idx(np.zeros(3, np.uint8)), "has 1 dimensions; allowed: 2"),
        (GOOD[:9], "is cut off"),
        (GOOD[:-1], "has 17 bytes uncompressed; a header of [2, 3] needs 18"),
        (GOOD + b"\0", "has 19 bytes uncompressed"),
        (gzip.compress(GOOD, mtime=0)[:-6], "cannot be read"),
        (gzip.compress(GOOD, mtime=0)[:-8] + b"12345678", "cannot be read"),
        (b"\x1f\x8b\x08" + b"\xff" * 20, "cannot be read"),
    ],
)
def test_a_bad_idx_file_is_refused_by_name(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "bad.gz"
    path.write_bytes(content)
    with pytest.raises(BadInputError) as refused:
        read_idx(path, 2)
    assert words in str(refused.value)
    assert str(path) in str(refused.value)


def test_a_header_that_promises_more_than_memory_holds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    path.write_bytes(struct.pack(">BBBB3I", 0, 0, 8, 3, *([2**32 - 1] * 3)))
    with pytest.raises(BadInputError, match="has 16 bytes uncompressed"):
        read_idx(path, 3)


# Finding and downloading.


def test_digits_come_with_scikit_learn(cache: Path) -> None:
    assert find(Data()) == "inside scikit-learn"
    assert not cache.exists()


def test_idx_files_are_looked_for_in_the_home_then_in_the_system(tmp_path: Path) -> None:
    data = Data(name="fashion_mnist")
    with pytest.raises(BadInputError) as refused:
        find(data)
    for words in (str(tmp_path / "home/data/fashion_mnist"), str(tmp_path / "system/fashion-mnist"), "dataset-fashion"):
        assert words in str(refused.value)
    write_mnist(tmp_path / "system/fashion-mnist")
    assert find(data) == tmp_path / "system/fashion-mnist"
    write_mnist(tmp_path / "home/data/fashion_mnist", plain=True)
    assert find(data) == tmp_path / "home/data/fashion_mnist"


def test_a_folder_that_is_given_is_the_only_one(tmp_path: Path, cache: Path) -> None:
    write_mnist(tmp_path / "home/data/mnist")
    data = Data(name="mnist", folder=str(tmp_path / "elsewhere"))
    for look in (find, partial(obtain, cache=cache)):
        with pytest.raises(BadInputError, match="elsewhere and is not there"):
            look(data)
    write_mnist(tmp_path / "elsewhere")
    assert find(data) == tmp_path / "elsewhere"


def test_a_csv_file_is_found_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInputError, match=r"data\.path: 'here\.csv' is not allowed"):
        find(CSV(path="here.csv", target="y"))
    (tmp_path / "here.csv").write_text("x,y\n1,2\n")
    assert find(CSV(path="here.csv", target="y")) == Path("here.csv")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Publish a small MNIST on a server of this machine; yields the folder served."""
    folder = tmp_path / "published"
    write_mnist(folder)
    md5 = {path.name.removesuffix(".gz"): hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        origin = sources.Origin(f"http://127.0.0.1:{server.server_port}/", md5, {})
        monkeypatch.setitem(sources.ORIGINS, "mnist", origin)
        yield folder
        server.shutdown()
        thread.join()


def test_what_is_not_found_is_downloaded_once(published: Path, cache: Path) -> None:
    data = Data(name="mnist")
    assert obtain(data, cache) == cache / "mnist"
    for path in published.iterdir():
        path.unlink()
    assert obtain(data, cache) == cache / "mnist"
    assert len(load(data, cache).train_y) == 40


def test_a_download_with_another_checksum_is_refused_and_not_kept(published: Path, cache: Path) -> None:
    (published / "t10k-labels-idx1-ubyte.gz").write_bytes(b"hello")
    with pytest.raises(BadInputError, match="gave 5 bytes with another MD5"):
        obtain(Data(name="mnist"), cache)
    assert not (cache / "mnist/t10k-labels-idx1-ubyte.gz").exists()


def test_a_failed_download_says_where_was_looked_and_what_failed(published: Path, cache: Path) -> None:
    (published / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(BadInputError, match=r"looked for in .*; downloading http.*labels.* failed: HTTP Error 404"):
        obtain(Data(name="mnist"), cache)


def test_a_damaged_fashion_mnist_is_refused(tmp_path: Path, cache: Path) -> None:
    # Files of the right form, but not the published ones.
    write_mnist(tmp_path / "home/data/fashion_mnist")
    write_mnist(cache / "fashion_mnist")
    with pytest.raises(BadInputError, match="is damaged: its content has another SHA-256"):
        load(Data(name="fashion_mnist"), cache)
    assert not list((cache / "prepared").glob("*/meta.json"))


REAL = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.skipif(not REAL.is_dir(), reason="the Debian package dataset-fashion-mnist is not installed")
def test_the_system_s_fashion_mnist_is_the_published_one() -> None:
    name = "t10k-labels-idx1-ubyte"
    labels = read_idx(REAL / f"{name}.gz", 1, sources.ORIGINS["fashion_mnist"].sha256[name])
    assert np.bincount(labels).tolist() == [1000] * 10


# CIFAR.


def write_cifar(
    folder: Path, name: str, *, examples: int = 4, label: int | None = None
) -> dict[str, NDArray[np.uint8]]:
    """Write an archive in the binary form, and name it as the published one; returns the records of each file."""
    layout = cifar.LAYOUTS[name]
    folder.mkdir(parents=True, exist_ok=True)
    draw, examples = np.random.default_rng(1), 4
    (stem,) = sources.ORIGINS[name].md5
    records = {}
    with tarfile.open(folder / f"{stem}.gz", "w:gz") as tar:
        for file in (*layout.train, layout.test):
            labels = draw.integers(0, layout.classes, (examples, layout.labels), dtype=np.uint8)
            labels[0, -1] = labels[0, -1] if label is None else label
            content = np.concatenate([labels, draw.integers(0, 256, (examples, 3072), dtype=np.uint8)], axis=1)
            member = tarfile.TarInfo(f"{layout.folder}/{file}")
            member.size = content.size
            tar.addfile(member, io.BytesIO(content.tobytes()))
            records[file] = content
    return records


def as_published(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str) -> None:
    """Take the archive in the folder for the published one."""
    (stem,) = sources.ORIGINS[name].md5
    md5 = hashlib.md5((folder / f"{stem}.gz").read_bytes()).hexdigest()
    monkeypatch.setitem(sources.ORIGINS, name, sources.Origin("http://127.0.0.1:9/", {stem: md5}, {}))


@pytest.mark.parametrize(("name", "train"), [("cifar10", 20), ("cifar100", 4)])
def test_cifar_is_read_from_its_archive(cache: Path, monkeypatch: pytest.MonkeyPatch, name: str, train: int) -> None:
    records = write_cifar(cache / name, name)
    as_published(monkeypatch, cache / name, name)
    data = load(Data(name=name, val_fraction=0.25, standardize=False), cache)
    layout = cifar.LAYOUTS[name]
    assert (data.classes, data.image_shape) == (layout.classes, (3, 32, 32))
    assert [len(part) for part in (data.train_y, data.val_y, data.test_y)] == [train * 3 // 4, train // 4, 4]
    test = records[layout.test]
    # The class of CIFAR-100 is the second byte; the first is its superclass.
    assert data.test_y.tolist() == test[:, layout.labels - 1].tolist()
    np.testing.assert_array_equal(data.test_x.numpy(), (test[:, layout.labels :] / np.float32(255)).astype(np.float32))


def test_each_channel_of_an_image_has_its_own_scale(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(cache / "cifar10", "cifar10")
    as_published(monkeypatch, cache / "cifar10", "cifar10")
    channels = load(Data(name="cifar10", val_fraction=0.25), cache).train_x.view(-1, 3, 1024).double()
    torch.testing.assert_close(channels.mean((0, 2)), torch.zeros(3).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(channels.std((0, 2), correction=0), torch.ones(3).double(), rtol=0, atol=1e-6)


def test_a_damaged_archive_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cache / "cifar10"
    write_cifar(folder, "cifar10")
    # Of the right form, but not the published one.
    with pytest.raises(BadInputError, match="another MD5 than the published file"):
        load(Data(name="cifar10"), cache)
    write_cifar(folder, "cifar10", label=10)
    as_published(monkeypatch, folder, "cifar10")
    with pytest.raises(BadInputError, match=r"has the label 10; allowed: 0 \.\.\. 9"):
        load(Data(name="cifar10"), cache)
    archive = folder / "cifar-10-binary.tar.gz"
    archive.write_bytes(archive.read_bytes()[:5000])
    as_published(monkeypatch, folder, "cifar10")
    with pytest.raises(BadInputError, match="cannot be read"):
        load(Data(name="cifar10"), cache)


def test_a_missing_archive_is_named(cache: Path) -> None:
    with pytest.raises(BadInputError, match=r"put cifar-100-binary\.tar\.gz into one of them"):
        find(Data(name="cifar100"))


# Splits and scaling.


def test_digits_are_split_by_fractions_and_seed(cache: Path) -> None:
    one = load(Data(test_fraction=0.1), cache)
    assert [len(part) for part in (one.train_y, one.val_y, one.test_y)] == [1258, 359, 180]
    assert (one.classes, one.image_shape, one.train_x.shape[1]) == (10, (1, 8, 8), 64)
    assert (one.train_x.dtype, one.train_y.dtype) == (torch.float32, torch.int64)
    other = load(Data(test_fraction=0.1, split_seed=1), cache)
    assert one.digest != other.digest
    assert not torch.equal(one.val_y, other.val_y)


def test_no_example_is_lost_or_in_two_parts(cache: Path) -> None:
    data = load(Data(test_fraction=0.25, standardize=False), cache)
    rows = torch.cat([data.train_x, data.val_x, data.test_x])
    from sklearn.datasets import load_digits

    expected = torch.from_numpy(load_digits().data / 16).float()
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, expected.tolist()))


def test_images_are_scaled_by_one_mean_and_deviation_of_the_training_part(cache: Path) -> None:
    raw, scaled = load(Data(standardize=False), cache), load(Data(), cache)
    assert raw.train_x.min() == 0
    assert raw.train_x.max() == 1
    mean, deviation = raw.train_x.double().mean(), raw.train_x.double().std(correction=0)
    torch.testing.assert_close(scaled.val_x, ((raw.val_x - mean) / deviation).float())


def test_the_limit_keeps_the_first_of_the_training_part_alone(cache: Path) -> None:
    whole, some = load(Data(standardize=False), cache), load(Data(standardize=False, limit=100), cache)
    assert torch.equal(some.train_x, whole.train_x[:100])
    assert torch.equal(some.val_x, whole.val_x)
    assert len(load(Data(limit=10**6), cache).train_x) == len(whole.train_x)


def test_idx_datasets_keep_their_own_test_part(tmp_path: Path, cache: Path) -> None:
    write_mnist(cache / "mnist")
    data = load(Data(name="mnist", val_fraction=0.1), cache)
    assert [len(part) for part in (data.train_y, data.val_y, data.test_y)] == [45, 5, TEST]
    assert data.test_y.tolist() == [label % 10 for label in range(TEST)]
    assert data.image_shape == (1, 28, 28)
    assert data.train_x.shape == (45, 784)


def test_a_split_without_validation_is_refused(cache: Path) -> None:
    with pytest.raises(BadInputError, match=r"data\.val_fraction: 0\.0001 of 1797 examples leaves 0 for validation"):
        load(Data(val_fraction=1e-4), cache)


@pytest.mark.parametrize(
    ("name", "rows", "features", "classes"),
    [("breast_cancer", 569, 30, 2), ("wine", 178, 13, 3), ("iris", 150, 4, 3), ("diabetes", 442, 10, 0)],
)
def test_scikit_learn_s_tables(cache: Path, name: str, rows: int, features: int, classes: int) -> None:
    data = load(Data(name=name, standardize=False), cache)
    assert find(Data(name=name)) == "inside scikit-learn"
    assert (len(data.train_y) + len(data.val_y), data.train_x.shape[1], data.classes) == (rows, features, classes)
    assert data.image_shape is None
    assert data.train_y.dtype == (torch.int64 if classes else torch.float32)
    if classes:
        assert set(data.train_y.tolist()) == set(range(classes))


# What is shared.


def test_the_same_data_is_the_same_object_and_another_process_maps_the_same_file(cache: Path) -> None:
    first = load(Data(), cache)
    assert load(Data(), cache) is first
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        digests = pool.map(_digest, [cache] * 4)
    assert set(digests) == {first.digest}
    assert len(list((cache / "prepared").glob("*/meta.json"))) == 1
    assert not list((cache / "prepared").glob(".*"))


def _digest(cache: Path) -> str:
    return load(Data(), cache).digest


def test_a_stray_write_changes_no_file(cache: Path) -> None:
    data = load(Data(), cache)
    (file,) = (cache / "prepared").glob("*/train_x.npy")
    before = file.read_bytes()
    data.train_x.add_(1)
    assert file.read_bytes() == before


@pytest.mark.filterwarnings("error")
def test_nothing_warns(cache: Path) -> None:
    data = load(Data(), cache)
    assert len(data.test_y) == 0
    assert data.to("cpu") is data


def test_a_damaged_prepared_folder_is_refused(cache: Path) -> None:
    from swathe.training import data as module

    load(Data(), cache)
    module._opened.cache_clear()
    (file,) = (cache / "prepared").glob("*/val_x.npy")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(BadInputError, match=r"is damaged .*; remove it"):
        load(Data(), cache)


def test_a_cache_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInputError, match="cannot be written"):
        load(Data(), tmp_path / "file/cache")


# Tables.

TABLE = "size,colour,flag,kind\n" + "".join(
    f"{row},{'red' if row % 3 else 'blue'},{row % 2 == 0},k{row % 2}\n" for row in range(20)
)


def table(path: Path, text: str = TABLE, **options: Any) -> CSV:
    path.write_text(text)
    return CSV(path=str(path), **{"target": "kind", "standardize": False, **options})


def test_a_table_has_a_column_for_each_category(tmp_path: Path, cache: Path) -> None:
    data = load(table(tmp_path / "t.csv"), cache)
    assert data.train_x.shape == (16, 4)
    assert (data.classes, data.image_shape) == (2, None)
    for (size, blue, red, flag), label in zip(data.train_x.tolist(), data.train_y.tolist(), strict=True):
        assert (blue, red) == ((0, 1) if size % 3 else (1, 0))
        assert flag == (size % 2 == 0)
        assert label == size % 2


def test_a_regression_keeps_its_unit_and_tables_are_scaled_by_column(tmp_path: Path, cache: Path) -> None:
    data = load(table(tmp_path / "t.csv", target="size", task="regression", standardize=True), cache)
    assert data.classes == 0
    assert data.train_y.dtype == torch.float32
    assert set(data.train_y.tolist()) <= set(map(float, range(20)))
    torch.testing.assert_close(data.train_x.mean(0), torch.zeros(5), rtol=0, atol=1e-6)
    torch.testing.assert_close(data.train_x.std(0, correction=0), torch.ones(5))


def test_a_constant_column_is_not_divided(tmp_path: Path, cache: Path) -> None:
    text = "x,c,kind\n" + "".join(f"{row},0.1,{row % 2}\n" for row in range(10))
    data = load(table(tmp_path / "t.csv", text, standardize=True), cache)
    assert data.train_x[:, 1].abs().max() < 1e-6


def test_a_changed_file_is_prepared_anew_and_a_moved_one_has_the_same_digest(tmp_path: Path, cache: Path) -> None:
    first = load(table(tmp_path / "a.csv"), cache)
    moved = load(table(tmp_path / "b.csv"), cache)
    changed = load(table(tmp_path / "a.csv", TABLE.replace("19,red", "190,red")), cache)
    assert first.digest == moved.digest
    assert first.digest != changed.digest


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("", {}, "cannot be read as CSV"),
        ("x,kind\n1,2,3\n4,5,6\n", {}, "more fields than its header"),
        ("x,kind\n1,2\n1,2,3,4\n", {}, "cannot be read as CSV"),
        (TABLE, {"target": "sort"}, "data.target: 'sort' is not allowed; allowed: a column of"),
        ("kind\na\nb\n", {}, "no column besides the target"),
        (TABLE.replace("\n7,red", "\n,red"), {}, "column 'size' has no value in row 8"),
        (TABLE.replace("\n7,red", "\n7,"), {}, "column 'colour' has no value in row 8"),
        (TABLE.replace("\n7,red", "\ninf,red"), {}, "column 'size' has an infinite value in row 8"),
        (TABLE, {"task": "regression"}, "data.task: 'regression' is not allowed; allowed: classification"),
        ("x,kind\n1,0.5\n2,1.5\n", {}, "data.task: 'classification' is not allowed; allowed: regression"),
        ("x,kind\n1,a\n2,a\n", {}, "at least two different values"),
        ("key,kind\n" + "".join(f"k{row},{row % 2}\n" for row in range(1001)), {}, "has 1001 different values"),
    ],
)
def test_a_bad_table_is_refused(tmp_path: Path, cache: Path, text: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInputError) as refused:
        load(table(tmp_path / "t.csv", text, **options), cache)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_parquet_file_is_the_table_that_its_csv_file_is(tmp_path: Path, cache: Path) -> None:
    import pandas as pd

    as_csv = load(table(tmp_path / "t.csv"), cache)
    pd.read_csv(tmp_path / "t.csv").to_parquet(tmp_path / "t.parquet")
    as_parquet = load(CSV(path=str(tmp_path / "t.parquet"), target="kind", standardize=False), cache)
    assert as_parquet.digest == as_csv.digest


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(BadInputError, match="cannot be read as Parquet"):
        load(table(tmp_path / "t.parquet"), cache)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"x,kind\n\xff\xfe,1\n")
    with pytest.raises(BadInputError, match="cannot be read as CSV"):
        load(CSV(path=str(path), target="kind"), cache)
