"""Compiled functions, and where Numba keeps them.

Numba writes what it has compiled beside the module, or else below the home folder, and refuses to
import a function where it can do neither: an installation on a read-only disk, run without a home.
The folder for temporary files then serves, and where there is none nothing is kept.
"""

import functools
import os
import stat
import tempfile

import numba


def _nothing():
    pass


def has_cache():
    """Whether Numba finds a place for compiled functions of this folder."""
    try:
        numba.njit(cache=True)(_nothing)
    except RuntimeError:
        return False
    return True


def private_temporary_folder():
    """A folder that nobody else can write to: what Numba reads from its cache, it executes.

    The same one for all processes of a user, so that compiled functions are kept.
    """
    folder = os.path.join(tempfile.gettempdir(), f"numba_cache_{os.getuid()}")
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        found = os.lstat(folder)
        is_ours = found.st_uid == os.getuid() and not found.st_mode & 0o022
        if not (stat.S_ISDIR(found.st_mode) and is_ours):
            return tempfile.mkdtemp(prefix="numba_cache_")
    return folder


is_kept = True
if not has_cache():
    try:
        numba.config.CACHE_DIR = private_temporary_folder()
    except OSError:  # nor is there one: every process compiles again
        is_kept = False

compiled = functools.partial(numba.njit, cache=is_kept, nogil=True, error_model="numpy")
