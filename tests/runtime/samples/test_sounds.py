"""Sounds: their spectrograms beside the formula, and how files become samples."""

import math
import os
import wave
from pathlib import Path

import numpy as np
import pytest

from isoform.runtime.errors import InputError, SpecError
from isoform.runtime.inputs import Input, Reading, Sound
from isoform.runtime.samples.account import Account
from isoform.runtime.samples.labelled import read_labelled
from isoform.runtime.samples.sounds.files import load_sound
from isoform.runtime.samples.sounds.spectrogram import FLOOR, log_mel
from isoform.runtime.samples.unlabelled import read_stream

SOUND = Sound(rate=4000, window=100, hop=40, bands=6, low=50.0)
FRAMES = 12
TAKES = Input(what="image", shape=(1, SOUND.bands, FRAMES))
LONG = SOUND.samples(FRAMES)


def tone(samples: int, hertz: float, *, rate: int = SOUND.rate) -> np.ndarray:
    """A sine at half of the full scale."""
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(samples) / rate)


def write(path: Path, samples: np.ndarray, *, rate: int = SOUND.rate) -> Path:
    """Write 16-bit PCM, shape (n,) or (n, channels), by the standard library."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.round(samples * 32767).astype("<i2").tobytes())
    return path


def by_hand(samples: np.ndarray, sound: Sound) -> np.ndarray:
    """The spectrogram by the formula, number by number."""
    size = 2 ** math.ceil(math.log2(sound.window))
    mels = [2595 * math.log10(1 + f / 700) for f in (sound.low, sound.high or sound.rate / 2)]
    steps = [mels[0] + (mels[1] - mels[0]) * i / (sound.bands + 1) for i in range(sound.bands + 2)]
    points = [700 * (10 ** (mel / 2595) - 1) for mel in steps]
    found = np.empty((sound.bands, 1 + (len(samples) - sound.window) // sound.hop))
    for t in range(found.shape[1]):
        frame = samples[t * sound.hop : t * sound.hop + sound.window]
        hann = [0.5 - 0.5 * math.cos(2 * math.pi * n / sound.window) for n in range(sound.window)]
        power = []
        for k in range(size // 2 + 1):
            turns = np.exp(-2j * np.pi * k * np.arange(sound.window) / size)
            power.append(abs(np.sum(frame * hann * turns)) ** 2)
        for b in range(sound.bands):
            low, centre, high = points[b : b + 3]
            total = 0.0
            for k, value in enumerate(power):
                f = k * sound.rate / size
                total += value * max(0.0, min((f - low) / (centre - low), (high - f) / (high - centre)))
            found[b, t] = math.log(max(FLOOR, total))
    return found


@pytest.mark.parametrize("sound", [SOUND, Sound(rate=8000, window=128, hop=128, bands=10, low=0.0, high=3000.0)])
def test_the_spectrogram_is_that_of_the_formula(sound) -> None:
    """Frames, window, transform, filters and logarithm agree with the formula, written out, to 1e-5."""
    samples = np.random.default_rng(0).normal(0, 0.2, 700) + tone(700, 440, rate=sound.rate)
    found = log_mel(samples.astype(np.float32), sound)
    assert found.shape == (sound.bands, sound.frames(700))
    np.testing.assert_allclose(found, by_hand(samples.astype(np.float32), sound), atol=1e-5)


def test_a_long_sound_is_transformed_in_blocks(monkeypatch) -> None:
    """Blocks of frames give what one block gives; a sound shorter than a frame has none, and silence the floor."""
    samples = np.random.default_rng(1).normal(0, 0.2, 2000).astype(np.float32)
    whole = log_mel(samples, SOUND)
    monkeypatch.setattr("isoform.runtime.samples.sounds.spectrogram.BLOCK", 7)
    np.testing.assert_allclose(log_mel(samples, SOUND), whole, atol=1e-6)
    assert log_mel(samples[:99], SOUND).shape == (6, 0)
    assert (log_mel(np.zeros(200, np.float32), SOUND) == np.float32(math.log(FLOOR))).all()


def test_files_become_samples(tmp_path) -> None:
    """A sound of a window's length is one sample, a longer one is cut, a shorter one gets silence on both sides; all is told."""
    exact, noise = tone(LONG, 300), np.random.default_rng(2).normal(0, 0.1, 3 * LONG)
    write(tmp_path / "low" / "1.wav", exact)
    write(tmp_path / "low" / "2.wav", exact[: LONG - 31])
    write(tmp_path / "high" / "1.wav", noise)
    (tmp_path / "high" / "notes.txt").write_text("no sound")
    found = read_labelled(tmp_path, takes=TAKES, reading=Reading(sound=SOUND))
    cut = SOUND.frames(3 * LONG) // FRAMES
    assert found.labels == ("high",) * cut + ("low",) * 2
    assert found.account.sentence() == (
        f"{cut + 2} windows of 3 sounds in 2 classes; left out: 1 file that is no sound (.txt), "
        f"{SOUND.frames(3 * LONG) - cut * FRAMES} frames at the ends of sounds; shorter than a window: silence is added on both sides"
    )
    stored = np.round(exact * 32767) / 32768
    np.testing.assert_allclose(found.x[-2, 0], by_hand(stored, SOUND), atol=1e-4)
    short = np.concatenate([np.zeros(15), stored[: LONG - 31], np.zeros(16)])
    np.testing.assert_allclose(found.x[-1, 0], by_hand(short, SOUND), atol=1e-4)
    assert found.groups == (str(tmp_path / "high" / "1.wav"),) * cut + tuple(
        str(tmp_path / "low" / f"{n}.wav") for n in (1, 2)
    )
    assert found.unit == "recording"


def test_windows_of_sounds_and_recordings_may_overlap(tmp_path) -> None:
    """With a stride, windows begin so many frames, or rows, after each other; every one is that part of the whole."""
    path = write(tmp_path / "long.wav", np.random.default_rng(3).normal(0, 0.1, SOUND.samples(40)))
    whole = read_stream(path, takes=Input(what="image", shape=(1, 6, 40)), reading=Reading(sound=SOUND)).x[0, 0]
    found = read_stream(path, takes=TAKES, reading=Reading(sound=SOUND, stride=5))
    assert len(found.x) == 6
    assert found.account.left == {"frame at the end of a sound": 3}
    np.testing.assert_array_equal(found.x[4, 0], whole[:, 20:32])
    rows = np.arange(20.0).reshape(10, 2)
    (tmp_path / "r.csv").write_text("a,b\n" + "\n".join(f"{a},{b}" for a, b in rows))
    cut = read_stream(tmp_path / "r.csv", takes=Input(what="image", shape=(2, 1, 4)), reading=Reading(stride=3))
    np.testing.assert_array_equal(cut.x[:, :, 0], [rows[start : start + 4].T for start in (0, 3, 6)])
    assert not cut.account.left


def test_groups_of_sounds(tmp_path) -> None:
    """Files of one sample each are no groups; subfolders, and a table's column, name them."""
    for label in ("no", "yes"):
        for person in ("ann", "bob"):
            write(tmp_path / "plain" / label / f"{person}.wav", tone(LONG, 300))
            write(tmp_path / "people" / label / person / "1.wav", tone(LONG, 300))
    reading = Reading(sound=SOUND)
    assert read_labelled(tmp_path / "plain", takes=TAKES, reading=reading).groups is None
    found = read_labelled(tmp_path / "people", takes=TAKES, reading=reading)
    assert found.groups == ("ann", "bob") * 2
    (tmp_path / "t.csv").write_text("file,label,group\nplain/no/ann.wav,no,a\nplain/yes/bob.wav,yes,b\n")
    table = read_labelled(tmp_path / "t.csv", takes=TAKES, reading=reading)
    assert (table.labels, table.groups, table.account.files) == (("no", "yes"), ("a", "b"), 2)


def test_other_rates_and_channels(tmp_path) -> None:
    """A sound of another rate is resampled, and of several channels the mean is taken; both are said."""
    both = np.stack([tone(8000, 300, rate=8000), np.zeros(8000)], axis=1)
    account = Account()
    found = load_sound(write(tmp_path / "a.wav", both, rate=8000), rate=4000, account=account)
    assert (
        account.sentence()
        == "nothing; several channels: their mean is taken; sounds of 8,000 Hz: resampled to 4,000 Hz"
    )
    assert len(found) == 4000
    np.testing.assert_allclose(found[200:-200], tone(4000, 300)[200:-200] / 2, atol=2e-3)


def test_what_is_no_sound_is_refused(tmp_path, monkeypatch) -> None:
    """Damaged, empty, too long and not finite: each is one line with the file and what to do."""
    import soundfile

    (tmp_path / "a.wav").write_bytes(b"RIFF no sound at all")
    write(tmp_path / "b.wav", np.zeros(0))
    soundfile.write(tmp_path / "c.wav", np.array([0.0, np.nan] * 400), 4000, subtype="FLOAT")
    write(tmp_path / "d.wav", np.zeros(9000))
    monkeypatch.setenv("ISOFORM_MAX_DATA_BYTES", "30000")
    expected = {"a": r"a.wav cannot be read as a sound: .*; convert it to WAV$", "b": "b.wav holds no sound; remove it$",
                "c": "c.wav holds a sample that is not finite", "d": r"d.wav has 2 s of sound, 36,000 bytes, but at most 30,000"}  # fmt: skip
    for name, message in expected.items():
        with pytest.raises(InputError, match=message):
            read_stream(tmp_path / f"{name}.wav", takes=TAKES, reading=Reading(sound=SOUND))
    os.mkfifo(tmp_path / "f.wav")  # opening it would wait for ever
    for name, message in (
        ("e.wav", "e.wav does not exist"),
        ("f.wav", "it is not a regular file"),
        ("g\0.wav", "null"),
    ):
        with pytest.raises(InputError, match=message):
            load_sound(tmp_path / name, rate=4000, account=Account())
    (tmp_path / "t.csv").write_text("file,label\na.wav,no\n")
    with pytest.raises(InputError, match=r"t.csv, line 2: .*a.wav cannot be read"):
        read_labelled(tmp_path / "t.csv", takes=TAKES, reading=Reading(sound=SOUND))
    with pytest.raises(
        InputError, match="samples have 1 channels of 6 rows, but spectrograms of 7 bands have 1 channel of 7"
    ):
        read_labelled(tmp_path / "t.csv", takes=TAKES, reading=Reading(sound=Sound(bands=7)))


@pytest.mark.parametrize(
    ("field", "value"), [("rate", 10), ("window", 1.5), ("hop", 401), ("bands", True), ("low", 9000.0), ("high", "x")]
)
def test_a_sound_out_of_range_is_refused(field, value) -> None:
    """Every field of ``Sound`` is checked, also as it comes from a file."""
    with pytest.raises(SpecError, match="of a sound"):
        Sound.from_json({field: value})
    with pytest.raises(SpecError, match="was expected"):
        Reading.from_json({"sound": {"pitch": 3}})
    with pytest.raises(SpecError, match="stride of windows is 0"):
        Reading.from_json({"stride": 0})
    assert Reading.from_json(Reading(stride=3, sound=SOUND).to_json()) == Reading(stride=3, sound=SOUND)
