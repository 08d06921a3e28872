"""Download published data sets; every file is verified against its published checksum.

Nothing else in isoform needs the network. Files are downloaded under a temporary name, so an interrupted download leaves nothing behind.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from isoform.runtime.errors import DataError
from isoform.runtime.extras import needs

__all__ = ["SOURCES", "Source", "fetch"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """The place where a data set is published."""

    url: str
    """URL of the folder of the files, ending in a slash."""
    files: dict[str, str]
    """File name → checksum as ``algorithm:hex``."""
    format: str
    """Value of ``data`` in a recipe's task."""
    about: str


# Plain HTTP suffices for integrity: the checksums are here, and do not come with the files.
SOURCES = {
    "mnist": Source(
        url="https://ossci-datasets.s3.amazonaws.com/mnist/", format="idx", about="handwritten digits, 28×28, 60,000 + 10,000 (11 MiB)",
        files={
            "train-images-idx3-ubyte.gz": "sha256:440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "train-labels-idx1-ubyte.gz": "sha256:3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "t10k-images-idx3-ubyte.gz": "sha256:8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-labels-idx1-ubyte.gz": "sha256:f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
    ),
    "fashion-mnist": Source(
        url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/", format="idx", about="clothes, 28×28, 60,000 + 10,000 (29 MiB)",
        files={
            "train-images-idx3-ubyte.gz": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "md5:25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "md5:bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "md5:bb300cfdad3c16e7a12a480ee83cd310",
        },
    ),
    "kmnist": Source(
        url="http://codh.rois.ac.jp/kmnist/dataset/kmnist/", format="idx", about="Kuzushiji, 28×28, 60,000 + 10,000 (20 MiB), CC BY-SA 4.0",
        files={
            "train-images-idx3-ubyte.gz": "md5:bdb82020997e1d708af4cf47b453dcf7",
            "train-labels-idx1-ubyte.gz": "md5:e144d726b3acfaa3e44228e80efcd344",
            "t10k-images-idx3-ubyte.gz": "md5:5c965bf0a639b31b8f53240b1b52f4d7",
            "t10k-labels-idx1-ubyte.gz": "md5:7320c461ea6c1c855c0b718fb2a4b134",
        },
    ),
    "usps": Source(
        url="https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass/", format="usps", about="zip-code digits, 16×16, 7,291 + 2,007 (7 MiB)",
        files={"usps.bz2": "md5:ec16c51db3855ca6c91edd34d0e9b197", "usps.t.bz2": "md5:8ea070ee2aca1ac39742fdd1ef5ed118"},
    ),
}  # fmt: skip
"""Name → source. The checksums are the publishers', as torchvision and this project's own copies have them."""


def fetch(name: str, *, into: Path, mirror: str | None = None) -> list[Path]:
    """Download a data set, or verify the copy that is already there.

    Args:
        name: A key of ``SOURCES``.
        into: Parent of the data set's folder, which has its name.
        mirror: URL of another folder with the same files.

    Returns:
        The paths of the files.

    Raises:
        DataError: If the name is unknown, the server does not answer, or a checksum is wrong; a wrong file is not kept.
    """
    if name not in SOURCES:
        raise DataError(f"there is no data set {name!r}; available are {', '.join(SOURCES)}")
    with needs("a download", extra="train"):
        import pooch
        import requests

    source = SOURCES[name]
    # pooch also takes ftp, sftp and doi, whose errors would not be caught below.
    if mirror is not None and not mirror.startswith(("http://", "https://")):
        raise DataError(f"the mirror is {mirror!r}, but a URL that starts with http:// or https:// was expected")
    base = (mirror or source.url).rstrip("/") + "/"
    files = []
    for file, checksum in source.files.items():
        try:
            files.append(Path(pooch.retrieve(base + file, checksum, fname=file, path=into / name, progressbar=False)))
        except (requests.RequestException, OSError) as problem:
            raise DataError(
                f"{base}{file} cannot be downloaded: {type(problem).__name__}: {str(problem)[:200]}"
            ) from None
        except ValueError:  # pooch's error for a wrong checksum
            raise DataError(
                f"{base}{file} does not have its published checksum {checksum}; it was not kept, try another --mirror"
            ) from None
    return files
