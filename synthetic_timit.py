"""Write a corpus in TIMIT's format that holds no speech: for the demo and for scale tests.

    python synthetic_timit.py                                    # 80 + 24 + 24 utterances
    python synthetic_timit.py --n_train=3696 --n_develop=400 --n_test=192     # TIMIT's own size

About 10 ms of processor time an utterance: a second or two, and about a minute on two cores (3.5
hours of sound, 450 MB). Linear discriminant analysis of MFCCs with their differences gets 0.6 of
the frames of unseen speakers right in 39 classes (0.5 in 61), where silence makes up 0.23; on the
16-speaker sample of TIMIT it is 0.48 (0.39), where silence makes up 0.25.

The files lie as in TIMIT after `rename-files.sh`,
`<output_path>/{train,test}/drN/<speaker>/{sx,si}<number>.{wav,phn,wrd,txt}`, with the names of the
real development and core-test speakers, so that `timit_processing.py` splits them like TIMIT.

Language. 600 invented words, built from weighted onsets, nuclei and codas over TIMIT's 61 phones;
short words are the frequent ones. A sentence number stands for one sentence, which several
speakers may read (`sx`) or one (`si`), as in TIMIT; no sentence is read in two splits.

Sound. A source-filter model after Fant (1960), computed in overlapping windows of 15 ms:

    Y_i = P_i √V_i + N_i √U_i                                                              (1)
    V_i(f) ∝ (1 + (f / f_g)²)^(−g) ∏_k |A(F_ik, B_ik; f)|⁻²                                (2)
    U_i(f) = b_i U'_i(f) + (1 − b_i) U''_i(f)                                              (3)
    U'_i(f) ∝ ∏_k |A(F_ik, B_ik; f)|⁻²,   U''_i(f) ∝ (1 + ((f − c_i) / w_i)²)⁻²            (4)
    |A(F, B; f)|² = |1 − 2 r cos(2πF/f_s) z⁻¹ + r² z⁻²|²,   r = exp(−πB/f_s), z on the circle  (5)

| symbol | meaning | unit |
| --- | --- | --- |
| Y_i | spectrum of window i; the windows are added up | |
| P_i, N_i | spectra of glottal pulses and of white noise, both times their level | |
| V_i, U_i | power responses for them, scaled to a mean of 1 over f | |
| F_ik, B_ik | formants and bandwidths: 3 that move with the phones, the rest fixed | Hz |
| f_g, g | corner (300 Hz) and slope of the glottal pulses' spectrum | Hz, 6 dB/octave |
| b_i | share of the noise that is breath and passes the whole vocal tract | 1 |
| c_i, w_i | centre and half width of frication noise | Hz |

Every phone has targets of its own for these (`_PHONE_TABLE`); the tracks run from target to
target and are smoothed, so neighbours colour one another. Speakers differ in pitch, vocal-tract
length, accent, spectral slope, tempo, loudness and background noise, and every spoken phone misses
its targets at random: with one voice and no misses the readout above gets 0.80.
"""

import contextlib
import functools
import itertools
import multiprocessing
import os
import signal
import time
import zlib
from typing import NamedTuple

import numpy as np
import scipy.fft
from absl import flags
from scipy.ndimage import uniform_filter1d

from speech.facts import CORE_TEST_SPEAKERS, DEVELOP_SPEAKERS, PHONES_61, SAMPLE_RATE_HZ
from toolbox import command_line
from toolbox.command_line import UserError, progress_bar
from toolbox.durable_files import write_json, write_whole_folder

UTTERANCES_PER_SPEAKER = 8  # TIMIT's 5 sx and 3 si; the two sa sentences are left out
N_TRAIN_SPEAKERS_PER_REGION = (38, 76, 76, 68, 70, 35, 77, 22)  # dr1 to dr8, as in TIMIT
N_MOST = {"n_train": 3696, "n_develop": 400, "n_test": 192}  # TIMIT's own sizes, in utterances
MARKER = "synthetic_timit.json"  # a folder that holds this file may be replaced

# ------------------------------------------------------------------------------------- phones

# Means for an adult male speaker. Formants of the vowels: Peterson and Barney (1952); the rest are
# textbook values, rounded. `a>b`: from a at the phone's start to b at its end; `-`: whatever the
# neighbours have. Levels are those of the sound itself, in dB below a vowel.
_PHONE_TABLE = """
phone  ms  voice    noise    breath noise_hz width_hz damping f1       f2        f3
h#    200  off      off      0.5    4000     3000     1       500      1500      2500
pau   170  off      off      -      -        -        1       500      1500      2500
epi    40  off      off      -      -        -        -       -        -         -
q      60  -14>-4   -40      1      -        -        1.5     -        -         -
iy     95  -1       -34      1      -        -        1       280      2270      3000
ih     80  0        -34      1      -        -        1       390      1990      2550
eh     95  0        -34      1      -        -        1       530      1840      2480
ae    140  1        -34      1      -        -        1       660      1720      2410
aa    125  1        -34      1      -        -        1       730      1090      2440
ao    125  1        -34      1      -        -        1       590      860       2420
ah     90  0        -34      1      -        -        1       640      1190      2390
uh     75  -1       -34      1      -        -        1       440      1020      2240
uw    105  -2       -34      1      -        -        1       310      880       2240
ux    100  -2       -34      1      -        -        1       320      1600      2300
ix     52  -3       -34      1      -        -        1       400      1850      2550
ax     50  -3       -34      1      -        -        1       500      1400      2450
ax-h   38  off      -20      1      -        -        1.3     500      1500      2500
er    120  0        -34      1      -        -        1       480      1340      1680
axr    78  -2       -34      1      -        -        1       470      1380      1750
ey    127  0        -34      1      -        -        1       500>340  1850>2200 2500>2800
ay    155  1        -34      1      -        -        1       740>430  1150>2000 2440>2600
oy    165  1        -34      1      -        -        1       560>400  840>1950  2400>2550
aw    160  1        -34      1      -        -        1       740>480  1300>900  2440>2350
ow    125  0        -34      1      -        -        1       560>400  1050>850  2400>2300
l      60  -4       -38      1      -        -        1.3     380      1050      2700
el     88  -4       -38      1      -        -        1.3     450      950       2650
r      57  -3       -38      1      -        -        1.2     360      1200      1600
w      62  -4       -38      1      -        -        1.2     310      680       2200
y      56  -4       -36      1      -        -        1.2     270      2250      3000
m      64  -8       -40      1      -        -        2.5     260      1050      2250
em     86  -7       -40      1      -        -        2.5     280      1050      2250
n      56  -8       -40      1      -        -        2.5     270      1550      2500
en     78  -7       -40      1      -        -        2.5     290      1550      2500
nx     28  -6       -40      1      -        -        2       300      1600      2500
ng     63  -8       -40      1      -        -        2.5     280      2050      2650
eng    72  -7       -40      1      -        -        2.5     300      2050      2650
hh     66  off      -17      0.9    2500     3000     1.4     -        -         -
hv     65  -8       -18      0.9    2500     3000     1.4     -        -         -
s     113  off      -9       0      5600     1300     1.5     330      1650      2600
z      82  -15      -13      0      5500     1300     1.5     300      1650      2600
sh    115  off      -7       0      3200     1000     1.5     320      1850      2550
zh     82  -14      -12      0      3100     1000     1.5     290      1850      2550
f     103  off      -24      0      5000     4000     1.5     350      1100      2250
v      60  -11      -27      0      5000     4000     1.8     300      1100      2250
th     92  off      -25      0      6300     3000     1.5     330      1400      2550
dh     36  -11      -28      0      6300     3000     1.8     300      1400      2550
ch     84  off      -7>-13   0      3500     1200     1.5     320      1850      2550
jh     61  -24>-12  -10>-15  0      3500     1200     1.5     300      1850      2550
pcl    66  off      off      -      -        -        1.5     350      950       2200
p      46  off      -16>-20  0>1    1500     2500     1.3     400      1000      2250
bcl    64  -22      off      -      -        -        2       220      900       2200
b      17  -14>-6   -18>-28  0>0.6  1200     2000     1.3     330      950       2250
tcl    50  off      off      -      -        -        1.5     330      1700      2600
t      50  off      -11>-18  0>0.6  4800     1700     1.3     380      1700      2600
dcl    50  -22      off      -      -        -        2       220      1700      2600
d      24  -14>-6   -14>-26  0>0.5  4500     1800     1.3     320      1700      2600
kcl    56  off      off      -      -        -        1.5     330      1850      2350
k      54  off      -13>-18  0>0.7  2300     900      1.3     380      1850      2350
gcl    55  -22      off      -      -        -        2       220      1850      2350
g      28  -14>-6   -15>-26  0>0.6  2200     900      1.3     330      1850      2350
dx     29  -9       -34      0.5    4500     1800     1.8     330      1650      2550
"""
_OFF_DB = -80
_VOICE_DB, _NOISE_DB = 0, 1  # columns of the targets
_NOISE_HZ = slice(3, 5)  # centre and half width
_FORMANTS_HZ = slice(6, 9)
_SHAPE = slice(2, 9)  # everything that colours the sound, from breath to the third formant


def _read_phone_table():
    """The table as (mean durations in ms [61], targets [61, start and end, columns]).

    NaN stands for "whatever the neighbours have".
    """

    def start_and_end(entry):
        if entry == "-":
            return np.nan, np.nan
        if entry == "off":
            return _OFF_DB, _OFF_DB
        start, _, end = entry.partition(">")
        return float(start), float(end or start)

    rows = {line.split()[0]: line.split()[1:] for line in _PHONE_TABLE.strip().splitlines()}
    durations_ms = np.array([float(rows[phone][0]) for phone in PHONES_61])
    targets = [[start_and_end(entry) for entry in rows[phone][1:]] for phone in PHONES_61]
    return durations_ms, np.swapaxes(np.array(targets), 1, 2)


_DURATIONS_MS, _TARGETS = _read_phone_table()
_INDEX = {phone: index for index, phone in enumerate(PHONES_61)}

# ---------------------------------------------------------------------------------- language

# Each entry: how often, then the phones (`.`: none).
_FIRST_ONSETS = """
    3 . | 4 q | 6 s | 4 tcl t | 6 kcl k | 4 pcl p | 3 dcl d | 4 bcl b | 3 gcl g | 5 m | 3 n | 4 l
    5 r | 5 w | 3 y | 4 hh | 4 f | 2 v | 2 th | 5 dh | 2 sh | 1 z | 2 tcl ch | 2 dcl jh
    2 s tcl t | 1 s pcl p | 1 s kcl k | 1 s l | 1 s epi l | 1 s epi w | 1 pcl p r | 2 tcl t r
    1 kcl k r | 1 kcl k l | 1 bcl b r | 1 gcl g r | 1 f l | 1 f r
"""
_INNER_ONSETS = """
    5 dx | 3 nx | 2 hv | 2 v | 1 zh | 2 ng | 4 l | 4 r | 4 m | 3 n | 4 s | 2 z | 1 f | 1 th | 2 sh
    1 w | 2 y | 3 tcl t | 2 dcl d | 3 kcl k | 1 gcl g | 2 pcl p | 2 bcl b | 1 tcl ch | 2 dcl jh
    2 n tcl t | 2 n dcl d | 1 m pcl p | 1 m bcl b | 1 ng gcl g | 2 s tcl t | 1 n epi s
"""
_FULL_NUCLEI = """
    8 iy | 8 ih | 8 eh | 7 ae | 5 aa | 5 ao | 6 ah | 2 uw | 3 ux | 2 uh | 6 ey | 6 ay | 1 oy
    2 aw | 5 ow | 5 er
"""
_WEAK_NUCLEI = "18 ix | 9 ax | 7 axr | 2 ax-h | 4 ih | 6 iy | 3 el | 2 en | 1 em | 1 eng | 2 ux"
_CODAS = """
    18 . | 8 n | 5 s | 6 z | 5 l | 5 r | 3 m | 2 v | 1 f | 3 kcl k | 2 kcl | 2 tcl t | 4 tcl | 1 th
    2 dcl d | 3 dcl | 1 pcl p | 1 bcl b | 1 gcl g | 2 ng | 1 sh | 2 n tcl t | 2 n dcl d | 2 n z
    2 s tcl t | 1 kcl s | 1 tcl ch | 1 dcl jh
"""
# Only the closure of a stop is spelt, for it may stand without a release, never the reverse.
_SPELLING_TABLE = """
    aa:a ae:a ah:u ao:o aw:ow ax:a ax-h:e axr:or ay:y b: bcl:b ch:ch d: dcl:d dh:th dx:tt eh:e
    el:le em:om en:en eng:ing epi: er:ir ey:ai f:f g: gcl:g hh:h hv:h ih:i ix:i iy:ee jh:j k: kcl:k
    l:l m:m n:n ng:ng nx:nn ow:oa oy:oi p: pcl:p q: r:r s:s sh:sh t: tcl:t th:th uh:oo uw:oo ux:ew
    v:v w:w y:y z:z zh:zh
"""
_SPELLINGS = dict(pair.split(":") for pair in _SPELLING_TABLE.split())
_N_WORDS = 600
_N_COVERS = 13  # prime to the 90 and 630 by which a speaker's sentence numbers grow


@functools.cache
def lexicon():
    """The invented language's words: tuple of (spelling, phones), commonest first.

    The same for every seed, so that corpora of different seeds are one language.
    """
    rng = np.random.default_rng(0)
    draw_first_onset, draw_inner_onset, draw_full, draw_weak, draw_coda = (
        functools.partial(_draw, rng, *_read_weights(table))
        for table in (_FIRST_ONSETS, _INNER_ONSETS, _FULL_NUCLEI, _WEAK_NUCLEI, _CODAS)
    )
    words = {}
    while len(words) < _N_WORDS or not _SPELLINGS.keys() <= {*itertools.chain(*words.values())}:
        phones = [*draw_first_onset(), *(draw_full() if rng.random() < 0.7 else draw_weak())]
        for _ in range(rng.choice(3, p=(0.45, 0.38, 0.17))):
            phones += [*draw_inner_onset(), *(draw_weak() if rng.random() < 0.75 else draw_full())]
        phones += draw_coda()
        words.setdefault("".join(_SPELLINGS[phone] for phone in phones), tuple(phones))
    return tuple(sorted(words.items(), key=lambda word: len(word[1])))


def _read_weights(table):
    """Probabilities and entries (lists of phones) of one of the tables above."""
    rows = [row.split() for row in table.replace("\n", "|").split("|") if row.strip()]
    weights = np.array([float(row[0]) for row in rows])
    return weights / weights.sum(), [[phone for phone in row[1:] if phone != "."] for row in rows]


def _draw(rng, probabilities, entries):
    return entries[rng.choice(len(entries), p=probabilities)]


@functools.cache
def _cover():
    """`_N_COVERS` lists of word indices that together hold every phone a word can hold."""
    words = lexicon()
    missing, chosen = set(_SPELLINGS), []
    while missing:
        gain = [len(missing.intersection(phones)) / len(phones) for _, phones in words]
        chosen.append(int(np.argmax(gain)))
        missing.difference_update(words[chosen[-1]][1])
    return [chosen[start::_N_COVERS] for start in range(_N_COVERS)]


def sentence(number, seed):
    """Word indices of a sentence and the word before which it pauses (0: it does not).

    Any 13 successive numbers give sentences that together hold all 61 phones.
    """
    rng = _generator(seed, f"sentence {number}")
    frequencies = 1 / (10 + np.arange(len(lexicon())))  # Zipf's law, flattened at its top
    words = rng.choice(len(frequencies), rng.integers(4, 11), p=frequencies / frequencies.sum())
    words = rng.permutation([*words, *_cover()[number % _N_COVERS]])
    return words, len(words) // 2 if number % 4 == 0 else 0


def _generator(seed, name):
    """A random generator for one thing, so that nothing depends on the order of the work."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


# ---------------------------------------------------------------------------------- speakers


class Voice(NamedTuple):
    """What stays the same in all that a speaker says."""

    pitch_hz: float
    formant_scale: float  # 1: a vocal tract of average male length; women's are shorter
    accent: np.ndarray  # [61, 3] factors on the formants of each phone
    glottal_slope: float  # 6 dB/octave
    tempo: float  # factor on durations
    level_db: float
    background_db: float  # below a vowel


def voice_of(speaker, seed):
    """The voice of a speaker such as `dr1/felc0`, whose name's first letter is the sex."""
    rng = _generator(seed, f"speaker {speaker}")
    female = speaker.split("/")[1].startswith("f")
    return Voice(
        pitch_hz=(200 if female else 115) * np.exp(0.12 * rng.standard_normal()),
        formant_scale=(1.15 if female else 1.0) * np.exp(0.05 * rng.standard_normal()),
        accent=np.exp(0.05 * rng.standard_normal((len(PHONES_61), 3))),
        glottal_slope=1 + 0.15 * rng.standard_normal(),
        tempo=np.exp(0.12 * rng.standard_normal()),
        level_db=3 * rng.standard_normal(),
        background_db=-42 + 3 * rng.standard_normal(),
    )


@functools.cache
def _train_speakers():
    """Invented names in TIMIT's shape, region by region; none is a name of the test folder."""
    rng = np.random.default_rng(0)
    names = {speaker.split("/")[1] for speaker in CORE_TEST_SPEAKERS | DEVELOP_SPEAKERS}
    speakers = []
    for region, n_speakers in enumerate(N_TRAIN_SPEAKERS_PER_REGION, start=1):
        for _ in range(n_speakers):
            name = None
            while name is None or name in names:
                sex = "f" if rng.random() < 0.3 else "m"
                name = sex + "".join(rng.choice(list("abcdefghijklmnoprstvw"), 3)) + "0"
            names.add(name)
            speakers.append(f"dr{region}/{name}")
    return speakers


# ------------------------------------------------------------------------------------- sound

_HOP_SAMPLES = 80
_N_FFT = 400  # the window's 240 samples and room on both sides for the filters to ring
_WINDOW = np.zeros(_N_FFT, np.float32)
_WINDOW[80:320] = np.sin(np.pi * np.arange(240) / 240) ** 2 / 1.5  # adds up to 1 over the hops
_BINS_HZ = np.linspace(0, SAMPLE_RATE_HZ / 2, _N_FFT // 2 + 1, dtype=np.float32)
_COSINES = np.cos(np.linspace(0, np.pi, _BINS_HZ.size, dtype=np.float32))
_RAMP_SAMPLES = 48  # over which a level changes from phone to phone, on both sides of the border
_SMOOTHING_HOPS = 9
_BANDWIDTHS_HZ = (60, 90, 150)
_UPPER_FORMANTS_HZ = (3500, 4500, 5500, 6500, 7500)
_GLOTTAL_CORNER_HZ = 300
_VOWEL_LEVEL = 600  # root mean square of a vowel, in units of the 16-bit samples

# How far a phone misses its targets: standard deviations, of logarithms where a target is in Hz.
_FORMANT_SCATTER = np.array([0.13, 0.11, 0.07])
_NOISE_HZ_SCATTER = 0.12
_LEVEL_SCATTER_DB = 3.5
_DURATION_SCATTER = 0.28
_SHORTEST_SAMPLES = 160


def synthesise(phones, ends_samples, voice, rng):
    """Sound of a row of phones.

    Args:
        phones: `[n]` indices into `PHONES_61`, among them h#, which has a value for everything.
        ends_samples: `[n]` where each phone ends; the first begins at 0.
        voice: a `Voice`.
        rng: generator of all chance in it.

    Returns:
        int16 `[ends_samples[-1]]` samples.
    """
    n_phones, n_samples = len(phones), ends_samples[-1]
    starts_samples = np.concatenate([[0], ends_samples[:-1]])
    targets = _TARGETS[phones]  # [n, start and end, columns], a copy
    scatter = np.exp(_FORMANT_SCATTER * rng.standard_normal((n_phones, 3)))
    scatter *= voice.accent[phones] * voice.formant_scale
    targets[..., _FORMANTS_HZ] *= scatter[:, None]
    targets[..., _NOISE_HZ] *= np.exp(_NOISE_HZ_SCATTER * rng.standard_normal((n_phones, 1, 1)))
    targets[..., :2] += _LEVEL_SCATTER_DB * rng.standard_normal((n_phones, 1, 2))

    # Levels change within a few ms, or a stop's burst would leak into its closure.
    level_times = np.stack([starts_samples + _RAMP_SAMPLES, ends_samples - _RAMP_SAMPLES], axis=1)
    voice_gain, noise_gain = (
        np.exp(np.log(10) / 20 * _track(np.arange(n_samples), level_times, targets[..., column]))
        for column in (_VOICE_DB, _NOISE_DB)
    )
    pulses = _glottal_pulses(starts_samples, n_samples, voice.pitch_hz, rng)
    excitations = np.zeros((2, n_samples + 2 * _N_FFT), np.float32)  # silence around them
    excitations[0, _N_FFT:-_N_FFT] = voice_gain * pulses
    excitations[1, _N_FFT:-_N_FFT] = noise_gain * rng.standard_normal(n_samples, np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(excitations, _N_FFT, axis=1)
    spectra = scipy.fft.rfft(windows[:, ::_HOP_SAMPLES] * _WINDOW)  # [2, hops, bins]

    # The shape of the sound moves slowly: targets at a quarter and three quarters of each phone.
    hops_samples = np.arange(spectra.shape[1]) * _HOP_SAMPLES - _N_FFT // 2  # their middles
    lengths = ends_samples - starts_samples
    shape_times = starts_samples[:, None] + lengths[:, None] * np.array([0.25, 0.75])
    shape = np.stack(
        [_track(hops_samples, shape_times, column) for column in np.moveaxis(targets, 2, 0)[_SHAPE]]
    )
    shape = uniform_filter1d(shape, _SMOOTHING_HOPS, mode="nearest").astype(np.float32)
    spectrum = sum(map(np.multiply, spectra, map(np.sqrt, _power_responses(shape, voice))))  # (1)
    sound = _overlap_add(scipy.fft.irfft(spectrum))[_N_FFT:][:n_samples]

    sound += 10 ** (voice.background_db / 20) * rng.standard_normal(n_samples, np.float32)
    sound *= _VOWEL_LEVEL * 10 ** (voice.level_db / 20)
    return np.clip(np.rint(sound), -32768, 32767).astype(np.int16)


def _track(times, target_times, targets):
    """Values `[times]` of a track through targets `[n, 2]`; straight on where they are NaN."""
    known = ~np.isnan(targets)
    return np.interp(times, target_times[known], targets[known])


def _glottal_pulses(starts_samples, n_samples, pitch_hz, rng):
    """`[n_samples]` pulses of power 1 whose pitch sinks in the sentence and wavers by phone."""
    contour = np.linspace(1.12, 0.88, len(starts_samples))
    contour *= pitch_hz * np.exp(0.06 * rng.standard_normal(len(starts_samples)))
    periods_per_sample = np.interp(np.arange(n_samples), starts_samples, contour) / SAMPLE_RATE_HZ
    phase = np.cumsum(periods_per_sample)
    at = np.flatnonzero(np.diff(np.floor(phase)))
    # A pulse falls between two samples and is shared by them, or the pitch would be rounded.
    late = (np.floor(phase[at + 1]) - phase[at]) / periods_per_sample[at + 1]
    height = 1 / np.sqrt(periods_per_sample[at])
    pulses = np.zeros(n_samples)
    pulses[at] += (1 - late) * height
    pulses[at + 1] += late * height
    return pulses


def _power_responses(shape, voice):
    """Power responses for voice and noise, each `[hops, bins]`, of the shape tracks `[7, hops]`."""
    breath, noise_hz, width_hz, damping, *formants_hz = shape[..., None]  # each [hops, 1]
    damped = np.ones_like(_BINS_HZ)
    for formant_hz in _UPPER_FORMANTS_HZ:
        formant_hz *= voice.formant_scale
        if formant_hz < SAMPLE_RATE_HZ / 2:
            damped *= _antiresonance(np.float32(formant_hz), np.float32(0.06 * formant_hz))
    for formant_hz, bandwidth_hz in zip(formants_hz, _BANDWIDTHS_HZ):
        damped = damped * _antiresonance(formant_hz, bandwidth_hz * damping)
    tract = 1 / damped
    glottis = (1 + (_BINS_HZ / _GLOTTAL_CORNER_HZ) ** 2) ** np.float32(-voice.glottal_slope)
    friction = _normalised(1 / (1 + ((_BINS_HZ - noise_hz) / width_hz) ** 2) ** 2)
    voiced = _normalised(tract * glottis)  # (2)
    noisy = friction + breath * (_normalised(tract) - friction)  # (3), (4)
    return voiced, noisy


def _antiresonance(frequency_hz, bandwidth_hz):
    """Equation (5), a polynomial in the cosine of the frequency: `[..., bins]`."""
    radius = np.exp(-np.pi / SAMPLE_RATE_HZ * bandwidth_hz)
    first = -2 * radius * np.cos(2 * np.pi / SAMPLE_RATE_HZ * frequency_hz)
    second = radius**2
    constant = (1 - second) ** 2 + first**2
    return constant + _COSINES * (2 * first * (1 + second) + 4 * second * _COSINES)


def _normalised(power):
    return power / power.mean(axis=-1, keepdims=True)


def _overlap_add(windows):
    """Sum of windows `[hops, _N_FFT]` at their places: `[samples]`."""
    n_parts = _N_FFT // _HOP_SAMPLES
    sound = np.zeros((len(windows) + n_parts - 1, _HOP_SAMPLES), windows.dtype)
    for part in range(n_parts):
        sound[part : part + len(windows)] += windows[
            :, part * _HOP_SAMPLES : (part + 1) * _HOP_SAMPLES
        ]
    return sound.ravel()


# ------------------------------------------------------------------------------------ corpus


class Utterance(NamedTuple):
    """One sentence read by one speaker."""

    split: str  # folder: train or test
    speaker: str  # such as dr1/felc0
    style: str  # sx or si
    number: int

    @property
    def path(self):
        """Path in the corpus, without the suffix."""
        return f"{self.split}/{self.speaker}/{self.style}{self.number}"


def plan_corpus(n_train, n_develop, n_test):
    """Who says what: list of `Utterance`s.

    The speakers of a split, at least 3 where it has as many utterances, lie evenly over its
    dialect regions. Sentence numbers grow as in TIMIT: by 90 for a speaker's five sx sentences,
    by 630 for the three si. Of each 90 sx sentences 72 are for training, 12 and 6 for the rest.
    """
    plan = []
    for split, speakers, n_utterances, first_sx, n_sx, first_si in (
        ("train", _train_speakers(), n_train, 1, 72, 451),
        ("test", sorted(DEVELOP_SPEAKERS), n_develop, 73, 12, 913),
        ("test", sorted(CORE_TEST_SPEAKERS), n_test, 85, 6, 963),
    ):
        n_speakers = max(-(-n_utterances // UTTERANCES_PER_SPEAKER), min(3, n_utterances))
        for rank in range(n_speakers):
            speaker = speakers[rank * len(speakers) // n_speakers]
            numbers = [("sx", first_sx + rank % n_sx + 90 * i) for i in range(5)]
            numbers += [("si", first_si + rank + 630 * i) for i in range(3)]
            n_own = (n_utterances - rank - 1) // n_speakers + 1  # equal but for one
            plan += [Utterance(split, speaker, *number) for number in numbers[:n_own]]
    return plan


def write_corpus(path, n_train=80, n_develop=24, n_test=24, seed=1, n_processes=None):
    """Write a corpus folder, whole or not at all.

    The files depend on the sizes and the seed only. From 48 training utterances on, all 61
    phones occur in the training set.

    Args:
        path: folder to write; an existing one is replaced if it is empty or such a corpus.
        n_train, n_develop, n_test: utterances a split, at most `N_MOST`.
        seed: any whole number from 0.
        n_processes: how many work at once; None: one a core.

    Returns:
        Minutes of sound written.

    Raises:
        UserError: a size out of range, a foreign folder in the way, or one that cannot be written.
    """
    sizes = {"n_train": n_train, "n_develop": n_develop, "n_test": n_test}
    for name, n_utterances in sizes.items():
        if not 1 <= n_utterances <= N_MOST[name]:
            raise UserError(
                f"--{name}={n_utterances}: expected 1 to {N_MOST[name]} utterances, TIMIT's number"
            )
    path = os.path.realpath(path)  # an empty --output_path means the folder one stands in
    plan = plan_corpus(**sizes)
    try:
        if os.path.lexists(path) and not _may_replace(path):
            raise UserError(
                f"{path} exists and is no synthetic corpus (it has no {MARKER}): choose another "
                "--output_path or remove it"
            )
        with write_whole_folder(path) as folder:
            for speaker_folder in {os.path.dirname(utterance.path) for utterance in plan}:
                os.makedirs(os.path.join(folder, speaker_folder))
            write = functools.partial(_write_utterance, folder, seed)
            with _parallel_map(
                n_processes or command_line.available_cores(), len(plan)
            ) as parallel_map:
                n_samples = sum(
                    progress_bar(parallel_map(write, plan), total=len(plan), unit="utterance")
                )
            note = "Synthetic sounds in TIMIT's format, no speech; written by synthetic_timit.py."
            write_json(os.path.join(folder, MARKER), {"note": note, **sizes, "seed": seed})
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    return n_samples / SAMPLE_RATE_HZ / 60


def _may_replace(path):
    """Whether a folder is empty or a corpus of this script's."""
    return os.path.isdir(path) and (
        not os.listdir(path) or os.path.isfile(os.path.join(path, MARKER))
    )


@contextlib.contextmanager
def _parallel_map(n_processes, n_utterances):
    """A `map` over processes, as many as are worth their start of about a second."""
    n_processes = min(n_processes, -(-n_utterances // 50))
    if n_processes == 1:
        yield map
        return
    # Spawned, not forked: the caller may have TensorFlow's threads. Ctrl-C is the parent's.
    context = multiprocessing.get_context("spawn")
    with context.Pool(n_processes, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        yield functools.partial(pool.imap_unordered, chunksize=8)


def _write_utterance(folder, seed, utterance):
    """Write an utterance's four files; returns its number of samples."""
    rng = _generator(seed, utterance.path)
    voice = voice_of(utterance.speaker, seed)
    words, pause_before = sentence(utterance.number, seed)
    phones, word_spans, spellings = ["h#"], [], []
    for place, word in enumerate(words):
        spelling, word_phones = lexicon()[word]
        if place and place == pause_before:
            phones.append("pau")
            spellings[-1] += ","
        word_spans.append((len(phones), len(phones) + len(word_phones), spelling))
        phones += word_phones
        spellings.append(spelling)
    phones.append("h#")

    indices = np.array([_INDEX[phone] for phone in phones])
    factors = voice.tempo * np.exp(_DURATION_SCATTER * rng.standard_normal(len(phones)))
    lengths = _DURATIONS_MS[indices] * factors * (SAMPLE_RATE_HZ / 1000)
    ends = np.cumsum(np.maximum(np.rint(lengths), _SHORTEST_SAMPLES).astype(int))
    bounds = [0, *ends.tolist()]
    samples = synthesise(indices, ends, voice, rng)

    path = os.path.join(folder, utterance.path)
    with open(f"{path}.wav", "wb") as file:
        file.write(_sphere_header(samples, utterance) + samples.astype("<i2").tobytes())
    _write_lines(f"{path}.phn", zip(bounds, bounds[1:], phones))
    _write_lines(f"{path}.wrd", ((bounds[a], bounds[b], word) for a, b, word in word_spans))
    _write_lines(f"{path}.txt", [(0, bounds[-1], " ".join(spellings).capitalize() + ".")])
    return len(samples)


def _write_lines(path, rows):
    with open(path, "w", encoding="ascii", newline="\n") as file:
        file.writelines(f"{start} {end} {text}\n" for start, end, text in rows)


def _sphere_header(samples, utterance):
    """NIST SPHERE header, 1024 bytes, of 16-bit mono samples with the low byte first."""
    name = utterance.speaker.split("/")[1][1:] + f"_{utterance.style}{utterance.number}"
    fields = {
        "database_id": "synthetic_timit",
        "database_version": "1.0",
        "utterance_id": name,
        "channel_count": 1,
        "sample_count": len(samples),
        "sample_rate": SAMPLE_RATE_HZ,
        "sample_min": samples.min(),
        "sample_max": samples.max(),
        "sample_n_bytes": 2,
        "sample_byte_format": "01",
        "sample_sig_bits": 16,
    }
    lines = ["NIST_1A", "   1024"]
    for field, value in fields.items():
        kind = f"s{len(value)}" if isinstance(value, str) else "i"
        lines.append(f"{field} -{kind} {value}")
    return "\n".join([*lines, "end_head", ""]).encode("ascii").ljust(1024)


# ------------------------------------------------------------------------------ command line


def define_flags(flag_values):
    """Define the script's flags on an `absl.flags.FlagValues`."""
    flags.DEFINE_string(
        "output_path",
        "timit_synthetic",
        "folder to write; a synthetic corpus there is replaced",
        flag_values=flag_values,
    )
    for name, default, what in (
        ("n_train", 80, "training"),
        ("n_develop", 24, "development"),
        ("n_test", 24, "test"),
    ):
        flags.DEFINE_integer(
            name,
            default,
            f"utterances in the {what} set, 1 to {N_MOST[name]}",
            flag_values=flag_values,
        )
    flags.DEFINE_integer(
        "seed",
        1,
        "seed of voices, sentences and chance",
        lower_bound=0,
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "n_processes",
        command_line.available_cores(),
        "processes that work at once; the corpus does not depend on it",
        lower_bound=1,
        flag_values=flag_values,
    )


def main(flag_values):
    """Write the corpus and say what it holds."""
    started_s = time.perf_counter()
    names = ("n_train", "n_develop", "n_test", "seed", "n_processes")
    minutes = write_corpus(
        flag_values.output_path, **{name: flag_values[name].value for name in names}
    )
    print(
        f"{flag_values.output_path}: {flag_values.n_train} training, {flag_values.n_develop} "
        f"development and {flag_values.n_test} test utterances, {minutes:.1f} minutes of sound, "
        f"written in {time.perf_counter() - started_s:.1f} s"
    )


if __name__ == "__main__":
    command_line.run(main, define_flags, __doc__)
