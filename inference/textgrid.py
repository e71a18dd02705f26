"""Segments as files: TIMIT's `.phn` and Praat's `.TextGrid`."""

from speech.facts import SAMPLE_RATE_HZ
from toolbox.durable_files import write_whole

SILENCE = "h#"  # of TIMIT's 61 phones; the 39 classes' `sil` is none of them


def write_phn(path, segments):
    """Write rows of start and end in samples of 16 kHz, and phone, as `timit_processing.py` reads."""
    with write_whole(path, "w") as file:
        for start_s, end_s, phone, _ in segments:
            samples = (round(seconds * SAMPLE_RATE_HZ) for seconds in (start_s, end_s))
            print(*samples, SILENCE if phone == "sil" else phone, file=file)


def write_textgrid(path, segments, duration_s):
    """Write a tier of intervals that cover the sound; empty where nothing was heard yet."""
    rows = [(start_s, end_s, phone) for start_s, end_s, phone, _ in segments]
    first_s = rows[0][0] if rows else duration_s
    if first_s > 0:
        rows.insert(0, (0, first_s, ""))
    span = f"xmin = 0\nxmax = {duration_s:.6f}\n"
    head = (
        f'File type = "ooTextFile"\nObject class = "TextGrid"\n\n{span}tiers? <exists>\nsize = 1\n'
    )
    tier = f'item []:\nitem [1]:\nclass = "IntervalTier"\nname = "phones"\n{span}'
    with write_whole(path, "w") as file:
        file.write(f"{head}{tier}intervals: size = {len(rows)}\n")
        for number, (start_s, end_s, phone) in enumerate(rows, 1):
            file.write(f"intervals [{number}]:\nxmin = {start_s:.6f}\nxmax = {end_s:.6f}\n")
            file.write(f'text = "{phone}"\n')
