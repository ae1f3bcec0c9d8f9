"""Downloads killed with SIGKILL at random instants and resumed: is anything lost, doubled, half-written, fetched again?

    python benchmarks/kill_download.py [--small] [--kills 50] [--from legacy] [--out results/kill_download.json]

Each round downloads a Survey afresh in a process of its own and kills it. Then the state on the disk is examined as it
is, the download is resumed, and the server's log is compared with what the record had committed at the instant of the
kill.
"""
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np
from harness import option_parser, write_results
from skies import make_sky, same_images, served, since

from galaxy_cnn import download
from galaxy_cnn.files import file_hash
from galaxy_cnn.verify import verify

download.PART_ROWS = 60  # small, so that kills fall between parts of the catalog too


def fetch(out, url, sky, provider):
    "The download of every round; one from the Legacy Surveys is of the galaxies in the folder `sky`"
    what = {"cuts": "none"} if provider == "sdss" else {"provider": provider, "catalog": sky, "size": 64}
    return download.download(out, base_url=url, connections=4, progress=False, **what)


def child(out, *how):
    "A download in a process of its own, just before its first request"
    command = [sys.executable, __file__, "--child", str(out), *map(str, how)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip() == "start"
    return process


def committed(out, scratch):
    "What the record had committed: (objIDs with a final row, number of parts), read from a copy"
    if not (out / "downloads.sqlite").exists(): return {}, 0
    for file in out.glob("downloads.sqlite*"): shutil.copy(file, scratch / file.name)
    try:
        with closing(sqlite3.connect(scratch / "downloads.sqlite")) as base:
            rows = dict(base.execute("SELECT objID, sha256 FROM downloads WHERE outcome = 'ok'"))
            return rows, base.execute("SELECT COUNT(*) FROM parts").fetchone()[0]
    except sqlite3.OperationalError: return {}, 0  # killed before the tables were made
    finally:
        for file in scratch.glob("downloads.sqlite*"): file.unlink()


def state_faults(out, whole, rows):
    "Faults on the disk at the instant of the kill: files under final names that are not whole, rows without their file"
    wrong = []
    for file in (out / "images").glob("[0-9]*"):
        if file.read_bytes() != (whole / file.name).read_bytes(): wrong.append(f"{file.name} is half-written")
    for objID, digest in rows.items():
        files = list((out / "images").glob(f"{objID}.*"))
        if not files or file_hash(files[0]) != digest: wrong.append(f"{objID} has a row without its file")
    return wrong


def same_files(out, whole):
    "Whether a download holds the same cutouts, byte for byte, as an undisturbed one"
    both = [{f.name: f.read_bytes() for f in folder.glob("[0-9]*")} for folder in (out / "images", whole)]
    return both[0] == both[1]


def one_round(out, scratch, url, log, sky, whole, delay, provider):
    "Download, kill, examine, resume, examine: one line of the result"
    process = child(out, url, sky.path, provider)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    rows, parts = committed(out, scratch)
    wrong = state_faults(out, whole, rows)
    left_behind = sum(1 for _ in out.rglob(".*-*"))
    position = log.stat().st_size
    summary = fetch(out, url, sky.path, provider)
    cutouts, _ = since(log, position, sky)
    check = verify(out, progress=False)
    return {"delay_s": round(delay, 3), "committed": len(rows), "parts": parts, "temporary_files": left_behind,
            "wrong_at_kill": wrong, "fetched_after": len(cutouts), "fetched_again": len(set(cutouts) & set(rows)),
            "fetched_twice_after": len(cutouts) - len(set(cutouts)),
            "complete": summary["complete"] and summary["outcomes"] == {"ok": len(sky)},
            "verified": check.ok and not check.findings, "identical": same_files(out, whole)}


def in_all(rounds, n):
    "Sums over the rounds; n galaxies are downloaded in each"
    keys = "fetched_again", "fetched_twice_after", "complete", "verified", "identical"
    total = {key: sum(r[key] for r in rounds) for key in keys}
    total["wrong_at_kill"] = sum(len(r["wrong_at_kill"]) for r in rounds)
    total["killed_in_catalog"] = sum(r["committed"] == 0 for r in rounds)
    total["killed_in_cutouts"] = sum(0 < r["committed"] < n for r in rounds)
    total["killed_after_the_last_cutout"] = sum(r["committed"] == n for r in rounds)
    total["with_temporary_files_left"] = sum(r["temporary_files"] > 0 for r in rounds)
    return total


def run_child(out, *how):
    "What a process does that is to be killed"
    print("start", flush=True)
    fetch(out, *how)
    print("end", flush=True)


def main(args):
    kills, n = (4, 80) if args.small else (args.kills, 400)
    rng, rounds = np.random.default_rng(args.seed), []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        scratch, log = folder / "scratch", folder / "log"
        scratch.mkdir()
        provider = args.provider
        sky = make_sky(folder / "sky", n, seed=args.seed, south=provider == "legacy")
        with served(sky.path, latency=0.005, log=log, provider=provider) as url:
            process, began = child(folder / "undisturbed", url, sky.path, provider), time.monotonic()
            process.wait()
            seconds = time.monotonic() - began  # [s] of an undisturbed run: kills fall into that time
            whole = folder / "undisturbed" / "images"
            assert len(list(whole.iterdir())) == n
            if provider == "sdss": assert same_images(folder / "undisturbed", sky)
            for k in range(kills):
                out, delay = folder / f"run{k}", float(rng.uniform(0, seconds))
                rounds.append(one_round(out, scratch, url, log, sky, whole, delay, provider))
                shutil.rmtree(out)
    total = in_all(rounds, n)
    result = {
        "kills": kills,
        "galaxies": n,
        "undisturbed_s": round(seconds, 2),
        "provider": provider,
        "seed": args.seed,
        "cpus": os.cpu_count(),
        "total": total,
        "rounds": rounds,
    }
    write_results(args.out, result, "downloads killed with SIGKILL and resumed", "mock")
    print(json.dumps(total, indent=1))


if __name__ == "__main__":
    parser = option_parser(__doc__, out="kill_download.json", small="4 kills of 80 galaxies", seed=0)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--from", dest="provider", default="sdss", help="sdss, or legacy: planes of noise in FITS")
    parser.add_argument("--child", nargs=4, metavar=("OUT", "URL", "SKY", "PROVIDER"), help="download, to be killed")
    args = parser.parse_args()
    if args.child: run_child(*args.child)
    else: main(args)
