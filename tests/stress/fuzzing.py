"""Broken and hostile input, made by hypothesis: every case is read, or refused with a UserError.

`TARGETS` maps a kind of input to a function (folder, n_cases, derandomize) that tries so many cases
and returns how many it tried. The everyday tests try few, always the same; `make soak` many.
"""

import collections
import contextlib
import dataclasses
import io
import json
import os
import pickle
import shutil
import signal
import struct
import zipfile
from pathlib import Path
from types import SimpleNamespace

import mutations
import numpy as np
from corpora import riff, sphere
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from helpers import write_corpus
from toolbox import command_line
from toolbox.command_line import UserError

command_line.import_tensorflow()

import models  # noqa: E402
import solve_timit_with_framewise_lsnn as lsnn  # noqa: E402
import solve_timit_with_framewise_lstm as lstm  # noqa: E402
import timit_processing  # noqa: E402
import verify_eprop  # noqa: E402
from speech import checks, labels  # noqa: E402
from speech import dataset as dataset_module  # noqa: E402
from speech.audio import read_audio  # noqa: E402
from speech.corpus import Utterance, find_corpus  # noqa: E402
from speech.facts import PHONES_61  # noqa: E402
from speech.features import read_htk  # noqa: E402
from speech.plain_pickle import load_plain_pickle  # noqa: E402
from speech.recordings import read_utterance  # noqa: E402
from toolbox import arrays
from training import checkpoints, run_folder  # noqa: E402
from training.checkpoints import load_weights  # noqa: E402

HANG_S = 20  # a case that takes longer hangs
NUMBERS = [0, 1, 2, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 10**25]
NASTY = [
    "",
    " ",
    "\n",
    "\0",
    "..",
    "../../x",
    "/etc/passwd",
    "nan",
    "inf",
    "-1",
    "1e999",
    "ä\u2028",
]


@contextlib.contextmanager
def only_user_errors():
    """Whatever the block is given, it ends soon, with nothing or with one line to the user."""

    def too_long(*_):
        raise AssertionError(f"hangs: more than {HANG_S} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, HANG_S)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            np.errstate(all="raise"),
        ):
            yield
    except UserError as error:
        assert str(error).strip() and len(str(error)) < 5000
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def trial(strategy, function, n_cases, derandomize):
    """Run `function` on cases of a strategy; hypothesis shrinks one that fails. How many it ran."""
    count = collections.Counter()

    @settings(
        max_examples=n_cases,
        derandomize=derandomize,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(case):
        count["cases"] += 1
        with only_user_errors():
            function(case)

    run()
    return count["cases"]


def write(path, content):
    with open(path, "wb") as file:
        file.write(content)
    return str(path)


@st.composite
def damaged(draw, originals, tokens=()):
    """A good file with a few of its bytes changed, cut, doubled, or replaced by what may hurt."""
    content = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(content)))
        kind = draw(st.sampled_from(["bytes", "bit", "cut", "drop", "double", "number", "token"]))
        end = min(len(content), place + draw(st.integers(1, 40)))
        if kind == "bytes":
            content[place:end] = draw(st.binary(max_size=20))
        elif kind == "bit" and place < len(content):
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del content[place:]
        elif kind == "drop":
            del content[place:end]
        elif kind == "double":
            content[place:place] = content[place:end] * draw(st.integers(1, 50))
        elif kind == "number":
            number = draw(st.sampled_from(NUMBERS))
            packed = [str(number).encode(), str(-number).encode()]
            packed += [
                struct.pack(f, number)
                for f, n in (("<I", 32), (">I", 32), ("<Q", 64))
                if number < 2**n
            ]
            packed = draw(st.sampled_from(packed))
            content[place : place + len(packed)] = packed
        elif kind == "token" and tokens:
            content[place:place] = draw(st.sampled_from(tokens))
    return bytes(content)


# --------------------------------------------------------------------------- the corpus's files


PHN = b"0 3050 h#\n3050 4559 sh\n4559 5723 ix\n5723 6642 hv\n6642 16000 h#\n"


def phn(folder, n_cases, derandomize):
    path = os.path.join(folder, "x.phn")
    phones = [f" {phone}\n".encode() for phone in PHONES_61[:8]] + [b" \t" * 2000, b"\xef\xbb\xbf"]
    rows = st.lists(
        st.tuples(st.sampled_from(NUMBERS), st.sampled_from(NUMBERS), st.text(max_size=8))
    ).map(lambda rows: "".join(f"{s} {e} {p}\n" for s, e, p in rows).encode(errors="replace"))
    contents = damaged([PHN, b"0 16000 h#"], phones) | rows | st.binary(max_size=200)

    def read(content):
        spans = labels.read_phones(write(path, content), 16000)[0]
        assert spans and all(phone in PHONES_61 for _, _, phone in spans)
        found = labels.frame_labels(spans, labels.PHONE_INDEX, 99, 160)
        assert found.shape == (99,)

    return trial(contents, read, n_cases, derandomize)


def audio(folder, n_cases, derandomize):
    path = os.path.join(folder, "x.wav")
    samples = np.random.default_rng(0).integers(-3000, 3000, 500)
    tokens = [b"sample_count -i 99999999999\n", b"channel_count -i 9\n", b"end_head\n", b"data"]
    tokens += [b"sample_coding -s26 pcm,embedded-shorten-v2.00\n", b"sample_rate -i 0\n", b"LIST"]
    tokens += [b"sample_n_bytes -i 4\n", b"sample_coding -s4 ulaw\n", b"NIST_1A\n", b"\xff" * 8]

    def read(content):
        found, _ = read_audio(write(path, content))
        assert found.dtype == np.int16 and found.ndim == 1 and len(found) >= 400

    heads = damaged([sphere(samples), riff(samples)], tokens)
    early = heads.flatmap(lambda c: damaged([c[:1100]], tokens))  # more of the damage in headers
    return trial(heads | early, read, n_cases, derandomize)


def utterances(folder, n_cases, derandomize):
    """Kinds of damage of which it is known whether they must be read, noted or refused."""
    originals = mutations.originals()
    stem = os.path.join(folder, "x")

    @st.composite
    def cases(draw):
        while True:
            name = draw(st.sampled_from(sorted(mutations.MUTATIONS)))
            verdict, mutate = mutations.MUTATIONS[name]
            files = dataclasses.replace(draw(st.sampled_from(originals)))
            files.others = dict(files.others)
            if mutate(draw, files) is not False:
                return name, verdict, files

    def read(case):
        name, verdict, files = case
        contents = {files.suffix: files.sound, ".phn": files.phn, **files.others}
        contents = {suffix: content for suffix, content in contents.items() if content is not None}
        for suffix, content in contents.items():
            write(stem + suffix, content)
        try:
            audio_path = stem + files.suffix if files.suffix in contents else ""
            utterance = Utterance(stem, audio_path, "train", "train", "dr1", "f0", "x")
            content, problems, notes = read_utterance(utterance, with_htk=False)
        finally:
            for suffix in contents:
                os.remove(stem + suffix)
        if verdict is None:
            assert not problems, (name, problems)
        else:
            found = mutations.REFUSED if problems else mutations.NOTED if notes else mutations.READ
            assert found == verdict, (name, problems, notes)
        if verdict in (None, mutations.READ):
            assert content.phone_spans == files.rows, name
        if not problems and name != "silence":
            np.testing.assert_array_equal(content.audio, files.samples)

    return trial(cases(), read, n_cases, derandomize)


def folders(folder, n_cases, derandomize):
    """The same for files that are missing, strange or in another place."""
    good, path = os.path.join(folder, "good"), os.path.join(folder, "timit")
    write_corpus(good, n_train=2)

    def found(path):
        corpus = find_corpus(path)
        _, bad, _ = checks.check_utterances(map, corpus.utterances, False)
        return [u.stem[len(path) :] for u in corpus.utterances], bad

    expected = found(good)[0]

    @st.composite
    def cases(draw):
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(good, path)
        name = draw(st.sampled_from(sorted(mutations.FOLDERS)))
        verdict, mutate = mutations.FOLDERS[name]
        mutate(draw, path)
        return name, verdict

    def read(case):
        name, verdict = case
        try:
            stems, bad = found(path)
            verdict_found = mutations.REFUSED if bad else mutations.READ
        except UserError:
            verdict_found = mutations.REFUSED
        assert verdict_found == verdict, name
        assert verdict == mutations.REFUSED or stems == expected, name

    return trial(cases(), read, n_cases, derandomize)


def htk(folder, n_cases, derandomize):
    path = os.path.join(folder, "x.htk")
    features = np.arange(30, dtype=">f4").tobytes()
    good = [struct.pack(">IIHH", 10, 100000, 12, kind) + features for kind in (9, 9 | 0o2000)]
    headers = st.builds(
        lambda n, period, size, kind, rest: struct.pack(">IIHH", n, period, size, kind) + rest,
        st.integers(0, 2**32 - 1) | st.integers(0, 12),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**16 - 1) | st.integers(0, 16),
        st.integers(0, 2**16 - 1),
        st.binary(max_size=130),
    )

    def read(content):
        found = read_htk(write(path, content), 10)
        assert found.dtype == np.float32 and len(found) == 10 and np.isfinite(found).all()

    return trial(damaged(good) | headers, read, n_cases, derandomize)


def corpus(folder, n_cases, derandomize):
    """A whole corpus with a damaged file: the output is complete, or what was there before."""
    source, output = os.path.join(folder, "timit"), os.path.join(folder, "out")
    with contextlib.redirect_stdout(io.StringIO()):
        write_corpus(source)
    paths = [os.path.join(d, f) for d, _, files in os.walk(source) for f in files]
    paths = sorted(p for p in paths if p.endswith((".wav", ".phn", ".wrd", ".txt")))
    good = {path: Path(path).read_bytes() for path in paths}
    flag_values, _ = command_line.parse_flags(
        timit_processing.define_flags,
        ["x", f"--data_path={source}", f"--output_path={output}", "--n_processes=1"],
    )
    tokens = [b"0 9999 ../../../escaped\n", b"0 1 /tmp/escaped\n", b"\0", b"\x1b[2J"]
    cases = st.sampled_from(paths).flatmap(
        lambda path: st.tuples(st.just(path), damaged([good[path][:1500]], tokens))
    )

    def run(case):
        path, content = case
        write(path, content)
        before = os.path.exists(output) and os.stat(output).st_ino
        try:
            timit_processing.main(flag_values)
        except UserError:
            assert (os.path.exists(output) and os.stat(output).st_ino) == before
            raise
        finally:
            write(path, good[path])
            names = {"timit", "out", "out.problems.txt"}
            assert names >= set(os.listdir(folder))  # nothing half-written, nothing escaped
        dataset_module.TimitDataset(output)

    return trial(cases, run, n_cases, derandomize)


# --------------------------------------------------------------------------- pickles


def _pickles():
    rng = np.random.default_rng(1)
    values = [
        [rng.standard_normal((3, 13)).astype(np.float32), np.arange(4, dtype=np.int32)],
        [{"dr": "dr1", "speaker": "fvmh0", "text": "She had", "duration": 2.5, "n": 10**20}],
        [None, True, (1, b"x", "y"), np.float64(3), np.asfortranarray(np.ones((2, 3)))],
    ]
    return [pickle.dumps(value, protocol) for value in values for protocol in range(6)]


NAMES = [
    "os system",
    "builtins eval",
    "numpy ndarray",
    "numpy dtype",
    "posix system",
    "codecs open",
    "numpy.core.multiarray _reconstruct",
    "numpy._core.multiarray scalar",
    "_codecs encode",
    "numpy.core.numeric _frombuffer",
    "numpy load",
    "subprocess Popen",
    "copyreg _reconstructor",
]
OPCODES = [
    b"(",
    b")",
    b"]",
    b"}",
    b"N",
    b"\x88",
    b"K\x05",
    b"M\x10\x00",
    b"J\xff\xff\xff\xff",
    b"I10\n",
    b"L99L\n",
    b"\x8a\x01\x07",
    b"U\x02f8",
    b"X\x01\x00\x00\x00b",
    b"\x8c\x02i4",
    b"C\x04abcd",
    b"\x8e\x00\x00\x00\x00\x00\x00\x00\x40",
    b"t",
    b"\x85",
    b"\x86",
    b"\x87",
    b"l",
    b"d",
    b"a",
    b"e",
    b"s",
    b"u",
    b"R",
    b"b",
    b"o",
    b"\x81",
    b"\x92",
    b"\x93",
    b"\x94",
    b"q\x00",
    b"h\x00",
    b"r\x00\x00\x00\x10",
    b"0",
    b"1",
    b"2",
    b"\x8f",
    b"\x90",
    b"\x91",
    b"\x96\x04" + b"\0" * 7 + b"abcd",
    b"\x97",
    b"\x98",
    b"\x82\x01",
    b"P0\n",
    b"Q",
    b"\x95\x10" + b"\0" * 7,
    b"\x80\x04",
    b"\x80\x05",
    b"F1e999\n",
    b"G\x7f\xf0\x00\x00\x00\x00\x00\x00",
    b"S'rm'\n",
    b"V\\ud800\n",
    b"B\xff\xff\xff\x7f",
    *(b"c" + name.replace(" ", "\n").encode() + b"\n" for name in NAMES),
    *(b"i" + name.replace(" ", "\n").encode() + b"\n" for name in NAMES[:3]),
]


def pickles(folder, n_cases, derandomize):
    path = os.path.join(folder, "x.pickle")
    programs = st.lists(st.sampled_from(OPCODES), max_size=25).map(lambda p: b"".join(p) + b".")
    trap = os.path.join(folder, "trap")
    attacks = [
        b"cos\nsystem\n(S'touch %s'\ntR." % trap.encode(),
        b"cbuiltins\nopen\n(S'%s'\nS'w'\ntR." % trap.encode(),
    ]

    def read(content):
        load_plain_pickle(write(path, content))

    def check(content):
        try:
            read(content)
        finally:
            assert not os.path.exists(trap)

    cases = damaged(_pickles() + attacks, OPCODES) | programs
    return trial(cases, check, n_cases, derandomize)


def dataset_folder(folder, n_cases, derandomize):
    """A data set with one file replaced by strange values of the right kinds."""
    good = os.path.join(folder, "good")
    corpus_path = os.path.join(folder, "timit")
    with contextlib.redirect_stdout(io.StringIO()):
        write_corpus(corpus_path)
        flag_values, _ = command_line.parse_flags(
            timit_processing.define_flags,
            ["x", f"--data_path={corpus_path}", f"--output_path={good}", "--n_processes=1"],
        )
        timit_processing.main(flag_values)
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    scalars |= st.sampled_from([1e300, "h#", -1, "\ud800"])
    scalars |= st.sampled_from([50, 5000]).map(lambda n_digits: 10**n_digits)
    arrays = st.builds(
        lambda dtype, shape, value: np.full(shape, value, dtype),
        st.sampled_from(["f4", "f8", "i4", "u1", "i8", "f2", "?"]),
        st.lists(st.integers(0, 20), max_size=3).map(tuple),
        st.sampled_from([0, 1, 60, 100]),
    ) | st.builds(
        lambda n, width, value: np.full((n, width), value),
        st.integers(0, 300),
        st.sampled_from([0, 1, 13]),
        st.sampled_from([0.0, 1e300, np.nan, 1e-300]),
    )
    values = st.recursive(
        scalars | arrays,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["dr", "speaker", "text", "utterance"]) | scalars, inner
            )
        ),
        max_leaves=8,
    )
    json_values = st.recursive(
        scalars.filter(lambda v: not (isinstance(v, int) and abs(v) > 10**300)),
        lambda inner: st.lists(inner, max_size=70) | st.dictionaries(st.text(max_size=9), inner),
        max_leaves=80,
    )
    names = [
        "mfccs.pickle",
        "reduced_phonems.pickle",
        "metadata.pickle",
        "phonem_list.json",
        "reduced_phn_index_mapping.json",
        "processing.json",
    ]
    entries = {name: load_plain_pickle(os.path.join(good, "train", name)) for name in names[:3]}

    def read(case):
        name, value, in_list, split = case
        path = os.path.join(good, "" if name == "processing.json" else split, name)
        if name.endswith("json"):
            content = json.dumps(value[1]).encode(errors="surrogatepass")
        else:
            content = pickle.dumps([value[0], *entries[name][1:]] if in_list else value[0])
        with open(path, "rb") as file:
            before = file.read()
        write(path, content)
        try:
            flag_values, _ = command_line.parse_flags(lstm.define_flags, ["x", f"--dataset={good}"])
            task = lstm.make_task(flag_values)
            batch = next(task.training_batches(flag_values.batch, np.random.default_rng(1)))
            assert np.isfinite(batch.features).all()
        finally:
            write(path, before)

    cases = st.tuples(
        st.sampled_from(names),
        st.tuples(values, json_values),
        st.booleans(),
        st.sampled_from(["train", "develop"]),
    )
    return trial(cases, read, n_cases, derandomize)


# --------------------------------------------------------------------------- weights, checkpoints


def _npz(named):
    content = io.BytesIO()
    np.savez(content, **named)
    return content.getvalue()


@st.composite
def archives(draw, named):
    """An `.npz` of the given arrays with a few changed in name, shape, type, value or header."""
    changed = dict(named)
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(changed)))
        kind = draw(st.sampled_from(["drop", "rename", "type", "shape", "value", "object"]))
        array = changed.pop(name)
        if kind == "rename":
            changed[draw(st.sampled_from(NASTY) | st.text(max_size=6))] = array
        elif kind == "type":
            dtype = draw(st.sampled_from(["f2", "f8", "i8", "c8", "U3", "S2", "?", "f16", "V4"]))
            changed[name] = np.zeros(array.shape, dtype)
        elif kind == "shape":
            changed[name] = np.zeros(draw(st.lists(st.integers(0, 9), max_size=4)), array.dtype)
        elif kind == "value":
            bad = draw(st.sampled_from([np.nan, np.inf, 1e300, -1]))
            changed[name] = np.full(array.shape, bad, "f8")
        elif kind == "object":
            changed[name] = np.array([{"x": 1}, None], object)
        if not changed:
            break
    content = io.BytesIO()
    compression = draw(
        st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
    )
    edit = draw(st.sampled_from(["none", "header", "bomb"]))
    with zipfile.ZipFile(content, "w", compression) as archive:
        for name, array in changed.items():
            file = io.BytesIO()
            np.lib.format.write_array(file, array)
            data = file.getvalue()
            if edit == "header":
                data = draw(damaged([data], [b"(9999999999,)", b"'|O'", b"(-1,)", b"[" * 300]))
            archive.writestr(f"{name}.npy".replace("\0", ""), data)
        if edit == "bomb" and draw(st.integers(0, 20)) == 0:
            archive.writestr("bomb.npy", bytes(2**27))
    return content.getvalue()


def _network():
    flag_values, _ = command_line.parse_flags(
        lstm.define_flags, ["x", "--n_lstm=3", "--eprop=adaptive"]
    )
    return lstm.make_network(
        flag_values, SimpleNamespace(n_features=2, n_classes=4, dataset=None), 1
    )


def weights(folder, n_cases, derandomize):
    path, network = os.path.join(folder, "x.npz"), _network()
    good = {name: variable.numpy() for name, variable in network.weights().items()}

    def read(content):
        try:
            load_weights(write(path, content), network)
            assert all(np.isfinite(v.numpy()).all() for v in network.weights().values())
        except UserError:
            for name, variable in network.weights().items():
                np.testing.assert_array_equal(variable.numpy(), good[name])
            raise
        for name, variable in network.weights().items():
            variable.assign(good[name])

    return trial(damaged([_npz(good)]) | archives(good), read, n_cases, derandomize)


def run_checkpoints(folder, n_cases, derandomize):
    good = {"w_in": np.ones((2, 3), np.float32), "b": np.zeros(2, np.float32)}
    state = {"0_iteration": np.array(3, np.int64), "1_m": np.zeros(2, np.float32)}
    record = {"iteration": 0, "epoch": 0, "metric": "frame_error", "develop_frame_error": 0.5}
    record |= {"develop_loss": 0.5, "train_loss": None}
    progress = checkpoints.Progress(
        3, 0, [record, {**record, "iteration": 2}], [0.1] * 3, [2.0], good, {"layer 0": "silent"}
    )
    checkpoints.save(folder, good, state, progress)
    path = os.path.join(folder, checkpoints.LAST)
    with open(path, "rb") as file:
        content = file.read()
    saved = arrays.read_arrays(path, 10**9)
    text = saved["progress"].tobytes()
    wrong = st.sampled_from([None, -1, 10**400, 1.5, [], {}, "x", [[]], [{}], [1], True, {"a": 1}])
    records = st.dictionaries(st.sampled_from(sorted(record)), wrong).map(
        lambda change: {**json.loads(text), "evaluations": [{**record, **change}]}
    )
    fields = st.dictionaries(st.sampled_from([*json.loads(text), "more"]), wrong).map(
        lambda change: {**json.loads(text), **change}
    )
    states = damaged([text]) | (records | fields).map(lambda v: json.dumps(v).encode())
    shapes = {
        kind: {n: (a.shape, a.dtype) for n, a in named.items()}
        for kind, named in (("weights", good), ("state", state))
    }

    def read(content):
        write(path, content)
        found = checkpoints.load(folder, shapes["weights"], shapes["state"])
        if found is not None:
            progress = found[2]
            assert progress.best["iteration"] <= progress.iteration
            assert type(progress.is_evaluated) is bool and json.dumps(progress.evaluations)

    cases = (
        damaged([content])
        | archives(saved)
        | states.map(lambda s: _npz({**saved, "progress": np.frombuffer(s, np.uint8)}))
    )
    return trial(cases, read, n_cases, derandomize)


# --------------------------------------------------------------------------- flags


def flags(folder, n_cases, derandomize):
    del folder
    scripts = [lsnn, lstm, timit_processing, verify_eprop]
    known = {
        script: sorted(command_line.parse_flags(script.define_flags, ["x"])[0])
        for script in scripts
    }
    value = st.sampled_from(NASTY + [str(n) for n in NUMBERS]) | st.text(max_size=10)
    value |= st.integers().map(str) | st.floats().map(str) | st.booleans().map(str)

    def arguments(script):
        name = st.sampled_from(known[script]) | st.text(max_size=6)
        one = st.builds("--{}={}".format, name, value) | st.builds("--no{}".format, name)
        one |= (
            st.builds("-{}".format, name) | value | st.sampled_from(["--", "--flagfile=/dev/zero"])
        )
        return st.tuples(st.just(script), st.lists(one, max_size=6))

    def parse(case):
        script, command = case
        flag_values, _ = command_line.parse_flags(script.define_flags, ["x", *command])
        if hasattr(script, "check_flags"):
            name = script.EXPERIMENT.script
            flag_values, _ = run_folder.resumed_flags(flag_values, script.define_flags, name)
            script.check_flags(flag_values)

    return trial(st.sampled_from(scripts).flatmap(arguments), parse, n_cases, derandomize)


def run_records(folder, n_cases, derandomize):
    flag_values, _ = command_line.parse_flags(lsnn.define_flags, ["x"])
    name, results = lsnn.EXPERIMENT.script, os.path.join(folder, "results")
    config = models.LsnnConfig.from_flags(flag_values)
    written = run_folder.record_of(name, flag_values, 1, None, config)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.ExitStack() as held:
        resumed = run_folder.make(results, name, [], written, held)
    path = os.path.join(resumed, "flags.json")
    with open(path, "rb") as file:
        good = file.read()
    record = json.loads(good)
    wrong = st.none() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
    wrong |= st.sampled_from([*NASTY, 1e400, True, {}, 10**30])
    changed = st.tuples(
        st.dictionaries(st.sampled_from([*record["flags"], "more", "help", "flagfile"]), wrong),
        st.dictionaries(st.sampled_from(sorted(record)), wrong, max_size=1),
    ).map(lambda c: json.dumps({**record, "flags": {**record["flags"], **c[0]}, **c[1]}).encode())
    flag_values, _ = command_line.parse_flags(lsnn.define_flags, ["x", f"--resume={resumed}"])
    now = run_folder.surroundings()

    def read(content):
        write(path, content)
        found, _ = run_folder.resumed_flags(flag_values, lsnn.define_flags, name)
        lsnn.check_flags(found)
        run_folder.warn_of_differences(resumed, run_folder.read_record(resumed), now, now)

    return trial(damaged([good]) | changed, read, n_cases, derandomize)


TARGETS = {
    "utterances": utterances,
    "folders": folders,
    "phn": phn,
    "audio": audio,
    "htk": htk,
    "corpus": corpus,
    "pickles": pickles,
    "dataset_folder": dataset_folder,
    "weights": weights,
    "checkpoints": run_checkpoints,
    "flags": flags,
    "run_records": run_records,
}
