"""Evaluate trained networks on a split of any processed corpus.

    python3 evaluate_model.py RUN
    python3 evaluate_model.py RUN --dataset=FOLDER --split=develop --output=evaluation.json
    python3 evaluate_model.py RUN OTHER_RUN --output=evaluation.json

RUN is a run folder of a training script on speech; FOLDER one of timit_processing.py, the run's own
by default. Prints errors, firing rates, and tables by sex, dialect region, class of phones, phone and
speaker; OUTPUT gets all of it, with the matrix of confusions (docs/inference.md). On the run's own
test set that is its metrics.json again, bit by bit. Takes some seconds.
"""

import os
import sys

from toolbox import command_line  # isort: skip (first: it tells who has no environment)

command_line.import_tensorflow()

from inference import evaluation  # noqa: E402
from inference.trained_run import open_run  # noqa: E402
from layers.alif import ENGINES  # noqa: E402
from layers.lstm import LSTM_ENGINES  # noqa: E402
from speech.facts import SPLITS  # noqa: E402
from tasks.figures import plot_confusion_matrix  # noqa: E402
from toolbox.command_line import UserError  # noqa: E402
from toolbox.durable_files import write_json  # noqa: E402
from toolbox.plotting import with_note  # noqa: E402
from training import devices, engines, run_folder  # noqa: E402


def define_flags(flag_values):
    define = command_line.Definer(flag_values)
    define.path("dataset", "", "folder of timit_processing.py; empty: the run's own")
    define.enum("split", "test", SPLITS, "which utterances")
    define.path("output", "", "JSON file to write")
    define.path("figure", "", "PNG file to write: the matrix of confusions, of one run")
    define.enum("engine", None, sorted({*ENGINES, *LSTM_ENGINES}), "absent: the run's own")
    define.integer("cuda_device", -1, "sets CUDA_VISIBLE_DEVICES; -1: leaves it", -1)
    define.integer("n_threads", 0, "CPU threads; 0: as many as the run had", 0)


def main(flag_values, *folders):
    if not folders:
        raise UserError("no run folder: expected one at least, as in evaluate_model.py RUN")
    if flag_values.figure and len(folders) > 1:
        raise UserError(f"--figure={flag_values.figure}: is of one run, found {len(folders)}")
    command_line.check_output_file(flag_values, "output", ".json")
    command_line.check_output_file(flag_values, "figure", ".png")
    record = run_folder.read_record(folders[0])
    n_threads = flag_values.n_threads or record.get("threads", 0)
    devices.set_up_devices(flag_values.cuda_device, n_threads, batch=sys.maxsize)
    devices.set_up_seed(record["seed"])
    engines.check_gpu(flag_values.engine)
    changes = {"engine": flag_values.engine} if flag_values.engine else {}
    results = []
    for folder in folders:
        run = open_run(folder, **changes)
        dataset = flag_values.dataset or run.flags["dataset"]
        results.append(evaluation.evaluate(run, dataset, flag_values.split))
        print("\n".join(evaluation.report(results[-1])))
    content = results[0]
    if len(results) > 1:
        content = {"runs": results, "differences": evaluation.differences(results)}
        for row in content["differences"]:
            print(f"{row['run']} - {row['baseline']}: {evaluation.text(row)}")
    if flag_values.output:
        write_json(flag_values.output, content)
    if flag_values.figure:
        title = f"{os.path.basename(os.path.normpath(run.folder))}: {flag_values.split} set"
        plot_confusion_matrix(
            flag_values.figure,
            content["confusion"],
            content["classes"],
            with_note(title, content["corpus_note"]),
            counted=content["counted"],
        )


if __name__ == "__main__":
    command_line.run(main, define_flags, __doc__, n_positional=-1)
