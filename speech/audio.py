"""Sound of an utterance, told by its content, not by its name: RIFF, RF64, NIST SPHERE, FLAC.

`soundfile` decodes RIFF, RF64 and FLAC. Ours is what it gets wrong: a file that ends before its
header says so, sizes that a pipe has left in a header, and all of SPHERE, whose sample count it
ignores.
"""

import io
import re
import shlex
import struct

import numpy as np
import soundfile

from speech.facts import FRAME_HOP_SAMPLES, FRAME_LENGTH_SAMPLES, SAMPLE_RATE_HZ
from speech.files import MAX_FILE_BYTES, Problem, bad_file, read_bytes, what_it_is

SUFFIXES = (".wav", ".sph", ".flac")  # of an utterance with several, the first one is read
# Written where the length is not known yet: 0, -1, or the largest size that a program dares.
STREAMED_BYTES = 0x7F000000
BLOCK_SAMPLES = 2**20
OTHER_SOUND = (  # formats to convert
    (rb"OggS", "Ogg"),
    (rb"ID3|\xff[\xe2-\xfb]", "MP3"),
    (rb"FORM....AIF", "AIFF"),
    (rb"\.snd", "AU"),
    (rb"caff", "CAF"),
    (rb"RIFX", "big-endian RIFF"),
    (rb"....ftyp", "MPEG-4"),
    (rb"#!AMR", "AMR"),
    (rb"riff\x2e\x91", "Wave64"),
)
UNPACK = (
    "unpack it with `w_decode -o pcm {path} NEW` (NIST's SPHERE tools) or `sph2pipe -p -f wav "
    "{path} NEW.wav`"
)


def read_audio(path):
    """Read 16-kHz, mono, 16-bit sound.

    Returns:
        (audio, notes): int16 [samples], and a list of `Problem` that do no harm.

    Raises:
        BadFileError: no sound, another kind of it, or less of it than its header announces or
            than one frame.
    """
    path = str(path)
    content = read_bytes(path)
    notes = []
    if content.startswith(b"NIST_1A"):
        audio, announced = _sphere(path, content)
        lacking = announced - len(audio)
        if 0 < abs(lacking) < FRAME_HOP_SAMPLES:
            text = f"its header announces {announced} samples, the file has {len(audio)}"
            notes.append(Problem("sample counts that are somewhat off", path, text))
        elif lacking:
            raise bad_file(
                "sample counts against the file's size",
                path,
                f"{'truncated: ' if lacking > 0 else ''}its header announces {announced} samples, "
                f"the file of {len(content)} bytes has {len(audio)}: copy it again",
            )
        audio = audio[:announced]
    elif content[:4] in (b"RIFF", b"RF64") and content[8:12] == b"WAVE":
        content, announced = _with_size(path, content)
        audio, _ = _decode(path, content)
        _check_whole(path, audio, announced)
    elif content.startswith(b"fLaC"):
        audio, announced = _decode(path, content)
        _check_whole(path, audio, announced)
    else:
        raise _no_sound(path, content)
    if len(audio) < FRAME_LENGTH_SAMPLES:
        raise bad_file(
            "too short audio",
            path,
            f"{len(audio)} samples, expected one frame of {FRAME_LENGTH_SAMPLES} or more",
        )
    if not content.startswith(b"fLaC") and _is_swapped(audio):
        raise bad_file(
            "swapped bytes",
            path,
            "bytes are swapped against the header (noise as it stands, speech the other way "
            "round): mend the header's byte order or copy the file again",
        )
    if not audio.any():
        notes.append(Problem("digital silence", path, "all samples are 0"))
    return audio, notes


def _check_whole(path, audio, announced):
    if announced is not None and len(audio) < announced:
        raise bad_file(
            "truncated audio",
            path,
            f"truncated, {len(audio)} samples where its header announces {announced}: copy it "
            "again",
        )


def _check_form(path, rate_hz, channels, coding):
    found = []
    if rate_hz != SAMPLE_RATE_HZ:
        found.append(f"{rate_hz} Hz")
    if channels != 1:
        found.append(f"{channels} channels")
    if coding != "PCM_16":
        found.append(f"{coding} samples")
    if found:
        raise bad_file(
            f"audio of another form ({', '.join(found)})",
            path,
            f"{', '.join(found)}, expected {SAMPLE_RATE_HZ} Hz, 1 channel, 16-bit PCM: convert it "
            f"with {_command(path)}",
        )


def _command(path, options=""):
    return (
        f"`sox {options}{shlex.quote(path)} -r {SAMPLE_RATE_HZ} -c 1 -b 16 -e signed-integer "
        "NEW.wav`"
    )


def _no_sound(path, content):
    """The error for a file that is none of the four formats."""
    expected = "expected RIFF, RF64, NIST SPHERE or FLAC"
    if content.startswith(b"ajkg"):
        return bad_file(
            "shortened audio",
            path,
            f"compressed by shorten, {expected}: unpack it with `shorten -x {shlex.quote(path)} "
            "NEW` and convert that",
        )
    for pattern, name in OTHER_SOUND:
        if re.match(pattern, content, re.DOTALL):
            text = f"is {name}, {expected}: convert it with {_command(path)}"
            return bad_file("audio of another format", path, text)
    what = what_it_is(content)
    first_line = content[:40].splitlines()[0].strip().decode("latin1")
    if what is None and first_line.isascii() and first_line.isprintable():
        what = f"a text ({first_line!r}): download the file again"
    if what:
        what, advice = what.rsplit(": ", 1)
        return bad_file("no sound", path, f"is {what}, not sound, {expected}: {advice}")
    return bad_file(
        "no sound",
        path,
        f"starts with {content[:8]!r}, which is no header, {expected}: copy it again, or if these "
        f"are bare samples give them a header with "
        f"{_command(path, f'-t raw -r {SAMPLE_RATE_HZ} -e signed-integer -b 16 -c 1 ')}",
    )


def _decode(path, content):
    """(audio, number of samples that a FLAC header announces, None if it does not)."""
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            _check_form(path, file.samplerate, file.channels, file.subtype)
            announced = file.frames
            file.seekable = lambda: False  # it would seek, which fails in FLAC of unknown length
            blocks = []  # a header may announce more than any memory holds
            n_block = min(announced, BLOCK_SAMPLES)
            while len(block := file.read(n_block, "int16")) == n_block > 0:
                blocks.append(block)
                if len(blocks) * n_block > MAX_FILE_BYTES:
                    raise bad_file("too large files", path, "more sound than two hours")
    except soundfile.SoundFileError as error:
        problem = getattr(error, "error_string", str(error)).strip()
        form = re.search(rb"^RI?F.*?fmt ....(.{8})", content[:4096], re.DOTALL)
        if form:
            tag, channels, rate_hz = struct.unpack("<HHI", form[1])
            problem += f" Format tag {tag:#x}, {channels} channels, {rate_hz} Hz"
            problem += f", expected 0x1, 1 and {SAMPLE_RATE_HZ}"
        raise bad_file(
            "damaged audio", path, f"cannot be decoded ({problem}): cut or damaged: copy it again"
        ) from None
    return np.concatenate([*blocks, block]), announced if announced < 2**62 else None


def _with_size(path, content):
    """A RIFF or RF64 file with the size of its sound, and the samples its header announces.

    Where a program did not know the length while it wrote, the file's end counts. BadFileError
    where something follows that is no chunk, as its name of four letters would say.
    """
    position, n_bytes_64 = 12, None
    while position + 8 <= len(content):
        name, n_bytes = struct.unpack_from("<4sI", content, position)
        position += 8
        if name == b"ds64" and position + 16 <= len(content):
            n_bytes_64 = struct.unpack_from("<Q", content, position + 8)[0]
        if name == b"data":
            if n_bytes_64 is not None and n_bytes == 0xFFFFFFFF:
                n_bytes = n_bytes_64
            if 0 < n_bytes < STREAMED_BYTES:
                behind = content[position + n_bytes :]
                n_behind = len(behind.strip(b"\0"))
                if n_behind >= 2 * FRAME_HOP_SAMPLES and not re.match(rb"\0?[ -~]{4}", behind):
                    raise bad_file(
                        "sample counts against the file's size",
                        path,
                        f"its header announces {n_bytes // 2} samples, the file holds "
                        f"{(len(content) - position) // 2}: copy it again",
                    )
                return content, n_bytes // 2
            n_bytes = (len(content) - position) // 2 * 2
            head = b"RIFF" + struct.pack("<I", position + n_bytes - 8) + content[8 : position - 4]
            return head + struct.pack("<I", n_bytes) + content[position:], n_bytes // 2
        position += n_bytes + n_bytes % 2
    return content, None


def _sphere(path, content):
    """(int16 samples of a SPHERE file, the number of samples that its header announces)."""
    head = re.match(rb"NIST_1A\n *([0-9]{1,7}) *\n(.*?)\nend_head\s", content, re.DOTALL)
    if not head or int(head[1]) < head.end():
        changed = b"\r\n" in content[:12]
        raise bad_file(
            "damaged audio",
            path,
            "cannot be decoded (broken SPHERE header"
            + (", line ends were converted" if changed else "")
            + "): copy it again"
            + (" in binary mode" if changed else ""),
        )
    found = re.findall(r"^(\w+) +-\w+ +(\S+)", head[2].decode("latin1"), re.MULTILINE)
    fields = {name.lower(): value for name, value in found}

    def number(name, default):
        value = fields.get(name, str(default))
        if not re.fullmatch(r"[0-9]{1,18}(\.0*)?", value, re.ASCII):
            text = f"broken SPHERE header: {name} is {value[:60]!r}, expected a whole number"
            raise bad_file("damaged audio", path, f"{text}: mend it or copy the file again")
        return int(value.split(".")[0])

    coding = fields.get("sample_coding", "pcm").lower()
    data = content[int(head[1]) :]
    program = "shorten" if data.startswith(b"ajkg") else coding
    if "," in coding or program == "shorten":
        raise bad_file(
            "shortened audio",
            path,
            f"compressed by {program.split('embedded-')[-1].split('-v')[0]}, expected bare PCM: "
            f"{UNPACK.format(path=shlex.quote(path))}",
        )
    n_sample_bytes = number("sample_n_bytes", 2)
    coding = (
        "PCM_16" if (coding, n_sample_bytes) == ("pcm", 2) else f"{8 * n_sample_bytes}-bit {coding}"
    )
    _check_form(path, number("sample_rate", SAMPLE_RATE_HZ), number("channel_count", 1), coding)
    order = ">" if fields.get("sample_byte_format") == "10" else "<"
    audio = np.frombuffer(data, f"{order}i2", len(data) // 2).astype(np.int16)
    return audio, number("sample_count", len(audio))


def _is_swapped(audio):
    """Whether the two bytes of each sample stand in the wrong order.

    Neighbouring samples of speech are alike, and it is far from full scale; of swapped speech
    neither is so. Noise at full scale is the same either way round, and so are 8 bits in 16;
    where many samples are at full scale, speech was clipped.
    """

    def power_and_roughness(samples):
        """Mean square, and that of the steps over it: near 0 if smooth, 2 for white noise."""
        samples = samples.astype(np.float32)
        steps = np.diff(samples)
        power = np.dot(samples, samples) / len(samples)
        return power, np.dot(steps, steps) / len(steps) / max(power, 1)

    power, roughness = power_and_roughness(audio)
    other_power, other_roughness = power_and_roughness(audio.byteswap())
    is_clipped = np.mean((audio == 32767) | (audio == -32768)) > 0.01
    is_softer = 4 * other_power < power and (audio & 0xFF).any() and not is_clipped
    return is_softer or (roughness > 1 and other_roughness < roughness / 3)
