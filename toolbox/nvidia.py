"""What NVIDIA's driver says about the machine's GPUs."""

import subprocess


def listed_gpus():
    """Ids of the GPUs that nvidia-smi lists; none without it."""
    try:
        return subprocess.run(
            ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return []
