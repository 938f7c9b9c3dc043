"""Where datasets are: looked for in the data folder and in the system's packages, else downloaded and checksummed."""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from swathe.errors import BadInputError
from swathe.home import open_home, write_aside
from swathe.training.recipe import CSV, SKLEARN_TABLES, Data, Series, Text
from swathe.training.text import stdlib_folder

SYSTEM_DATASETS = Path("/usr/share/datasets")
INSIDE_SKLEARN = "inside scikit-learn"
# Seconds without a byte after which a download has failed.
TIMEOUT = 30.0
# Whether this process may download.
_downloads = True


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a dataset is published, and what its files must be.

    `md5` is of the published gzip files, by name without `.gz`; `sha256` of the uncompressed ones, where known.
    """

    url: str
    md5: Mapping[str, str]
    sha256: Mapping[str, str]
    package: str | None = None


# The two parts of a dataset of IDX files, each as images and labels.
IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}

ORIGINS = {
    "fashion_mnist": Origin(
        url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        md5={
            "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
        },
        # The Debian package holds the published files, compressed without the name and so with another MD5.
        sha256={
            "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
        package="dataset-fashion-mnist",
    ),
    "mnist": Origin(
        url="https://ossci-datasets.s3.amazonaws.com/mnist/",
        md5={
            "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
        },
        sha256={},
    ),
    "cifar10": Origin(
        url="https://www.cs.toronto.edu/~kriz/",
        md5={"cifar-10-binary.tar": "c32a1d4ab5d03f1284b67883e8d87530"},
        sha256={},
    ),
    "cifar100": Origin(
        url="https://www.cs.toronto.edu/~kriz/",
        md5={"cifar-100-binary.tar": "03b5dce01913d631647c71ecec9e9cb8"},
        sha256={},
    ),
}


def find(data: Data) -> Path | str:
    """Say where a dataset is, without downloading: a folder, a file, or the words "inside scikit-learn".

    A `folder` that is given is the only one looked at, so that another copy never stands in for it; else
    `SWATHE_HOME` (or `.swathe`) and the system's dataset packages are. Raises `BadInputError` naming them.
    """
    if data.name == "digits" or data.name in SKLEARN_TABLES:
        return INSIDE_SKLEARN
    if data.name == "stdlib_text":
        return stdlib_folder()
    if isinstance(data, (CSV, Series, Text)):
        path = Path(data.folder or "", data.path).expanduser()
        what = "a file or a folder" if isinstance(data, Text) else "a CSV or Parquet file"
        if not (path.exists() if isinstance(data, Text) else path.is_file()):
            raise BadInputError(
                f"data.path: {data.path!r} is not allowed; allowed: {what}; none is at {path.absolute()}."
            )
        return path
    return _find_published(data, open_home().path / "data")


def never_download() -> None:
    """Let this process download nothing: `obtain` only finds from now on."""
    global _downloads
    _downloads = False


def obtainable(data: Data, cache: Path) -> bool:
    """Whether `obtain` may try to get a dataset: in a process that may not download, whether it is here already."""
    if _downloads or data.name not in ORIGINS or data.folder is not None:
        return True
    try:
        _find_published(data, cache)
    except BadInputError:
        return False
    return True


def obtain(data: Data, cache: Path) -> Path | str:
    """Find a dataset, or download it into `cache` when no folder was asked for; two processes download it once.

    Raises `BadInputError` when it can be had neither way.
    """
    if data.name not in ORIGINS:
        return find(data)
    try:
        return _find_published(data, cache)
    except BadInputError:
        if data.folder is not None or not _downloads:
            raise
    with locked(cache / f"{data.name}.lock"):
        try:
            return _find_published(data, cache)
        except BadInputError as missing:
            _download(data.name, cache / data.name, str(missing))
    return cache / data.name


def published_file(folder: Path, name: str) -> Path | None:
    """Return the file of that name, plain or gzipped; None when the folder has neither."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file's lock against other processes; raises `BadInputError` where the folder cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise BadInputError(
            f"{path.parent} cannot be written ({error.strerror}); datasets are prepared there."
        ) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _find_published(data: Data, cache: Path) -> Path:
    folders = [cache / data.name, SYSTEM_DATASETS / data.name.replace("_", "-")]
    if data.folder is not None:
        folders = [Path(data.folder).expanduser()]
    names = list(ORIGINS[data.name].md5)
    for folder in folders:
        if all(published_file(folder, name) for name in names):
            return folder
    looked = " and ".join(str(folder) for folder in folders)
    package = ORIGINS[data.name].package
    advice = f"install the Debian package {package}, or " if package else ""
    raise BadInputError(
        f"data.name: {data.name!r} was looked for in {looked} and is not there; "
        f"{advice}put {', '.join(f'{name}.gz' for name in names)} into one of them."
    )


def _download(name: str, folder: Path, missing: str) -> None:
    origin = ORIGINS[name]
    for file, md5 in origin.md5.items():
        url = f"{origin.url}{file}.gz"
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
                content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise BadInputError(f"{missing.rstrip('.')}; downloading {url} failed: {error}.") from error
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
            raise BadInputError(f"{url} gave {len(content)} bytes with another MD5 than the published file's, {md5}.")
        try:
            write_aside(folder / f"{file}.gz", content)
        except OSError as error:
            raise BadInputError(
                f"{folder} cannot be written ({error.strerror}); {name} was to be kept there."
            ) from error
