"""Whatever lies in a folder, table or archive: every file is taken or counted, or one line says which cannot be read."""

import os
import random
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hostile_samples import hostile_archive, hostile_folder, hostile_table
from support import image, training_images

from isoform.runtime.errors import IsoformError
from isoform.runtime.samples.account import Account
from isoform.runtime.samples.labelled import read_labelled
from isoform.runtime.samples.named_images import read_images
from isoform.runtime.samples.unlabelled import read_stream

pytestmark = pytest.mark.trust
SHAPE, SENSOR = (1, 4, 4), (2, 1, 2)


def accounts(folder) -> list[tuple[int, Account]]:
    """Samples and account of every reader of a folder of images."""
    trained, predicted = Account(), Account()
    halves = training_images(folder, shape=SHAPE, account=trained)
    x = np.concatenate([x for x, _ in read_images([folder], shape=SHAPE, account=predicted, chunk=3)])
    labelled, stream = read_labelled(folder, takes=image(SHAPE)), read_stream(folder, takes=image(SHAPE))
    return [
        (len(halves.train.labels), trained),
        (len(x), predicted),
        (len(labelled.x), labelled.account),
        (len(stream.x), stream.account),
    ]


@pytest.mark.parametrize("seed", range(12))
def test_taken_and_left_out_are_all_files(seed, tmp_path) -> None:
    """In any mixture of images and odd files, what is taken and what is left out are together what is there."""
    there = hostile_folder(tmp_path, random.Random(seed), bad=False)
    for samples, account in accounts(tmp_path):
        assert samples == account.files
        assert account.files + account.left.total() == there
        assert account.sentence().isprintable()


def attempt(read, *words, **options) -> bool:
    """Whether a reader reads; anything but samples, or an error of one line, is a failure."""
    try:
        found = read(*words, **options)
    except IsoformError as problem:
        message = str(problem)
        assert message.isprintable(), message
        assert len(message) < 1500
        return False
    assert len(found.x) == len(found.labels or found.x) > 0
    return True


def test_damaged_folders_are_refused_in_one_line(tmp_path) -> None:
    """With damaged images among the others, a reader reads all or says which it cannot, and nothing else."""
    read = 0
    for seed in range(30):
        folder = tmp_path / str(seed)
        hostile_folder(folder, random.Random(seed), bad=True)
        outcomes = {attempt(reader, folder, takes=image(SHAPE)) for reader in (read_labelled, read_stream)}
        assert len(outcomes) == 1
        read += outcomes == {True}
    assert 0 < read < 30


@pytest.mark.parametrize(
    ("make", "ending"), [(hostile_table, "csv"), (lambda rng: hostile_archive(rng, SENSOR), "npz")]
)
def test_odd_tables_and_archives(make, ending, tmp_path) -> None:
    """Of 400 odd files of a kind some are read, the others are refused in one line; alone, and in a folder of a class."""
    read = 0
    for seed in range(400):
        path = tmp_path / "a" / f"x.{ending}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(make(random.Random(seed)))
        read += attempt(read_stream, path, takes=image(SENSOR))
        attempt(read_labelled, path, takes=image(SENSOR))
        attempt(read_labelled, tmp_path, takes=image(SENSOR))
    assert 10 < read < 390


@pytest.mark.skipif(os.name != "posix", reason="permissions are of POSIX systems")
def test_what_may_not_be_read_is_named() -> None:
    """A file or folder without permission is one line that names it, not a class less; for a user who is not root."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        hostile_folder(root, random.Random(0), bad=False)
        place = next(path for path in root.iterdir() if (path / "a.png").exists())
        os.chmod(root, 0o755)
        for path in (place / "a.png", place):
            mode = path.stat().st_mode
            path.chmod(0)
            if os.geteuid() == 0:
                os.seteuid(65534)
            try:
                with pytest.raises(IsoformError, match=rf"{path.name}.* cannot be read: Permission denied"):
                    read_labelled(root, takes=image(SHAPE))
            finally:
                if os.getuid() == 0:
                    os.seteuid(0)
            path.chmod(mode)
