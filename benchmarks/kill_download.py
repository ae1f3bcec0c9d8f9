"""Downloads killed with SIGKILL at random instants, each resumed: is anything lost, doubled, half-written or fetched again?

    python benchmarks/kill_download.py [--small] [--kills 50] [--out results/kill_download.json]

Each round downloads a Survey afresh in a process of its own and kills it. Then the state on the disk is examined as it is, the download is resumed,
and the server's log is compared with what the record had committed at the instant of the kill.
"""
import argparse
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from skies import make_sky, served, since

PART_ROWS = 60  # small, so that kills fall between parts of the catalog too
CHILD = """
import sys
from galaxy_cnn import download
download.PART_ROWS = int(sys.argv[3])
print("start", flush=True)
download.download(sys.argv[1], base_url=sys.argv[2], cuts="none", connections=4, progress=False)
print("end", flush=True)
"""


def child(out, url):
    "A download in a process of its own, just before its first request"
    process = subprocess.Popen([sys.executable, "-c", CHILD, str(out), url, str(PART_ROWS)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip() == "start"
    return process


def committed(out, scratch):
    "What the record had committed: (objIDs with a final row, number of parts), read from a copy"
    if not (out / "downloads.sqlite").exists(): return {}, 0
    for file in out.glob("downloads.sqlite*"): shutil.copy(file, scratch / file.name)
    base = sqlite3.connect(scratch / "downloads.sqlite")
    try: return dict(base.execute("SELECT objID, sha256 FROM downloads WHERE outcome = 'ok'")), base.execute("SELECT COUNT(*) FROM parts").fetchone()[0]
    except sqlite3.OperationalError: return {}, 0  # killed before the tables were made
    finally:
        base.close()
        for file in scratch.glob("downloads.sqlite*"): file.unlink()


def state_faults(out, sky, rows):
    "What is wrong with the disk at the instant of the kill: files under final names that are not whole, rows without their file"
    wrong = []
    for file in (out / "images").glob("[0-9]*.jpg"):
        if file.read_bytes() != (sky.path / "images" / file.name).read_bytes(): wrong.append(f"{file.name} is half-written")
    for objID, digest in rows.items():
        file = out / "images" / f"{objID}.jpg"
        if not file.exists() or hashlib.sha256(file.read_bytes()).hexdigest() != digest: wrong.append(f"{objID} has a row without its file")
    return wrong


def one_round(out, scratch, url, log, sky, delay):
    "Download, kill, examine, resume, examine: one line of the result"
    from galaxy_cnn.download import download
    from galaxy_cnn.verify import verify
    process = child(out, url)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    rows, parts = committed(out, scratch)
    wrong = state_faults(out, sky, rows)
    left_behind = sum(1 for _ in out.rglob(".*-*"))
    position = log.stat().st_size
    summary = download(out, base_url=url, cuts="none", connections=4, progress=False)
    cutouts, _ = since(log, position, sky)
    check = verify(out, progress=False)
    same = all((out / "images" / f"{i}.jpg").read_bytes() == sky.image_path(i).read_bytes() for i in sky.catalog["objID"])
    return {"delay_s": round(delay, 3), "committed": len(rows), "parts": parts, "temporary_files": left_behind, "wrong_at_kill": wrong,
            "fetched_after": len(cutouts), "fetched_again": len(set(cutouts) & set(rows)), "fetched_twice_after": len(cutouts) - len(set(cutouts)),
            "complete": summary["complete"] and summary["outcomes"] == {"ok": len(sky)}, "verified": check.ok and not check.findings, "identical": same}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="4 kills of 80 galaxies")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--out", default="results/kill_download.json")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    kills, n = (4, 80) if arguments.small else (arguments.kills, 400)
    rng, rounds = np.random.default_rng(arguments.seed), []
    from galaxy_cnn import download
    download.PART_ROWS = PART_ROWS
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        scratch, log = folder / "scratch", folder / "log"
        scratch.mkdir()
        sky = make_sky(folder / "sky", n, seed=arguments.seed)
        with served(sky.path, latency=0.005, log=log) as url:
            process, began = child(folder / "whole", url), time.monotonic()
            process.wait()
            whole = time.monotonic() - began  # how long an undisturbed run takes: kills fall into that time
            for k in range(kills):
                out = folder / f"run{k}"
                rounds.append(one_round(out, scratch, url, log, sky, float(rng.uniform(0, whole))))
                shutil.rmtree(out)
    total = {key: sum(r[key] for r in rounds) for key in ("fetched_again", "fetched_twice_after")}
    total |= {key: sum(r[key] for r in rounds) for key in ("complete", "verified", "identical")}
    total["wrong_at_kill"] = sum(len(r["wrong_at_kill"]) for r in rounds)
    total["killed_in_catalog"] = sum(r["committed"] == 0 for r in rounds)
    total["killed_in_cutouts"] = sum(0 < r["committed"] < n for r in rounds)
    total["killed_after_the_last_cutout"] = sum(r["committed"] == n for r in rounds)
    total["with_temporary_files_left"] = sum(r["temporary_files"] > 0 for r in rounds)
    result = {"kills": kills, "galaxies": n, "undisturbed_s": round(whole, 2), "seed": arguments.seed, "cpus": os.cpu_count(), "total": total, "rounds": rounds}
    Path(arguments.out).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(total, indent=1))


if __name__ == "__main__": main()
