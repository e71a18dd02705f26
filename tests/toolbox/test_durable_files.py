"""Files and folders appear whole or not at all, and leave nothing else behind."""

import json
import os
import signal
import stat
import subprocess
import sys

import numpy as np
import pytest

from helpers import REPOSITORY
from toolbox import durable_files
from toolbox.durable_files import write_json, write_whole, write_whole_folder


class Stop(BaseException):
    """Like Ctrl-C: no `Exception`."""


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode_of(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def tree(folder):
    """All files below a folder, hidden ones too, and their contents."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "file.bin"
    with write_whole(path) as file:
        file.write(b"new \x00\xff")
        assert not path.exists()
    assert tree(tmp_path) == {"file.bin": b"new \x00\xff"}


def test_text_is_utf8_whatever_the_locale(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from toolbox import durable_files\n"
        "with durable_files.write_whole('text', 'w') as file: file.write('\\u03c4 = 20 ms\\n')"
    )
    subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", code, REPOSITORY],
        cwd=tmp_path,
        env={**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
        check=True,
    )
    assert (tmp_path / "text").read_bytes() == "τ = 20 ms\n".encode()


@pytest.mark.parametrize("error", [ValueError, Stop])
@pytest.mark.parametrize("is_there", [True, False])
def test_an_error_leaves_the_old_file(tmp_path, error, is_there):
    path = tmp_path / "file"
    if is_there:
        path.write_bytes(b"old")
    with pytest.raises(error):
        with write_whole(path) as file:
            file.write(b"half")
            raise error
    assert tree(tmp_path) == ({"file": b"old"} if is_there else {})


def test_a_killed_process_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    code = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[1]); from toolbox import durable_files\n"
        "with durable_files.write_whole('file') as file:\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    process = subprocess.run([sys.executable, "-c", code, REPOSITORY], cwd=tmp_path)
    assert process.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"


def test_a_file_is_replaced(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old, and longer than the new one")
    with write_whole(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old, and longer than the new one"
    assert tree(tmp_path) == {"file": b"new"}


def test_a_folder_in_the_way_of_a_file_stays(tmp_path):
    (tmp_path / "name").mkdir()
    (tmp_path / "name" / "inside").write_bytes(b"old")
    with pytest.raises(OSError):
        with write_whole(tmp_path / "name") as file:
            file.write(b"new")
    assert tree(tmp_path) == {os.path.join("name", "inside"): b"old"}


def test_permissions_are_those_of_any_new_file(tmp_path, umask):
    with write_whole(tmp_path / "file") as file:
        file.write(b"x")
    with write_whole_folder(tmp_path / "folder") as folder:
        os.mkdir(os.path.join(folder, "inside"))
    assert mode_of(tmp_path / "file") == 0o666 & ~umask
    assert mode_of(tmp_path / "folder") == 0o777 & ~umask
    assert os.umask(umask) == umask  # and the mask is still what it was


def test_relative_paths_are_those_of_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with write_whole("file") as file:
        file.write(b"x")
    with write_whole_folder("folder") as folder:
        with open(os.path.join(folder, "inside"), "wb") as file:
            file.write(b"y")
    assert tree(tmp_path) == {"file": b"x", os.path.join("folder", "inside"): b"y"}


def test_json_is_readable_by_people_and_programs(tmp_path):
    value = {"name": "aː", "values": [1, 0.1, None, True]}
    write_json(tmp_path / "value.json", value)
    text = (tmp_path / "value.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert text.count("\n") > 4 and text.endswith("}\n")


def test_arrays_are_written_as_lists(tmp_path):
    write_json(tmp_path / "value.json", {"x": np.array([[0.1, 2]])})
    assert json.loads((tmp_path / "value.json").read_text()) == {"x": [[0.1, 2.0]]}


def test_a_value_that_is_no_json_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "value.json", [1])
    with pytest.raises(TypeError):
        write_json(tmp_path / "value.json", {"first": 1, "second": object()})
    assert json.loads((tmp_path / "value.json").read_text()) == [1]
    assert os.listdir(tmp_path) == ["value.json"]


def write_into(folder, content):
    os.mkdir(os.path.join(folder, "below"))
    with open(os.path.join(folder, "below", "file"), "wb") as file:
        file.write(content)


def test_a_folder_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "not yet" / "there"
    with write_whole_folder(path) as folder:
        write_into(folder, b"new")
        assert not path.exists()
    assert tree(tmp_path) == {os.path.join("not yet", "there", "below", "file"): b"new"}


def test_a_folder_is_replaced_whole(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "of the old one only").write_bytes(b"old")
    with write_whole_folder(path) as folder:
        write_into(folder, b"new")
        assert os.listdir(path) == ["of the old one only"]
    assert tree(tmp_path) == {os.path.join("folder", "below", "file"): b"new"}
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.parametrize("error", [ValueError, Stop])
@pytest.mark.parametrize("is_there", [True, False])
def test_an_error_leaves_the_old_folder(tmp_path, error, is_there):
    path = tmp_path / "folder"
    if is_there:
        path.mkdir()
        (path / "file").write_bytes(b"old")
    with pytest.raises(error):
        with write_whole_folder(path) as folder:
            write_into(folder, b"half")
            raise error
    assert tree(tmp_path) == ({os.path.join("folder", "file"): b"old"} if is_there else {})
    assert os.listdir(tmp_path) == (["folder"] if is_there else [])


def test_a_folder_is_replaced_where_names_cannot_be_exchanged(tmp_path, monkeypatch):
    monkeypatch.setattr(durable_files, "_exchange", lambda first, second: False)
    test_a_folder_is_replaced_whole(tmp_path)


def test_a_folder_that_cannot_be_renamed_leaves_the_old_one(tmp_path, monkeypatch):
    monkeypatch.setattr(durable_files, "_exchange", lambda first, second: False)
    path = tmp_path / "folder"
    path.mkdir()
    (path / "file").write_bytes(b"old")
    rename = os.rename

    def refuse_the_new_one(source, destination):
        if os.path.exists(os.path.join(source, "below")):
            raise OSError("refused")
        rename(source, destination)

    monkeypatch.setattr(durable_files.os, "rename", refuse_the_new_one)
    with pytest.raises(OSError, match="refused"):
        with write_whole_folder(path) as folder:
            write_into(folder, b"new")
    assert tree(tmp_path) == {os.path.join("folder", "file"): b"old"}
    assert os.listdir(tmp_path) == ["folder"]
