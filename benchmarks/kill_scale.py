"""Predictions over a HATS catalog killed with SIGKILL at random instants and resumed: is anything lost, doubled, mixed,
half-written, or computed twice?

    python benchmarks/kill_scale.py [--small] [--kills 50] [--minutes 12] [--out results/kill_scale.json]

What is killed is drawn each time: a worker (its run goes on by itself), the client alone, or the whole process group;
so is the instant, while processes start, or while partitions are read, predicted and written, in each of which
scale_stub.py rests for a moment. After each kill, files under final names are compared with those of an undisturbed
run, and before every other resume a finished file is replaced by one of another model. The way from a Survey to HATS
and back is killed, too.
"""
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from harness import option_parser, write_results
from skies import make_sky

from galaxy_cnn.files import Incomplete, read_json, write_json
from galaxy_cnn.scale import hats_to_survey, predict_hats, survey_to_hats

ODDS = {"worker": 0.5, "client": 0.25, "group": 0.25}  # of what is killed
PARTITION_MB = 0.05  # about 30 of the pictures
PAUSE = 0.1  # [s] in each of reading, predicting, writing
WORKERS = 2
PROCESSES = multiprocessing.get_context("forkserver")  # a process that has torch, but none of its threads, is copied


def start(kind, *arguments, log):
    "A process that does what is to be killed, in a group of its own"
    process = PROCESSES.Process(target=run_child, args=(kind, str(log), *map(str, arguments)))
    process.start()
    return process


def run_child(kind, log, *arguments):
    "What such a process does: its last act is a file with what came out"
    os.setsid()
    os.environ.update(SCALE_LOG=log, SCALE_PAUSE=str(PAUSE))
    errors = os.open(f"{log}.errors", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in (1, 2): os.dup2(errors, number)
    try: done = WORK[kind](*arguments)
    except Incomplete as e: done = {"incomplete": str(e)}
    write_json(f"{log}.json", done)


def predict_slowly(run, catalog, out):
    "`predict_hats` with a network that rests"
    import dask
    with dask.config.set({"distributed.worker.preload": ["scale_stub"]}):
        done = predict_hats(run, catalog, out, tta=False, workers=WORKERS)
    return {key: value for key, value in done.items() if key != "notes"}  # they name folders of this machine


WORK = {"predict": predict_slowly, "to_hats": partial(survey_to_hats, partition_mb=PARTITION_MB),
        "to_survey": lambda catalog, out: {"n": len(hats_to_survey(catalog, out))}}


def files_of(out): return sorted([*Path(out).glob("dataset/*/*/Npix*"), *Path(out).glob("images/[!.]*.jpg")])


def marks(out): return {str(f.relative_to(out)): (f.stat().st_ino, f.stat().st_mtime_ns) for f in files_of(out)}


def unlike(out, whole):
    "Files under final names that are not, byte for byte, those of the undisturbed run"
    names = [str(f.relative_to(out)) for f in files_of(out)]
    return {name for name in names if (out / name).read_bytes() != (whole / name).read_bytes()}


def workers_of(process):
    "Processes of the workers"
    found = psutil.Process(process.pid).children(recursive=True)
    return [p for p in found if p.ppid() != process.pid]  # its own children are the servers that copy and clean up


def wait(process, out, rng, lasts):
    "Wait for a random instant of the work, one time in five of the start"
    first, begin = len(files_of(out)), time.monotonic()
    until = begin + rng.uniform(0, lasts["start"])
    if rng.random() < 0.8:
        while len(files_of(out)) == first and process.is_alive() and time.monotonic() < begin + 90: time.sleep(0.02)
        until = time.monotonic() + rng.uniform(0, lasts["work"] * (1 - first / lasts["files"]))
    while time.monotonic() < until and process.is_alive(): time.sleep(0.01)


def kill(process, target, log, rng):
    "Kill; what the killed workers were doing, None where there was nothing to kill"
    try:
        workers = workers_of(process)
        if target == "worker": workers = [rng.choice(workers)]
        files = [log / f"{worker.pid}.doing" for worker in workers]
        did = [f.read_text() if f.exists() else "starting" for f in files]
        if target == "worker": workers[0].kill()
        elif target == "client": process.kill()
        else: os.killpg(process.pid, signal.SIGKILL)
    except (ValueError, psutil.NoSuchProcess, ProcessLookupError): return None  # no worker yet, or no longer
    if target != "worker": process.join()
    return sorted(did) or ["starting"]


def orphans(group):
    "Processes of a group that are left 10 s after their client was killed"
    until = time.monotonic() + 10
    while time.monotonic() < until:
        left = []
        for p in psutil.process_iter():
            try:
                if os.getpgid(p.pid) == group and p.status() != psutil.STATUS_ZOMBIE: left.append(p.pid)
            except (ProcessLookupError, psutil.NoSuchProcess): pass
        if not left: break
        time.sleep(0.2)
    return len(left)


class Killing:
    "One folder that is made through as many kills as it takes"
    def __init__(self, job, odds, out, whole, lasts, rng, foreign=None):
        self.job, self.odds, self.out, self.whole = job, odds, out, whole
        self.lasts, self.rng, self.foreign = lasts, rng, foreign
        self.log = out.with_name(f"{out.name}.log")
        self.log.mkdir()
        self.kills, self.finished, self.planted, self.plants = [], {}, set(), 0

    def touched(self):
        "Finished files that are no longer what they were at the last kill"
        now = marks(self.out)
        return [file for file, mark in self.finished.items() if now.get(file) != mark]

    def note(self, target, did):
        "What is on the disk right after a kill"
        wrong, there = unlike(self.out, self.whole), marks(self.out)
        left = sum(1 for f in self.out.rglob(".*-*"))
        self.kills.append({"killed": target, "while": did, "finished": len(there), "temporary_files": left,
                           "wrong": sorted(wrong - self.planted), "computed_again": self.touched()})
        self.planted &= wrong
        self.finished = {file: mark for file, mark in there.items() if file not in self.planted}

    def plant(self):
        "Put another model's file in the place of a finished one"
        if not self.finished: return
        file = self.rng.choice(sorted(self.finished))
        shutil.copyfile(self.foreign / file, self.out / file)
        del self.finished[file]
        self.planted.add(file)
        self.plants += 1

    def go(self, most):
        "Start or resume; kill, up to so many times, until it is dead; what it printed where it came to its end"
        for file in self.log.glob("*"): file.unlink()
        process = start(*self.job, self.out, log=self.log)
        for _ in range(min(most, 3)):  # a task whose worker dies more than three times is given up by Dask
            wait(process, self.out, self.rng, self.lasts)
            target = str(self.rng.choice(list(self.odds), p=list(self.odds.values())))
            did = kill(process, target, self.log, self.rng)
            if did is None: break
            self.note(target, did)
            if target == "worker": continue
            self.kills[-1]["orphans"] = orphans(process.pid)
            if self.foreign and len(self.kills) % 2: self.plant()
            return None
        return outcome(process, self.log)

    def finish(self, most):
        "Go on until it is whole; a line of the result"
        done = None
        while done is None or "incomplete" in done:
            found = len(self.finished)
            done = self.go(max(0, most - len(self.kills)))
        whole = sorted(marks(self.out)) == sorted(marks(self.whole))
        shutil.rmtree(self.log)
        return {**done, "found": found, "complete": whole, "wrong": sorted(unlike(self.out, self.whole)),
                "computed_again": self.touched(), "leftovers": sum(1 for _ in self.out.rglob(".*-*")),
                "planted": self.plants, "kills": self.kills}


def outcome(process, log):
    "What a process says that came to its end"
    process.join()
    if process.exitcode: raise RuntimeError(log.with_name(f"{log.name}.errors").read_text()[-3000:])
    return read_json(log.with_name(f"{log.name}.json"))


def undisturbed(job, out):
    "Seconds until the first file and from it to the last, and how many files there are, where nobody kills"
    log = out.with_name(f"{out.name}.log")
    log.mkdir()
    begin = time.time()
    process = start(*job, out, log=log)
    outcome(process, log)
    ends = [f.stat().st_mtime for f in files_of(out)]
    return {"start": min(ends) - begin, "work": max(ends) - min(ends), "files": len(ends)}


def through_kills(job, folder, kills, odds, rng, end, foreign=None):
    "Folders made through kills, until there are so many or the time is over"
    folder.mkdir()
    whole, rounds = folder / "whole", []
    lasts = undisturbed(job, whole)
    while sum(len(r["kills"]) for r in rounds) < kills and time.monotonic() < end:
        out = folder / str(len(rounds))
        left = kills - sum(len(r["kills"]) for r in rounds)
        rounds.append(Killing(job, odds, out, whole, lasts, rng, foreign).finish(left))
        print(job[0], total(rounds), flush=True)
        shutil.rmtree(out)
    return {"undisturbed": lasts, "total": total(rounds), "rounds": rounds}


def total(rounds):
    "Sums over the rounds"
    kills = [kill for r in rounds for kill in r["kills"]]
    found = {"kills": len(kills), "rounds": len(rounds), "complete": sum(r["complete"] for r in rounds)}
    for target in ODDS: found[f"killed: {target}"] = sum(k["killed"] == target for k in kills)
    for word in ("starting", "reading", "predicting", "writing"):
        found[f"while {word}"] = sum(word in k["while"] for k in kills)
    for key in ("wrong", "computed_again"): found[key] = sum(len(line[key]) for line in [*kills, *rounds])
    found["foreign_files"] = sum(r["planted"] for r in rounds)
    found["with_temporary_files"] = sum(k["temporary_files"] > 0 for k in kills)
    found["leftovers"] = sum(r["leftovers"] for r in rounds)
    found["orphans_after_10_s"] = sum(k.get("orphans", 0) for k in kills)
    return found


def main(args):
    from galaxy_cnn.train import train  # here, for the processes that are killed import this script, too
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    PROCESSES.set_forkserver_preload(["galaxy_cnn.scale", "distributed"])
    rng, end = np.random.default_rng(args.seed), time.monotonic() + 60 * args.minutes
    kills, few = (4, 1) if args.small else (args.kills, args.kills // 10)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        sky = make_sky(folder / "sky", 600, seed=args.seed, size=64)
        run, other, hats = folder / "run", folder / "other", folder / "hats"
        train(sky, run, epochs=1, init="none", size=64, calibrate=False, quiet=True)
        shutil.copytree(run, other)
        write_json(other / "model.json", read_json(other / "model.json") | {"seed": 1})
        survey_to_hats(sky, hats, PARTITION_MB)
        foreign = folder / "foreign"
        undisturbed(("predict", other, hats), foreign)
        jobs = {"predictions": (("predict", run, hats), kills, ODDS, foreign),
                "to_hats": (("to_hats", sky.path), few, {"group": 1}, None),
                "to_survey": (("to_survey", hats), few, {"group": 1}, None)}
        found = {name: through_kills(job, folder / name, n, odds, rng, end, other_files)
                 for name, (job, n, odds, other_files) in jobs.items()}
    what = "SIGKILL at random instants, then resume: predictions over a HATS catalog, from a Survey to one, and back"
    write_results(args.out, found, what, "noise, not galaxies", 600)
    sums = [v["total"] for v in found.values()]
    sys.exit(any(t["wrong"] or t["computed_again"] or t["leftovers"] or t["complete"] < t["rounds"] for t in sums))


if __name__ == "__main__":
    parser = option_parser(__doc__, out="kill_scale.json", seed=0, small="four kills")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=12, help="no new round after that")
    main(parser.parse_args())
