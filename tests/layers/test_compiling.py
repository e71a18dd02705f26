"""Where compiled functions are kept when neither the installation nor the home can be written."""

import os
import shutil
import subprocess
import sys
import tempfile

import pytest

from helpers import REPOSITORY
from layers import compiling


@pytest.mark.parametrize("has_temporary_folder", [True, False])
def test_without_another_place_the_temporary_folder_serves(tmp_path, has_temporary_folder):
    """Numba looks beside the module and below the home folder; here it is told not to."""
    code = (
        "import numba; from layers import event_driven, fused_lstm; print(numba.config.CACHE_DIR)"
    )
    if not has_temporary_folder:
        code = f"import tempfile; tempfile.tempdir = {str(tmp_path / 'none')!r}; {code}"
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env={
            **os.environ,
            "NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator",
            "TMPDIR": str(tmp_path),
        },
        capture_output=True,
        text=True,
    )
    assert (process.returncode, process.stderr) == (0, "")
    expected = f"{tmp_path}/numba_cache_{os.getuid()}" if has_temporary_folder else ""
    assert process.stdout == f"{expected}\n"


def test_the_cache_is_private(tmp_path, monkeypatch):
    """What Numba finds there it executes."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = compiling.private_temporary_folder()
    assert os.stat(folder).st_mode & 0o777 == 0o700
    assert compiling.private_temporary_folder() == folder
    os.chmod(folder, 0o777)
    other = compiling.private_temporary_folder()
    assert other != folder and os.stat(other).st_mode & 0o777 == 0o700
    shutil.rmtree(folder)
    os.symlink(other, folder)
    assert compiling.private_temporary_folder() not in (folder, other)
