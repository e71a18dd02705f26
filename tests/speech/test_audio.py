"""Sound is read by its content, and what would train on noise is refused."""

import os
import re

import numpy as np
import pytest
from corpora import encoded, noise, riff, speech, sphere

from speech.audio import read_audio
from speech.facts import FRAME_LENGTH_SAMPLES
from speech.files import BadFileError

SAMPLES = noise()
SPEECH = speech()[1]


def flac(samples, tmp_path, **options):
    return encoded(tmp_path / "encoded", samples, "FLAC", **options)


def rf64(samples, tmp_path):
    return encoded(tmp_path / "encoded", samples, "RF64")


def unknown_length(content):
    """A FLAC file as a pipe leaves it: its header says 0 samples."""
    content = bytearray(content)
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    return bytes(content)


def without(field, content):
    return content.replace(field.encode(), b"x" * len(field), 1)


READ = {  # what is read equal, named as anything
    "sphere": lambda s, tmp: sphere(s),
    "big-endian sphere": lambda s, tmp: sphere(s, byte_format="10"),
    "sphere without a count": lambda s, tmp: without("sample_count", sphere(s)),
    "sphere without a coding": lambda s, tmp: without("sample_coding", sphere(s)),
    "sphere in upper case": lambda s, tmp: re.sub(
        rb"\nsample_\w+|-s3 pcm", lambda m: m[0].upper().replace(b"-S", b"-s"), sphere(s)
    ),
    "sphere with decimals": lambda s, tmp: sphere(s, rate_hz="16000.0", channels="1."),
    "riff": lambda s, tmp: riff(s),
    "riff with a chunk behind": lambda s, tmp: riff(s, 2 * len(s)) + b"LIST\4\0\0\0abcd",
    "rf64": rf64,
    "flac": flac,
    "flac through a pipe": lambda s, tmp: unknown_length(flac(s, tmp)),
    **{
        f"riff that announces {size:#x}": lambda s, tmp, size=size: riff(s, size)
        for size in (0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFDB, 0xFFFFFFFF)
    },
}
NOTED = {
    "one sample less than announced": lambda s, tmp: sphere(s, len(s) + 1),
    "159 samples less than announced": lambda s, tmp: sphere(s, len(s) + 159),
    "50 samples more than announced": lambda s, tmp: sphere(s) + b"\1" * 100,
}


@pytest.mark.parametrize("name", [*READ, *NOTED])
def test_formats_agree(tmp_path, name):
    (tmp_path / "x.wav").write_bytes((READ | NOTED)[name](SPEECH, tmp_path))
    audio, notes = read_audio(tmp_path / "x.wav")
    assert audio.dtype == np.int16
    np.testing.assert_array_equal(audio, SPEECH)
    assert [note.kind for note in notes] == ["sample counts that are somewhat off"] * (
        name in NOTED
    )


def other_header(content, old, new):
    assert old in content
    return content.replace(old, new)


REFUSED = {  # name: (content, words of the message)
    "empty": (lambda tmp: b"", ("empty",)),
    "only zeros": (lambda tmp: bytes(5000), ("nothing but zero bytes",)),
    "web page": (lambda tmp: b"\r\n<!DOCTYPE html><html>", ("an HTML page, not sound",)),
    "other web page": (lambda tmp: b"<HTML lang=en>", ("an HTML page, not sound",)),
    "message": (lambda tmp: b"404: Not Found\n", ("a text ('404: Not Found'), not sound",)),
    "xml": (lambda tmp: b'<?xml version="1.0"?><Error>', ("an XML text",)),
    "json": (lambda tmp: b'{"message": "not found"}', ("a JSON text",)),
    "git lfs": (lambda tmp: b"version https://git-lfs.github.com/spec/v1\n", ("git lfs pull",)),
    "git-annex": (lambda tmp: b"/annex/objects/SHA256E-s5--a.wav\n", ("git annex get",)),
    "zip": (lambda tmp: b"PK\3\4" + bytes(50) + b"x", ("unzip",)),
    "gzip": (lambda tmp: b"\x1f\x8b\x08" + b"x" * 50, ("gunzip",)),
    "mp3": (lambda tmp: b"ID3\4" + bytes(50) + b"x", ("MP3", "`sox ")),
    "ogg": (lambda tmp: b"OggS" + bytes(50) + b"x", ("Ogg", "`sox ")),
    "aiff": (lambda tmp: encoded(tmp / "a", SPEECH, "AIFF"), ("AIFF", "`sox ")),
    "au": (lambda tmp: encoded(tmp / "a", SPEECH, "AU"), ("AU", "`sox ")),
    "bare samples": (lambda tmp: SPEECH.tobytes(), ("no header", "`sox -t raw ")),
    "8 kHz": (lambda tmp: riff(SPEECH, rate_hz=8000), ("8000 Hz", "16000 Hz", "`sox ")),
    "22.05 kHz sphere": (lambda tmp: sphere(SPEECH, rate_hz=22050), ("22050 Hz", "`sox ")),
    "44.1 kHz flac": (lambda tmp: flac(SPEECH, tmp, rate_hz=44100), ("44100 Hz", "`sox ")),
    "stereo": (lambda tmp: riff(SPEECH, channels=2), ("2 channels", "1 channel", "`sox ")),
    "stereo sphere": (lambda tmp: sphere(SPEECH, channels=2), ("2 channels",)),
    "8 bits": (lambda tmp: riff(SPEECH, bits=8), ("PCM_U8", "16-bit PCM")),
    "24 bits": (lambda tmp: flac(SPEECH, tmp, subtype="PCM_24"), ("PCM_24", "16-bit PCM")),
    "float": (lambda tmp: encoded(tmp / "a", SPEECH, "WAV", "FLOAT"), ("FLOAT", "`sox ")),
    "mu-law": (lambda tmp: encoded(tmp / "a", SPEECH, "WAV", "ULAW"), ("ULAW", "`sox ")),
    "mu-law sphere": (
        lambda tmp: sphere(SPEECH, coding="ulaw").replace(b"n_bytes -i 2", b"n_bytes -i 1"),
        ("8-bit ulaw", "`sox "),
    ),
    "shorten": (
        lambda tmp: sphere(SPEECH, coding="pcm,embedded-shorten-v2.00"),
        ("shorten", "w_decode -o pcm", "sph2pipe"),
    ),
    "8 kHz with decimals": (lambda tmp: sphere(SPEECH, rate_hz="8000.0"), ("8000 Hz", "`sox ")),
    "8 kHz in upper case": (
        lambda tmp: sphere(SPEECH, rate_hz=8000).replace(b"sample_rate", b"SAMPLE_RATE"),
        ("8000 Hz", "`sox "),
    ),
    "2.0 channels": (lambda tmp: sphere(SPEECH, channels="2.0"), ("2 channels", "`sox ")),
    "negative count": (lambda tmp: sphere(SPEECH, -5), ("sample_count is '-5'", "whole number")),
    "shorten without a field": (
        lambda tmp: without("sample_coding", sphere(SPEECH)[:1024] + b"ajkg\2" + b"x" * 500),
        ("by shorten", "w_decode -o pcm"),
    ),
    "shorten by name": (lambda tmp: sphere(SPEECH, coding="Shorten"), ("by shorten", "w_decode")),
    "bare shorten": (lambda tmp: b"ajkg\2" + b"x" * 500, ("shorten",)),
    "wavpack": (lambda tmp: sphere(SPEECH, coding="pcm,embedded-wavpack-v1.0"), ("wavpack",)),
    "converted line ends": (
        lambda tmp: sphere(SPEECH).replace(b"\n", b"\r\n"),
        ("broken SPHERE header", "binary"),
    ),
    "half a sphere header": (lambda tmp: sphere(SPEECH)[:90], ("broken SPHERE header",)),
    "sphere header only": (lambda tmp: sphere(SAMPLES)[:1024], ("3200", "1024 bytes")),
    "cut sphere": (lambda tmp: sphere(SAMPLES)[:-1000], ("3200", "2700", "6424 bytes")),
    "sphere that announces too few": (lambda tmp: sphere(SAMPLES, 2000), ("2000", "3200")),
    "sphere that announces none": (lambda tmp: sphere(SAMPLES, 0), ("announces 0 ", "3200")),
    "cut riff": (lambda tmp: riff(SAMPLES)[:-1000], ("truncated", "2700", "3200")),
    "riff cut by a sample": (lambda tmp: riff(SAMPLES)[:-2], ("truncated", "3199", "3200")),
    "riff that announces half": (lambda tmp: riff(SPEECH, len(SPEECH)), ("announces", "holds")),
    "riff that announces 1,000 bytes": (
        lambda tmp: riff(SPEECH, 1000),
        ("announces 500 samples", f"holds {len(SPEECH)}", "copy"),
    ),
    "mp3 in riff": (lambda tmp: riff(SPEECH, coding=0x55), ("tag 0x55", "expected 0x1")),
    "0 Hz": (lambda tmp: riff(SPEECH, rate_hz=0), ("0x1, 1 channels, 0 Hz", "16000")),
    "0 channels": (lambda tmp: riff(SPEECH, channels=0), ("0 channels",)),
    "cut rf64": (lambda tmp: rf64(SAMPLES, tmp)[:-1000], ("truncated", "2700", "3200")),
    "cut flac": (lambda tmp: flac(SAMPLES, tmp)[:-1000], ("cut or damaged",)),
    "damaged flac": (lambda tmp: flac(SPEECH, tmp).replace(b"\xff\xf8", b"\xff\x00"), ("damaged",)),
    "riff without sound": (lambda tmp: riff(SAMPLES)[:36], ("cannot be decoded",)),
    "too short": (lambda tmp: sphere(SAMPLES[:399]), ("399 samples", "400")),
    "too short flac": (lambda tmp: flac(SAMPLES[:1], tmp), ("1 samples", "400")),
    "swapped sphere": (lambda tmp: sphere(SPEECH.byteswap()), ("bytes are swapped",)),
    "swapped the other way": (
        lambda tmp: sphere(SPEECH.byteswap(), byte_format="10"),
        ("bytes are swapped",),
    ),
    "swapped riff": (lambda tmp: riff(SPEECH.byteswap()), ("bytes are swapped",)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_told_in_words(tmp_path, name):
    content, words = REFUSED[name]
    (tmp_path / "x.wav").write_bytes(content(tmp_path))
    with pytest.raises(BadFileError) as error:
        read_audio(tmp_path / "x.wav")
    for word in ("x.wav", *words):
        assert word in str(error.value)


@pytest.mark.parametrize("gain", [1, 1 / 16, 1 / 256, 8, 64])
def test_speech_is_told_from_swapped_speech_also_where_it_is_soft_or_clipped(tmp_path, gain):
    samples = (SPEECH * float(gain)).clip(-32768, 32767).astype(np.int16)
    (tmp_path / "x.wav").write_bytes(riff(samples))
    np.testing.assert_array_equal(read_audio(tmp_path / "x.wav")[0], samples)


def test_silence_is_read_with_a_note(tmp_path):
    (tmp_path / "x.wav").write_bytes(sphere(np.zeros(FRAME_LENGTH_SAMPLES, np.int16)))
    audio, (note,) = read_audio(tmp_path / "x.wav")
    assert not audio.any() and note.kind == "digital silence"


@pytest.mark.parametrize("kind", ["pipe", "device", "sparse", "folder", "link", "unreadable"])
def test_what_is_no_file_or_would_never_end(kind, tmp_path):
    path = str(tmp_path / "x.wav")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        os.symlink("/dev/zero", path)
    elif kind == "folder":
        os.mkdir(path)
    elif kind == "link":
        os.symlink("nowhere", path)
    else:
        with open(path, "wb") as file:
            file.truncate(2**40)
    if kind == "unreadable":
        os.truncate(path, 5000)
        os.chmod(path, 0)
        if os.access(path, os.R_OK):
            pytest.skip("root reads all")
    words = "is no file|larger than|is a folder|links to nowhere|cannot be read"
    with pytest.raises(BadFileError, match=words):
        read_audio(path)
