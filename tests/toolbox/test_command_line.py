"""Flags, errors in one line, exit statuses, and TensorFlow's greetings."""

import io
import os
import signal
import subprocess
import sys
import time

import pytest
from absl import flags

from helpers import REPOSITORY, assert_user_error
from toolbox import command_line
from toolbox.command_line import UserError, parse_flags, progress_bar, run

DESCRIPTION = """What the script does.

    python script.py --n=2
"""


def define_flags(flag_values):
    flags.DEFINE_integer("n", 3, "how many", 1, flag_values=flag_values)
    flags.DEFINE_bool("adam", True, "which optimiser", flag_values=flag_values)
    flags.DEFINE_enum("rule", None, ["one", "two"], "which rule", flag_values=flag_values)
    flags.DEFINE_float("rate", 0.01, "how fast", 0, flag_values=flag_values)
    flags.DEFINE_string("name", "", "what it is called", flag_values=flag_values)
    command_line.define_path("out", "out.npz", "file to write", flag_values)
    command_line.define_path("read", [], "files to read", flag_values, many=True)


def parse(*arguments, n_positional=0):
    return parse_flags(define_flags, ["script.py", *arguments], n_positional)


def test_defaults_and_values():
    flag_values, positional = parse()
    assert (flag_values.n, flag_values.adam, flag_values.rule) == (3, True, None)
    assert (flag_values.rate, flag_values.name, positional) == (0.01, "", [])
    flag_values, _ = parse("--n=5", "--noadam", "--rule", "two", "--rate=1e-3", "--name=a b")
    assert (flag_values.n, flag_values.adam, flag_values.rule) == (5, False, "two")
    assert (flag_values.rate, flag_values.name) == (0.001, "a b")
    assert parse("--adam=False")[0].adam is False


def test_two_command_lines_do_not_share_flags():
    first, _ = parse("--n=5")
    second, _ = parse("--n=6")
    assert (first.n, second.n) == (5, 6)


@pytest.mark.parametrize(
    "argument, words",
    [
        ("--rule=three", ["--rule=three", "one", "two"]),
        ("--rule=", ["--rule=", "one", "two"]),
        ("--n=0", ["--n=0", "positive"]),
        ("--n=1.5", ["--n=1.5"]),
        ("--n=many", ["--n=many"]),
        ("--rate=-1", ["--rate=-1", "non-negative"]),
        ("--adam=perhaps", ["--adam=perhaps"]),
        ("--norule", ["norule"]),
        ("--name", ["--name"]),
        ("--unknown=1", ["unknown"]),
        ("--n=1\n2", ["--n=1 2"]),
    ],
)
def test_a_wrong_flag_is_one_line(argument, words):
    with pytest.raises(UserError) as error:
        parse(argument)
    message = str(error.value)
    assert "\n" not in message and "--help" in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("arguments", [["--adam", "False"], ["x"], ["x", "--n=2"], ["--", "x"]])
def test_leftover_arguments_are_refused(arguments):
    with pytest.raises(UserError, match="'(False|x)': give values as --flag=value"):
        parse(*arguments)


def test_positional_arguments():
    assert parse("--n=2", "a", "b", n_positional=2)[1] == ["a", "b"]
    assert parse("a", n_positional=2)[1] == ["a"]
    assert parse("a", "b", "c", n_positional=-1)[1] == ["a", "b", "c"]
    with pytest.raises(UserError, match="'c'"):
        parse("a", "b", "c", n_positional=2)


def test_paths_are_expanded_however_they_are_quoted(monkeypatch):
    monkeypatch.setenv("HOME", "/home/of/anna")
    flag_values, positional = parse(
        "--out=~/x.npz", "--read=~/1", "--read=2", "~/a b", "~", n_positional=2
    )
    assert flag_values.out == "/home/of/anna/x.npz"
    assert flag_values.read == ["/home/of/anna/1", "2"]
    assert positional == ["/home/of/anna/a b", "/home/of/anna"]
    assert parse("--out", "x/~")[0].out == "x/~" and parse("--out=")[0].out == ""
    with pytest.raises(UserError, match="--out=~nobody-of-this-name.*no such home folder"):
        parse("--out=~nobody-of-this-name/x")


@pytest.mark.parametrize(
    "path, words",
    [
        ("w.txt", "expected the name of a .npz file"),
        ("folder.npz", "expected the name of a .npz file"),
        ("missing/w.npz", "no folder missing: make it first"),
    ],
)
def test_where_to_write_is_checked_before_the_work(path, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("folder.npz")
    command_line.check_output_file(parse("--out=w.npz")[0], "out", ".npz")
    command_line.check_output_file(parse("--out=")[0], "out", ".npz")
    with pytest.raises(UserError, match=f"--out={path}: .*{words}"):
        command_line.check_output_file(parse(f"--out={path}")[0], "out", ".npz")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match="cannot write to the folder"):
        command_line.check_output_file(parse("--out=w.npz")[0], "out", ".npz")


def run_and_exit(main, *arguments, **options):
    """Exit status of `run`."""
    with pytest.raises(SystemExit) as ended:
        run(main, define_flags, DESCRIPTION, ["folder/script.py", *arguments], **options)
    return ended.value.code


def test_main_gets_flags_and_arguments(capsys):
    seen = []

    def main(flag_values, *positional):
        seen.append((flag_values.n, positional))

    assert not run_and_exit(main, "--n=4", "a", "b", n_positional=2)
    assert seen == [(4, ("a", "b"))]
    assert capsys.readouterr() == ("", "")


def test_what_main_returns_is_the_exit_status():
    assert run_and_exit(lambda flag_values: 1) == 1


def test_a_users_mistake_ends_in_one_line(capsys):
    def main(flag_values):
        raise UserError("the folder 'x' is missing: make it")

    assert run_and_exit(main) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "script.py: error: the folder 'x' is missing: make it\n")
    assert run_and_exit(main, "--rule=three") == 2
    assert capsys.readouterr().err.startswith("script.py: error: flag --rule=three:")


def test_ctrl_c_ends_without_a_traceback(capsys):
    def main(flag_values):
        raise KeyboardInterrupt

    assert run_and_exit(main) == 130
    assert capsys.readouterr().err == "script.py: interrupted\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_script_well(number, capsys):
    """What has to be done at the end is done, and the status is a shell's."""
    done = []

    def main(flag_values):
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)
        finally:
            done.append(True)

    before = signal.getsignal(number)
    assert run_and_exit(main) == 128 + number
    assert done == [True] and signal.getsignal(number) is before
    assert capsys.readouterr().err == "script.py: interrupted\n"


def test_an_ignored_signal_stays_ignored():
    """As in `nohup` or a shell's background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert not run_and_exit(lambda flag_values: os.kill(os.getpid(), signal.SIGINT))
    finally:
        signal.signal(signal.SIGINT, before)


def test_signals_wait_for_a_good_moment():
    with command_line.deferred_signals() as stop_if_asked:
        stop_if_asked()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)  # nothing happens
        with pytest.raises(command_line.Interrupted) as ended:
            stop_if_asked()
        assert ended.value.signal_number == signal.SIGTERM and not ended.value.is_urgent
        with pytest.raises(command_line.Interrupted) as ended:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
        assert ended.value.signal_number == signal.SIGINT and ended.value.is_urgent


def test_want_of_memory_is_one_line(capsys):
    def main(flag_values):
        raise MemoryError("Unable to allocate 9 TiB")

    assert run_and_exit(main) == 2
    assert capsys.readouterr().err.startswith("script.py: error: not enough memory (Unable to")


@pytest.mark.parametrize("argument", ["--flagfile=/dev/zero", "-flagfile=x", "--undefok=a"])
def test_flags_from_files_and_ignored_flags_are_refused(argument):
    with pytest.raises(UserError, match="Unknown command line flag"):
        parse(argument)
    assert parse("--name=--flagfile=x")[0].name == "--flagfile=x"


def test_messages_cannot_steer_a_terminal(capsys):
    def main(flag_values):
        raise UserError("file '\x1b[2J\udcff\u202e' is\nodd")

    assert run_and_exit(main) == 2
    expected = "script.py: error: file '\\x1b[2J\\udcff\\u202e' is odd\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_a_closed_pipe_ends_a_script_quietly(arguments, monkeypatch, capsys):
    """As `head` closes it; a handler of OSErrors between is not asked."""

    def main(flag_values):
        try:
            print("a line")
        except OSError:
            raise UserError("the disk is full") from None

    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert run_and_exit(main, *arguments) == 128 + signal.SIGPIPE
        assert sys.stdout is stream
        print("what comes later goes nowhere", flush=True)
    assert capsys.readouterr().err == ""


def test_a_script_without_an_output(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", None)
    assert not run_and_exit(lambda flag_values: print("unheard"))
    assert capsys.readouterr().err == ""


def test_other_errors_keep_their_traceback():
    def main(flag_values):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(main, define_flags, DESCRIPTION, ["script.py"])


@pytest.mark.parametrize("argument", ["--help", "-h"])
def test_help_shows_the_description_and_all_flags(argument, capsys):
    def main(flag_values):
        raise AssertionError("ran")

    assert run_and_exit(main, argument) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.startswith(DESCRIPTION.strip())
    for name, default in (("n", "3"), ("rate", "0.01"), ("adam", "true"), ("name", "")):
        assert f"{name}: " in out and f"(default: '{default}')" in out
    assert "<one|two>" in out
    assert not any(word in out for word in ("flagfile", "undefok", "\ntoolbox.command_line:"))


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_progress_bar_is_for_terminals(monkeypatch):
    for stream, is_shown in ((io.StringIO(), False), (Terminal(), True)):
        monkeypatch.setattr(sys, "stderr", stream)
        assert list(progress_bar(range(3), desc="working")) == [0, 1, 2]
        assert ("working" in stream.getvalue()) == is_shown


# A module in TensorFlow's place shows what happens to its output on every path.
FAKE_TENSORFLOW = """
import os, sys, unittest.mock
config = unittest.mock.Mock()
os.write(2, b"greeting\\n")
print("greeting from Python", file=sys.stderr)
"""
SCRIPT = """
import os, sys
from toolbox import command_line
before = len(os.listdir("/dev/fd"))
command_line.import_tensorflow()
print("imported", "tensorflow" in sys.modules, os.environ["TF_CPP_MIN_LOG_LEVEL"])
print(len(os.listdir("/dev/fd")) - before)
print("after", file=sys.stderr)
"""


def import_fake_tensorflow(folder, code, script=SCRIPT, **environment):
    (folder / "tensorflow.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{REPOSITORY}", **environment}
    return subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )


def test_greetings_are_silenced_while_importing_only(tmp_path):
    process = import_fake_tensorflow(tmp_path, FAKE_TENSORFLOW, TF_CPP_MIN_LOG_LEVEL="1")
    assert process.returncode == 0
    assert process.stdout == "imported True 1\n0\n"  # and no file is left open
    assert process.stderr == "after\n"


def test_keras_finds_no_extras(tmp_path):
    """What is hidden from it while TensorFlow is imported can be imported afterwards."""
    code = """
try:
    import matplotlib
except ImportError:
    print("hidden")
"""
    script = SCRIPT + "import matplotlib; print(matplotlib.__name__)"
    process = import_fake_tensorflow(tmp_path, FAKE_TENSORFLOW + code, script)
    assert process.stdout.startswith("hidden\nimported True")
    assert process.stdout.endswith("matplotlib\n")


def test_greetings_are_shown_when_the_import_fails(tmp_path):
    code = FAKE_TENSORFLOW + "raise ImportError('no such library')"
    process = import_fake_tensorflow(tmp_path, code)
    assert process.returncode == 1 and process.stdout == ""
    for text in ("greeting\n", "greeting from Python\n", "ImportError: no such library"):
        assert text in process.stderr


def test_a_script_reports_mistakes_by_its_own_name(run_script):
    """The real command line of a script that needs no TensorFlow."""
    process = run_script("timit_processing.py", "--n_processes=none")
    assert_user_error(process, "timit_processing.py: error:", "--n_processes=none")
    assert process.stdout == ""
