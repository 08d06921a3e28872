"""The page over a network of sounds: WAV files and Chromium's fake microphone become the log-mel spectrograms of training."""

import struct
import wave

import numpy as np
import pytest
from browser import FAKE_DEVICES, WATCHED_DEVICES, until, visiting
from given import asking, check_answers, check_tour, given, teach_and_undo
from playwright.sync_api import expect

from isoform.runtime.inputs import Reading, Sound
from isoform.runtime.samples.recordings.windows import windows
from isoform.runtime.samples.sounds.clips import filled
from isoform.runtime.samples.sounds.spectrogram import log_mel

pytestmark = pytest.mark.xdist_group("page")
SOUND = Sound(rate=8000, window=200, hop=80, bands=16, low=60)
SHAPE = (1, 16, 48)
TONE = 1200
"""Hz, of what the fake microphone hears."""


def tone(seconds: float, rate: int, *, hertz: float = TONE, seed: int = 0) -> np.ndarray:
    """A tone in a little noise, 16-bit whole numbers."""
    t = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).normal(0, 0.01, len(t))
    return np.round(32767 * (0.4 * np.sin(2 * np.pi * hertz * t) + noise)).astype("<i2")


def save(path, samples, rate):
    """Write a WAV file of 16 bits; samples have shape (n,) or (n, channels)."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return path


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """A microphone that hears a tone."""
    heard = save(tmp_path_factory.mktemp("heard") / "tone.wav", tone(4, 48000), 48000)
    return (*FAKE_DEVICES, f"--use-file-for-fake-audio-capture={heard}")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server of a network of spectrograms, in overlapping windows."""
    reading = Reading(sound=SOUND, stride=24)
    with given(tmp_path_factory.mktemp("sounds"), SHAPE, (4, 4), reading, mean=-6.0, std=3.0) as served:
        yield served


def test_windows_of_a_long_sound(browser, served, tmp_path) -> None:
    """A WAV file of the network's rate becomes the runtime's own spectrogram, in its windows; they are answered, taught, and undone."""
    samples = np.concatenate([tone(0.4, 8000, hertz=300), tone(0.7, 8000, hertz=3000)])
    whole = log_mel(samples / 32768, SOUND).T
    wanted = windows(whole, 48, 24)[0][:, None]
    with visiting(browser, served.url) as page:
        asked = asking(page)
        expect(page.locator("#draw-title")).to_have_text("Give it sounds")
        page.locator("#files").set_input_files(save(tmp_path / "long.wav", samples, 8000))
        x = check_answers(page, served, asked, len(wanted))
        assert np.allclose(x, wanted, atol=1e-4)
        chart = page.get_by_role("img", name=f"long.wav: {len(whole)} frames, {len(wanted)} windows")
        expect(chart).to_be_visible()
        check_tour(page, served, x[:1])
        teach_and_undo(page, served, x, "alice", many="sounds")


def test_a_short_sound_in_stereo(browser, served, tmp_path) -> None:
    """The mean of two channels, with silence on both sides, the odd zero at the end."""
    left, right = tone(0.2, 8000), tone(0.2, 8000, hertz=300, seed=1)
    mono = (left / 32768 + right / 32768)[:-1] / 2
    with visiting(browser, served.url) as page:
        asked = asking(page)
        page.locator("#files").set_input_files(save(tmp_path / "short.wav", np.stack([left, right], 1)[:-1], 8000))
        x = check_answers(page, served, asked, 1)
        assert np.allclose(x[0, 0], log_mel(filled(mono, SOUND.samples(48)), SOUND), atol=1e-4)
        expect(page.locator("#tray .about")).to_contain_text("silence was added on both sides")


def test_a_sound_of_another_rate(browser, served, tmp_path) -> None:
    """A WAV file of 44,100 Hz is resampled: its tone is in the same bands as that of a file of the network's rate."""
    with visiting(browser, served.url) as page:
        asked = asking(page)
        page.locator("#files").set_input_files(save(tmp_path / "cd.wav", tone(0.495, 44100), 44100))
        x = check_answers(page, served, asked, 1)
        wanted = log_mel(tone(0.495, 8000) / 32768, SOUND)[:, :48]
        loud = wanted.max(axis=1) > 0
        assert 1 <= loud.sum() <= 4
        assert np.abs(x[0, 0] - wanted)[loud].max() < 0.3


def test_the_microphone(browser, served) -> None:
    """What the microphone hears for a second is a sample: its tone is the loudest band; the recording can be ended early."""
    with visiting(browser, served.url, permissions=["microphone"]) as page:
        asked = asking(page)
        expect(page.get_by_label("Seconds")).to_have_value("1")
        page.get_by_role("button", name="Record").click()
        expect(page.get_by_role("button", name="That is enough")).to_be_visible()
        expect(page.locator(".samples .said small")).to_have_count(3)
        expect(page.get_by_role("button", name="Record")).to_be_focused()
        x = check_answers(page, served, asked, 3)
        wanted = log_mel(tone(1, 8000) / 32768, SOUND).mean(axis=1).argmax()
        assert abs(int(x[0, 0].mean(axis=1).argmax()) - int(wanted)) <= 1
        page.get_by_label("Seconds").fill("60")
        page.get_by_role("button", name="Record").click()
        expect(page.locator("progress.recording")).to_have_js_property("hidden", False)
        page.get_by_label("Seconds").focus()
        expect(page.locator("progress.recording")).not_to_have_attribute("value", "0")
        page.get_by_role("button", name="That is enough").click()
        expect(page.locator(".samples .called").last).to_contain_text("recording 2")
        expect(page.get_by_role("button", name="Record")).to_be_focused()
        for seconds in ("0", "0.9", "60.5", ""):
            page.get_by_label("Seconds").fill(seconds)
            page.get_by_role("button", name="Record").click()
            expect(page.locator("#problem")).to_have_text(
                "a recording lasts 1 to 60 seconds; type a number from 1 to 60"
            )
            page.evaluate("document.querySelector('#problem').textContent = ''")


WATCHED_CONTEXTS = """() => {
    const Context = window.AudioContext;
    window.contexts = [];
    window.AudioContext = class extends Context {
        constructor() {
            if (window.refuses) throw new DOMException('too many of them', 'NotSupportedError');
            window.contexts.push(super());
            if (window.silent) this.resume = () => new Promise(() => {});
        }
    };
}"""
"""Notes every AudioContext; while ``refuses`` is set, there is none, and while ``silent`` is, none begins."""
RELEASED = (
    "tracks.length === 1 && tracks[0].readyState === 'ended' && contexts.every((each) => each.state === 'closed')"
)


@pytest.mark.parametrize("when", ["asks", "silent"])
def test_a_recording_that_is_ended_before_it_begins(browser, served, when) -> None:
    """Whether the browser still asks or the sound is not on yet: nothing is recorded, the microphone is released, and nothing is wrong."""
    with visiting(browser, served.url, permissions=["microphone"]) as page:
        page.evaluate(WATCHED_DEVICES)
        page.evaluate(WATCHED_CONTEXTS)
        page.evaluate("(name) => { window[name] = true; }", when)
        page.get_by_role("button", name="Record").click()
        until(page, "window.allow !== undefined" if when == "asks" else "contexts.length === 1")
        page.get_by_role("button", name="That is enough").click()
        if when == "asks":
            page.evaluate("allow()")
        until(page, RELEASED)
        expect(page.get_by_role("button", name="Record")).to_be_focused()
        expect(page.locator("#problem")).to_be_hidden()
        expect(page.locator("#tray")).to_be_hidden()
        assert page.evaluate("contexts.length") == (0 if when == "asks" else 1)


def test_a_browser_that_cannot_record(browser, served) -> None:
    """It is said why, and the microphone is released."""
    with visiting(browser, served.url, permissions=["microphone"]) as page:
        page.evaluate(WATCHED_DEVICES)
        page.evaluate(WATCHED_CONTEXTS)
        page.evaluate("window.refuses = true")
        page.get_by_role("button", name="Record").click()
        expect(page.locator("#problem")).to_have_text("this browser cannot record: too many of them")
        until(page, RELEASED)
        expect(page.get_by_role("button", name="Record")).to_be_visible()


def test_a_file_that_is_no_sound(browser, served, tmp_path) -> None:
    """It is named in a line."""
    (tmp_path / "words.wav").write_text("no sound")
    with visiting(browser, served.url) as page:
        page.locator("#files").set_input_files(tmp_path / "words.wav")
        expect(page.locator("#problem")).to_have_text(
            "words.wav is not a sound that this browser can read; convert it to WAV"
        )


def test_spectrograms_of_other_sizes(browser, served) -> None:
    """Windows that are powers of two and others, bands narrower than a frequency, and a highest frequency below half the rate."""
    samples = tone(0.3, 16000, hertz=2500).astype(np.float32) / np.float32(32768)
    script = """async ([samples, sound]) => {
        const { logMel } = await import('/page/samples/spectrogram.js');
        return logMel(Float32Array.from(samples), sound).map((band) => [...band]);
    }"""
    with visiting(browser, served.url) as page:
        for sound in (
            Sound(rate=16000, window=512, hop=512, bands=40), Sound(rate=16000, window=400, hop=160, bands=128, low=0.0),
            Sound(rate=16000, window=401, hop=7, bands=2, low=100.0, high=3000.0), Sound(rate=16000, window=16, hop=16, bands=12),
        ):  # fmt: skip
            fields = {"rate": sound.rate, "window": sound.window, "hop": sound.hop, "bands": sound.bands, "low": sound.low, "high": sound.high}  # fmt: skip
            found = np.array(page.evaluate(script, [samples.tolist(), fields]))
            assert found.shape == (sound.bands, sound.frames(len(samples)))
            assert np.allclose(found, log_mel(samples, sound), atol=1e-4)


def test_wav_of_other_encodings(browser, served) -> None:
    """8, 24 and 32 bits, floating point and the extensible form are read exactly, a file that is cut short as far as it goes; no other is."""
    samples = np.array([-1, -0.5, 0, 0.25, 0.75], dtype=np.float32)
    whole = {
        8: (samples * 128 + 128).astype("u1"),
        24: (samples * 2**23).astype("<i4"),
        32: (samples * 2.0**31).astype("<i4"),
    }
    data = {
        (1, 8): whole[8].tobytes(), (1, 24): b"".join(n.tobytes()[:3] for n in whole[24]), (1, 32): whole[32].tobytes(),
        (3, 32): samples.astype("<f4").tobytes(), (3, 64): samples.astype("<f8").tobytes(),
    }  # fmt: skip
    script = """async (files) => {
        const { read, written } = await import('/page/devices/wave.js');
        const found = files.map((bytes) => read(Uint8Array.from(bytes).buffer));
        const again = read(written(found[0].samples, 12345));
        return [...found, again].map((each) => each && { rate: each.rate, samples: [...each.samples] });
    }"""
    files = [riff(code, bits, body) for (code, bits), body in data.items()]
    files += [riff(0xFFFE, 24, data[1, 24]), riff(2, 4, bytes(8)), riff(3, 32, data[3, 32])[:-8], b"RIFF"]
    with visiting(browser, served.url) as page:
        *found, other, cut, none, again = page.evaluate(script, [list(file) for file in files])
    assert len(found) == 6
    for each in found:
        assert each == {"rate": 8000, "samples": samples.tolist()}
    assert (other, none) == (None, None)
    assert cut["samples"] == samples[:3].tolist()
    assert again == {"rate": 12345, "samples": samples.tolist()}


def riff(code, bits, body):
    """A WAV file of one channel, with a chunk of odd length before its data."""
    form = struct.pack("<HHIIHH", code, 1, 8000, 8000 * bits // 8, bits // 8, bits)
    if code == 0xFFFE:
        form += struct.pack("<HHIH", 22, bits, 4, 1) + b"\x00\x00\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71"
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"note" + struct.pack("<I", 3) + b"abc\0"
    chunks += b"data" + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks
