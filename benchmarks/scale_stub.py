"""A network that takes no time, for the benchmarks of galaxy_cnn.scale: whoever imports this module predicts with it.

Dask's workers do so through DASK_DISTRIBUTED__WORKER__PRELOAD. Environment: SCALE_LOG, a folder where a process writes
its CPU time, its peak memory and what it is doing, twice a second and at each change; SCALE_PAUSE [s], a rest in each
of reading, predicting and writing, so that a kill falls into all three; SCALE_NETWORK, whose presence keeps the true
network.
"""
import os
import threading
import time
from pathlib import Path

import numpy as np
from harness import peak_memory

import galaxy_cnn.run
from galaxy_cnn import scale

LOG, PAUSE = os.environ.get("SCALE_LOG"), float(os.environ.get("SCALE_PAUSE", 0))


def now(doing):
    "Say what this process is doing, and rest"
    if LOG: (Path(LOG) / f"{os.getpid()}.doing").write_text(doing)
    time.sleep(PAUSE)


def slowed(work, doing):
    "The same function, after a word and a rest"
    def slow(*args, **kwargs):
        now(doing)
        return work(*args, **kwargs)
    return slow


def answers(run, networks, images, tta, precision, device):
    "In place of `run._answers_to_part`: the brightness of a few pixels"
    now("predicting")
    found = np.full((len(networks), 3, len(images), len(run.targets)), 0.01)
    found[:, 0] = images[:, ::16, ::16].mean((1, 2, 3))[:, None] / 255
    return found, None


def watch():
    "Keep the log of what this process has used"
    file = Path(LOG) / f"{os.getpid()}.used"
    while True:
        file.write_text(f"{time.process_time()} {peak_memory()}")
        time.sleep(0.5)


if "SCALE_NETWORK" not in os.environ: galaxy_cnn.run._answers_to_part = answers
if PAUSE:
    scale.file_hash = slowed(scale.file_hash, "reading")
    os.fsync = slowed(os.fsync, "writing")
if LOG: threading.Thread(target=watch, daemon=True).start()
