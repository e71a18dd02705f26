"""One process at a time works in a folder, and a dead one does not keep it."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from helpers import REPOSITORY, assert_user_error, write_corpus
from toolbox import run_lock
from toolbox.command_line import UserError

HOLDER = (
    "import sys, time; sys.path.insert(0, sys.argv[1]); from toolbox import run_lock\n"
    "with run_lock.exclusive('lock', 'FOLDER'): print(flush=True); time.sleep(60)"
)


@pytest.fixture
def holder(tmp_path, monkeypatch):
    """Another process that holds the lock."""
    monkeypatch.chdir(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, REPOSITORY], stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        yield process
        process.kill()


def test_a_second_process_is_told_who_holds_the_lock(holder):
    with pytest.raises(UserError) as error:
        with run_lock.exclusive("lock", "FOLDER"):
            pass
    for word in ("FOLDER", f"process {holder.pid} of ", socket.gethostname(), "wait"):
        assert word in str(error.value)
    assert owner()["pid"] == holder.pid


def owner():
    with open("lock", encoding="utf-8") as file:
        return json.load(file)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_lock_of_a_dead_process_is_taken_over(number, holder, capsys):
    holder.send_signal(number)
    holder.wait()
    assert os.path.exists("lock")
    with run_lock.exclusive("lock", "FOLDER"):
        assert owner()["pid"] == os.getpid()
    out = capsys.readouterr().out
    assert out.startswith(f"note: FOLDER: process {holder.pid} of ") and "ended without" in out
    assert not os.path.exists("lock")


def test_a_number_given_to_another_process_is_no_sign_of_life(holder, capsys):
    """The lock names a living process of this machine, which is another one."""
    holder.kill()
    holder.wait()
    named = {**owner(), "pid": os.getppid()}
    with open("lock", "w", encoding="utf-8") as file:
        json.dump(named, file)
    with run_lock.exclusive("lock", "FOLDER"):
        pass
    assert f"process {os.getppid()} of" in capsys.readouterr().out


def test_a_lock_of_another_machine_is_believed(tmp_path):
    path = tmp_path / "lock"
    owner = {"user": "ann", "host": "elsewhere", "pid": 5, "since": "2026-01-01 00:00:00"}
    path.write_text(json.dumps(owner))
    with pytest.raises(UserError) as error:
        with run_lock.exclusive(str(path), "FOLDER"):
            pass
    for word in ("FOLDER", "process 5 of ann on elsewhere", f"delete {path}"):
        assert word in str(error.value)
    assert json.loads(path.read_text()) == owner


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": {}}', "\0" * 9000, "\ud800x"])
def test_what_a_kill_while_writing_leaves_is_no_lock(content, tmp_path):
    path = tmp_path / "lock"
    path.write_bytes(content.encode(errors="surrogatepass"))
    with run_lock.exclusive(str(path), "FOLDER"):
        assert json.loads(path.read_text())["host"] == socket.gethostname()
    assert not path.exists()


def test_the_lock_is_free_after_an_error_and_within_one_process(tmp_path):
    path = str(tmp_path / "lock")
    with pytest.raises(ZeroDivisionError):
        with run_lock.exclusive(path, "FOLDER"):
            with pytest.raises(UserError, match=f"process {os.getpid()} of"):
                with run_lock.exclusive(path, "FOLDER"):
                    pass
            raise ZeroDivisionError
    with run_lock.exclusive(path, "FOLDER"):
        pass


def test_a_lock_that_was_just_released_is_not_held_twice(tmp_path, monkeypatch):
    """The file is deleted between opening and locking it: what is locked then is no one's."""
    path = str(tmp_path / "lock")
    flock = run_lock.fcntl.flock

    def too_late(file, operation):
        os.unlink(path)
        flock(file, operation)

    monkeypatch.setattr(run_lock.fcntl, "flock", too_late)
    with pytest.raises(UserError, match="another process"):
        with run_lock.exclusive(path, "FOLDER"):
            pass


def test_a_folder_without_locks_says_so(tmp_path, monkeypatch, capsys):
    def no_locks(*_):
        raise OSError(run_lock.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(run_lock.fcntl, "flock", no_locks)
    with run_lock.exclusive(str(tmp_path / "lock"), "FOLDER"):
        pass
    assert "no locks on this file system" in capsys.readouterr().out


def test_a_lock_outlives_the_process_that_took_it_in_those_it_started(tmp_path):
    path = str(tmp_path / "lock")
    with run_lock.take(path) as lock:
        assert run_lock.take(path) is None
        child = subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock.fileno()]
        )
    assert run_lock.take(path) is None
    child.communicate(b"\n")
    with run_lock.take(path) as lock:
        assert lock is not None


def test_a_lock_that_has_to_be_one_is_refused_where_there_are_none(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(run_lock.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(run_lock.fcntl, "flock", no_locks)
    with pytest.raises(UserError, match="cannot be locked .No locks available.: choose a folder"):
        run_lock.take(str(tmp_path / "lock"))


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("{}")
    os.symlink(tmp_path / "precious", tmp_path / "lock")
    with pytest.raises(UserError, match="cannot be written"):
        with run_lock.exclusive(str(tmp_path / "lock"), "FOLDER"):
            pass
    assert (tmp_path / "precious").read_text() == "{}"


def test_two_processes_processing_into_one_folder(tmp_path, run_script):
    """The second says so and stops; what the first one left behind is no harm afterwards."""
    write_corpus(tmp_path / "timit", n_train=1, n_develop=1, n_test=1)
    with run_lock.exclusive(str(tmp_path / ".timit_processed.lock"), "x"):
        process = run_script("timit_processing.py", "--n_processes=1")
        assert_user_error(process, "timit_processed", f"process {os.getpid()} of")
    assert sorted(os.listdir(tmp_path)) == ["timit"]
    left = tmp_path / ".timit_processed.abcdefg1.partial"
    left.mkdir()
    (left / "train").mkdir()
    neighbour = tmp_path / ".timit_processed.other.abcdefg1.partial"  # of another output folder
    neighbour.mkdir()
    process = run_script("timit_processing.py", "--n_processes=1")
    assert process.returncode == 0, process.stderr
    assert sorted(os.listdir(tmp_path)) == [neighbour.name, "timit", "timit_processed"]
