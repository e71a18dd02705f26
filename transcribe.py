"""Say which phones are spoken in sound files.

    python3 transcribe.py RUN speech.wav
    python3 transcribe.py RUN *.flac --textgrid --phn --plot --output=FOLDER
    python3 transcribe.py RUN speech.wav --stream --chunk_ms=20

RUN is a run folder of a training script on speech. Prints a line a phone: start (s), end (s), phone,
probability, separated by tabs; remarks begin with #. Sound of any rate and number of channels is
brought to 16 kHz, mono. With `--stream` it is fed in chunks, to networks trained with
`--n_directions=1`, and the delay of the answers is said; they are the same (docs/inference.md).
"""

import os

from toolbox import command_line  # isort: skip (first: it tells who has no environment)

import numpy as np

command_line.import_tensorflow()

from inference import figures, textgrid, transcription  # noqa: E402
from inference.trained_run import open_run  # noqa: E402
from speech.facts import SAMPLE_RATE_HZ  # noqa: E402
from speech.files import BadFileError  # noqa: E402
from speech.labels import read_phones  # noqa: E402
from toolbox.command_line import UserError, one_line  # noqa: E402

CHUNK_MS = 100


def define_flags(flag_values):
    define = command_line.Definer(flag_values)
    define.bool("stream", False, "feed the sound in chunks, as it would come from a microphone")
    define.integer("chunk_ms", CHUNK_MS, "--stream: their length", 1)
    define.bool("phn", False, "write NAME.phn, TIMIT's format, in samples of 16 kHz")
    define.bool("textgrid", False, "write NAME.TextGrid for Praat")
    define.bool("plot", False, "write NAME.png: spectrogram, spikes, probabilities, labels")
    define.path("output", ".", "folder to write to, made if missing")


def main(flag_values, *arguments):
    if len(arguments) < 2:
        raise UserError("expected a run folder and sound files, as in transcribe.py RUN speech.wav")
    if flag_values.chunk_ms != CHUNK_MS and not flag_values.stream:
        raise UserError(f"--chunk_ms={flag_values.chunk_ms} without --stream: give --stream too")
    folder, *paths = arguments
    run = open_run(folder)
    transcription.check_can_hear(run, flag_values.stream)
    stems = output_stems(flag_values, paths)
    for path, stem in zip(paths, stems):
        if len(paths) > 1:
            print(f"# {one_line(path)}")
        transcribe(flag_values, run, path, stem)


def output_stems(flag_values, paths):
    """The files to write for each sound, without suffix.

    Raises:
        UserError: two would be the same, one would replace labels, or the folder cannot be made.
    """
    names = [os.path.splitext(os.path.basename(path))[0] for path in paths]
    stems = [os.path.join(flag_values.output, name) for name in names]
    if not (flag_values.phn or flag_values.textgrid or flag_values.plot):
        return stems
    try:
        os.makedirs(flag_values.output, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--output={flag_values.output}: cannot be made ({error.strerror})"
        ) from None
    for path, stem in zip(paths, stems):
        if stems.count(stem) > 1:
            raise UserError(f"{stem}: would be written for several sounds: give them one by one")
        beside = f"{os.path.splitext(path)[0]}.phn"
        if (
            flag_values.phn
            and os.path.exists(beside)
            and os.path.realpath(beside) == os.path.realpath(f"{stem}.phn")
        ):
            raise UserError(f"--phn: would replace the labels {beside}: give another --output")
    return stems


def transcribe(flag_values, run, path, stem):
    """Print what is heard in a sound file, and write the files that are asked for."""
    sound = transcription.read_sound(path)
    for note in sound.notes:
        print(f"# {note}")
    chunk_samples = flag_values.chunk_ms * SAMPLE_RATE_HZ // 1000 if flag_values.stream else None
    heard = transcription.hear(run, sound.samples, chunk_samples)
    segments = transcription.segments(run, heard.probabilities, sound.duration_s)
    for start_s, end_s, phone, probability in segments:
        print(f"{start_s:.3f}\t{end_s:.3f}\t{phone}\t{probability:.3f}")
    if flag_values.stream:
        print(
            f"# chunks of {flag_values.chunk_ms} ms: answers come {np.mean(heard.latencies_s):.3f} s "
            f"after the end of their frame ({np.max(heard.latencies_s):.3f} s at most); real-time "
            f"factor {heard.busy_s / sound.duration_s:.3f}"
        )
    try:
        if flag_values.phn:
            textgrid.write_phn(f"{stem}.phn", segments)
        if flag_values.textgrid:
            textgrid.write_textgrid(f"{stem}.TextGrid", segments, sound.duration_s)
        if flag_values.plot:
            figures.plot_transcription(
                f"{stem}.png",
                sound,
                heard,
                segments,
                run.class_names,
                run.network,
                labels_beside(path, sound),
                one_line(path),
            )
    except OSError as error:
        raise UserError(f"{stem}: cannot be written ({error.strerror}): choose --output") from None


def labels_beside(path, sound):
    """Rows of the `.phn` beside a sound file of 16 kHz; none where there is no such file."""
    beside = f"{os.path.splitext(path)[0]}.phn"
    if sound.rate_hz != SAMPLE_RATE_HZ or not os.path.exists(beside):
        return []
    try:
        return read_phones(beside, len(sound.samples))[0]
    except BadFileError as error:
        print(f"# {error}")
        return []


if __name__ == "__main__":
    command_line.run(main, define_flags, __doc__, n_positional=-1)
