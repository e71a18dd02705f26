"""Files and folders that appear complete or not at all.

Everything is written under a temporary name beside its destination, flushed to disk and renamed,
so that an interrupted run leaves the old file or the new one, never half of one. The folder is
flushed too: else a power failure could undo a rename that later work relies on. A process that is
killed leaves its temporary file behind, which `remove_leftovers` deletes.
"""

import contextlib
import ctypes
import errno
import json
import os
import re
import shutil
import sys
import tempfile

import numpy as np

_SUFFIX = ".partial"  # of temporary names


@contextlib.contextmanager
def write_whole(path, mode="wb"):
    """Open `path` for writing; it appears only when the block ends without an error."""
    path = os.fspath(path)
    folder = os.path.dirname(path) or "."
    handle, temporary = tempfile.mkstemp(
        prefix=f".{os.path.basename(path)}.", suffix=_SUFFIX, dir=folder
    )
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes files private
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):  # Ctrl-C just after the renaming
            os.unlink(temporary)
        raise
    sync_folder(folder)


def write_json(path, value):
    """Write a value as indented JSON, arrays as lists."""
    with write_whole(path, "w") as file:
        json.dump(value, file, indent=2, default=np.ndarray.tolist)
        file.write("\n")


@contextlib.contextmanager
def write_whole_folder(path):
    """Give a temporary folder to fill; it is renamed to `path` when the block ends without error.

    An existing `path` stays until then and is replaced whole; the caller has made sure that it
    may be. Where the system can exchange two names (Linux, on most file systems), `path` exists at
    every moment; elsewhere a kill between two renames leaves the old folder under a hidden name
    that ends in `.partial.replaced`.
    """
    path = os.path.abspath(path)
    parent = os.path.dirname(path)
    os.makedirs(parent, exist_ok=True)
    temporary = tempfile.mkdtemp(prefix=f".{os.path.basename(path)}.", suffix=_SUFFIX, dir=parent)
    try:
        yield temporary
        os.chmod(temporary, 0o777 & ~_umask())
        for folder, _, _ in os.walk(temporary):
            sync_folder(folder)
        if not os.path.exists(path):
            os.rename(temporary, path)
        elif not _exchange(temporary, path):
            replaced = f"{temporary}.replaced"
            os.rename(path, replaced)
            try:
                os.rename(temporary, path)
            except BaseException:
                os.rename(replaced, path)
                raise
            shutil.rmtree(replaced, ignore_errors=True)
        sync_folder(parent)
    finally:  # what is left there is unfinished, or the old folder
        shutil.rmtree(temporary, ignore_errors=True)


def _exchange(first, second):
    """Exchange two names in one step; False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    at_working_folder, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # C library older than the system call
        return False
    names = os.fsencode(first), os.fsencode(second)
    if function(at_working_folder, names[0], at_working_folder, names[1], exchange) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.EPERM):  # the file system or a sandbox cannot
        return False
    raise OSError(number, os.strerror(number), first, None, second)


def remove_leftovers(folder, name=None):
    """Delete what processes that were killed while writing in a folder have left there.

    The caller has made sure that no process writes there (`run_lock`). A folder that such a process
    had moved away in order to replace it is put back.

    Args:
        folder: the folder.
        name: of the file or folder that was being written; None: any.
    """
    pattern = re.compile(
        rf"\.({'.+' if name is None else re.escape(name)})\.[a-z0-9_]{{8}}"
        rf"{re.escape(_SUFFIX)}(\.replaced)?"
    )
    for found in sorted(os.listdir(folder)):
        match = pattern.fullmatch(found)
        if not match:
            continue
        path, written = os.path.join(folder, found), os.path.join(folder, match[1])
        if match[2] and not os.path.exists(written):
            os.rename(path, written)
        elif os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)


def append_line(path, line):
    """Append a line to a text file and flush it to disk.

    A kill or a full disk can tear this line, and no other one.
    """
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{line}\n")
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path):
    """Flush a folder's names to disk, where the system can (not on Windows)."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):  # network file systems
            raise
    finally:
        os.close(handle)


def _umask():
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
