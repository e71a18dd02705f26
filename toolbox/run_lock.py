"""Locks between processes: one in a folder at a time, one on a GPU, one run or trial each.

The operating system holds the lock (`flock`) and lets go of it when the process ends, however it
ends: a lock cannot be left behind by a killed process, nor kept alive by another process that was
given its number later. The file only tells people who holds it. On a network file system that does
not share locks between machines, a file that names another machine is believed.
"""

import contextlib
import datetime
import errno
import fcntl
import getpass
import json
import os
import socket
import sys

from toolbox.command_line import UserError

_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextlib.contextmanager
def exclusive(lock_path, folder):
    """Hold the lock `lock_path` of `folder` while the block runs.

    Args:
        lock_path: the lock's file, made here and deleted at the end; its folder exists.
        folder: what it protects, for messages.

    Raises:
        UserError: another process holds it (tells user, machine and process), or the file names
            another machine, or it cannot be made.
    """
    try:
        file = _open(lock_path)
    except OSError as error:
        raise UserError(
            f"{folder}: its lock {lock_path} cannot be written ({error.strerror}): choose a folder "
            "in which you may write"
        ) from None
    with file:
        try:
            is_free = _take(file, lock_path)
        except OSError as error:
            if error.errno not in _NO_LOCKS_HERE:
                raise
            print(f"note: {lock_path}: no locks on this file system: run one process at a time")
            is_free = True
        owner = _read_owner(file)
        if not is_free:
            raise UserError(
                f"{folder}: {_description(owner)} is working there: wait until it has ended, or "
                "choose another folder"
            )
        if owner and owner["host"] != socket.gethostname():
            raise UserError(
                f"{folder}: {_description(owner)} was or is working there, which cannot be seen "
                f"from here: if it has ended, delete {lock_path} and try again"
            )
        if owner:
            print(f"note: {folder}: {_description(owner)} ended without finishing its work there")
        try:
            _write_owner(file)
        except OSError as error:
            os.unlink(lock_path)
            raise UserError(
                f"{folder}: its lock {lock_path} cannot be written ({error.strerror}): make room"
            ) from None
        try:
            yield
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(lock_path)


def take(path):
    """Take the lock that a file stands for; None if another process has it.

    The lock lasts until the returned file is closed, in every process that has inherited it: a
    process that goes on after the one that started it keeps its locks while it lives.

    Raises:
        UserError: the file cannot be written, or its file system has no locks.
    """
    with contextlib.ExitStack() as opened:
        try:
            file = opened.enter_context(_open(path))
            is_free = _take(file, path)
        except OSError as error:
            raise UserError(
                f"{path}: cannot be locked ({error.strerror}): choose a folder on another file "
                "system"
            ) from None
        if is_free:
            opened.pop_all()  # stays open
            return file
    return None


def _open(path):
    """The lock's file, opened without changing it: it may be another process's."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    return os.fdopen(os.open(path, flags, 0o666), "r+", encoding="utf-8")


def _take(file, path):
    """Whether the lock is now held; a file that its owner has just deleted is nobody's lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except (BlockingIOError, FileNotFoundError):
        return False


def _read_owner(file):
    """What the file tells about its owner; None if nothing, as when it was killed on writing."""
    try:
        owner = json.loads(file.read(4096))
    except ValueError:
        return None
    names = ("user", "host", "pid", "since")
    if not (isinstance(owner, dict) and all(type(owner.get(n)) in (str, int) for n in names)):
        return None
    return owner


def _write_owner(file):
    owner = {
        "user": _user(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": datetime.datetime.now().isoformat(" ", "seconds"),
        "command": sys.argv,
    }
    # Unbuffered: on a full disk closing the file would fail once more.
    os.ftruncate(file.fileno(), 0)
    os.pwrite(file.fileno(), json.dumps(owner).encode(), 0)


def _user():
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return str(os.getuid())


def _description(owner):
    if owner is None:
        return "another process"
    return f"process {owner['pid']} of {owner['user']} on {owner['host']}, since {owner['since']},"
