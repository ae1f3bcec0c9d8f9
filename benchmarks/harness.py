"Options, the machine, interleaved timing, sections within a budget of time, results; from a plain checkout, no torch"
import argparse
import os
import re
import resource
import signal
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
sys.path.insert(0, str(ROOT))
from galaxy_cnn.files import atomic_path, versions, write_json


def option_parser(doc, out=None, work=None, small=None, seed=None):
    "A parser described by the benchmark's docstring, with those of the common options that have a default or a help"
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if small: parser.add_argument("--small", action="store_true", help=small)
    if seed is not None: parser.add_argument("--seed", type=int, default=seed, help="of every random choice")
    if work: parser.add_argument("--work", type=Path, default=Path(work), help="kept here, and found by the next call")
    if out: parser.add_argument("--out", type=Path, default=RESULTS / out, help="the results")
    return parser


def write_results(file, found, what, sky=None, n=None):
    "A benchmark's JSON: what was measured, on which sky, of how many galaxies, by which command, and what it found"
    command = " ".join([f"python benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    head = {"what": what, "sky": sky, "n": n, "command": command}
    write_json(file, {k: v for k, v in head.items() if v is not None} | found)


def save_figure(file, figure, dpi=110):
    "A figure as PNG, never seen half-written"
    with atomic_path(file) as tmp: figure.savefig(tmp, format="png", dpi=dpi)


def real_folder(holds=None):
    "Folder of the real galaxies, in GALAXY_CNN_REAL; where it is not set None, or the end if a file of it is needed"
    if folder := os.environ.get("GALAXY_CNN_REAL"): return Path(folder)
    if holds: sys.exit(f"Set GALAXY_CNN_REAL to the folder that holds {holds}.")


def machine(device=None):
    "This computer: processor, cores, bfloat16 in hardware, versions; and a device of torch"
    import torch

    from galaxy_cnn.learner import BF16_FLAGS, cpu_flags
    file = Path("/proc/cpuinfo")
    name = re.search(r"^model name\s*: (.*)", file.read_text(), re.M) if file.exists() else None
    about = {"cpu": name and name[1], "cores": CORES, "half_precision": sorted(cpu_flags() & BF16_FLAGS)}
    about |= {"python": versions()["python"], "versions": versions()}
    if device: about |= {"device": device, "threads": torch.get_num_threads(), "cuda": torch.version.cuda}
    if device != "cuda": return about
    gpu = torch.cuda.get_device_properties(0)
    about |= {"name": gpu.name, "bytes": gpu.total_memory, "multiprocessors": gpu.multi_processor_count}
    cudnn = torch.backends.cudnn
    return about | {"cudnn": cudnn.version(), "cudnn_benchmark": cudnn.benchmark}


def peak_memory():
    "The most memory that this process has held [bytes]"
    status = Path("/proc/self/status")
    if status.exists(): return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # counts what the parent held at the start, too


def fresh_python(*arguments, timeout=None):
    "What Python prints in a fresh process that finds this source tree; `RuntimeError` where it fails"
    path = f"{ROOT}{os.pathsep}{ROOT / 'benchmarks'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}".rstrip(os.pathsep)
    command = [sys.executable, "-W", "ignore", *map(str, arguments)]
    options = dict(env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=timeout)
    done = subprocess.run(command, **options)
    if done.returncode: raise RuntimeError(f"A process ended with {done.returncode}: {done.stderr[-1500:]}")
    return done.stdout


def times(work, repeats=1, warm=0, clock=time.perf_counter):
    "Seconds of each call of a function; the first `warm` calls are not counted"
    found = []
    for _ in range(warm + repeats):
        start = clock()
        work()
        found.append(clock() - start)
    return found[warm:]


def spread(values):
    "Median, least and most of repeats"
    found = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {k: float(v) for k, v in found.items()} | {"repeats": len(values)}


def interleaved(contenders, repeats, key="images_per_second"):
    "Call each contender in turn, `repeats` times, so that a busy while hits all; each returns a number or several"
    found = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, work in contenders.items():
            value = work()
            found[name].append(value if isinstance(value, dict) else {key: value})
    return {name: {k: spread([v[k] for v in rows]) for k in rows[0]} for name, rows in found.items()}


def ratio(one, other):
    "Ratio of two medians, between its least and most; both from `spread`, or with value, lo and hi"
    keys = ("median", "min", "max") if "median" in one else ("value", "lo", "hi")
    a, b = ([v.get(k, v[keys[0]]) for k in keys] for v in (one, other))
    return {"value": a[0] / b[0], "lo": a[1] / b[2], "hi": a[2] / b[1]}


class Overtime(BaseException):
    "A section's time is up; no `except Exception` on the way may keep it"


@contextmanager
def time_limit(seconds):
    "Raise `Overtime` after so many seconds, and again every 10 s, should something swallow it"
    def ring(*_): raise Overtime(f"stopped after {seconds:.0f} s")
    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, 10)
    try: yield
    finally: signal.setitimer(signal.ITIMER_REAL, 0)


@dataclass
class Budget:
    "Time of a whole benchmark: a section without enough of it is skipped, one that takes too long is stopped"
    end: float  # on the clock of `time.perf_counter`
    patience: float = 1.0  # times the seconds that sections may take
    stop: float = float("inf")  # end of the section under way

    def left(self): return max(self.stop - time.perf_counter(), 1)  # [s]

    def section(self, work, found, least, most):
        "Run `work(found)` if `least` seconds are left, for `most` at most; what went wrong is a part of what it found"
        start = time.perf_counter()
        left = self.end - start
        if left < least: return found.update(skipped=f"{left:.0f} s are left, it takes at least {least}")
        most = min(left, most * self.patience)
        self.stop = start + most
        try:
            with time_limit(most): work(found)
        except (Exception, Overtime) as e: found["error"] = f"{type(e).__name__}: {e}"[:3000]
        found["section"] = {"value": time.perf_counter() - start, "unit": "s"}
