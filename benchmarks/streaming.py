"""How late the answers to streamed speech come, and which share of its time the computing takes.

    python3 benchmarks/streaming.py RUN --json=FILE

RUN is a run folder of a network trained with `--n_directions=1`, on speech. Feeds it test utterances of
`open_speech/` in chunks of several lengths, as `transcribe.py --stream` does. The real-time
factor is that of all utterances together; a latency is from the end of a frame's 10 ms to its answer.
"""

import glob
import os

import numpy as np
from absl import flags

import measuring  # first: it makes the repository's modules importable
from toolbox import command_line

command_line.import_tensorflow()

from inference import transcription  # noqa: E402
from inference.trained_run import open_run  # noqa: E402
from toolbox.durable_files import write_json  # noqa: E402

UTTERANCES = os.path.join(measuring.REPOSITORY, "open_speech", "test", "*", "*", "*.flac")


def define_flags(flag_values):
    define = measuring.Definer(flag_values)
    define.many("chunk_ms", [10, 20, 100, 1000], "lengths of the chunks", flags.IntegerParser(1))
    define.integer("n_utterances", 10, "utterances", 1)
    define.path("json", "", "also write the results to this file")


def measure(run, sounds, chunk_ms):
    """A row of the table."""
    heard = [
        transcription.hear(run, sound.samples, chunk_ms * sound.rate_hz // 1000) for sound in sounds
    ]
    latencies_s = np.concatenate([h.latencies_s for h in heard])
    busy_s, speech_s = sum(h.busy_s for h in heard), sum(s.duration_s for s in sounds)
    return {
        "chunk_ms": chunk_ms,
        "latency_mean_s": float(latencies_s.mean()),
        "latency_max_s": float(latencies_s.max()),
        "real_time_factor": busy_s / speech_s,
    }


def main(flag_values, *folders):
    command_line.check_output_file(flag_values, "json")
    if len(folders) != 1:
        raise command_line.UserError("expected a run folder, as in benchmarks/streaming.py RUN")
    run = open_run(folders[0])
    transcription.check_can_hear(run, in_pieces=True)
    paths = sorted(glob.glob(UTTERANCES))[: flag_values.n_utterances]
    sounds = [transcription.read_sound(path) for path in paths]
    transcription.hear(run, sounds[0].samples)  # what is done once
    rows = [measure(run, sounds, chunk_ms) for chunk_ms in flag_values.chunk_ms]
    machine = measuring.machine()
    cells = [[f"{value:.3g}" for value in row.values()] for row in rows]
    print(f"{measuring.machine_line(machine)}\n\n{measuring.markdown_table(list(rows[0]), cells)}")
    if flag_values.json:
        write_json(
            flag_values.json, {"network": run.network.name, "machine": machine, "rows": rows}
        )


if __name__ == "__main__":
    command_line.run(main, define_flags, __doc__, n_positional=1)
