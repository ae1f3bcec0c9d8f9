"""Predictions killed with SIGKILL at random instants and resumed: is a part lost, torn, computed again, or mixed?

    python benchmarks/kill_predict.py [--small] [--kills 20] [--out results/kill_predict.json]

Each round predicts for a packed Survey in a process of its own and kills that. The parts that are on the disk then must
be whole; the next call must leave them as they are, and end with the table of an undisturbed run, row for row. Every
fourth round goes on with another option first, which must be refused. Beside it: the peak of memory that a list of
paths takes, which is the one thing that grows with the number of pictures.
"""
import multiprocessing
import os
import shutil
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from harness import option_parser, write_results

from galaxy_cnn import predict as chapter
from galaxy_cnn.files import InputError
from galaxy_cnn.mock_images import make_mock
from galaxy_cnn.survey import pack
from galaxy_cnn.train import train

PROCESSES = multiprocessing.get_context("forkserver")  # a process that has torch, but none of its threads, is copied


def run_child(run, source, out, part):
    "What a process does that is to be killed"
    chapter.predict(run, source, out, accept_shift=True, part=part)


def started(*arguments):
    "A prediction in a process of its own"
    child = PROCESSES.Process(target=run_child, args=arguments)
    child.start()
    return child


def part_files(out):
    "Parts on the disk"
    return sorted(out.with_name(f"{out.name}.parts").glob("part-*.parquet"))


def is_refused(run, source, out, part):
    "Whether parts of one option keep another one out"
    try: chapter.predict(run, source, out, tta=False, accept_shift=True, part=part)
    except InputError: return True
    return False


def resumed(run, source, out, part):
    "Parts that a call writes on its way to the end"
    written, write = [], chapter.write_part
    def count(file, *arguments):
        written.append(file)
        write(file, *arguments)
    chapter.write_part = count
    try: chapter.predict(run, source, out, accept_shift=True, part=part)
    finally: chapter.write_part = write
    return written


def one_round(run, source, out, part, after, delay, expected, try_other):
    "Predict, kill `delay` seconds after so many parts, examine, resume, examine: one line of the result"
    child = started(run, source, out, part)
    while child.is_alive() and len(part_files(out)) < after: time.sleep(0.01)
    child.join(delay)
    child.kill()
    child.join()
    kept = part_files(out)
    for file in kept: pq.read_table(file)  # one that is torn cannot be read, which ends the benchmark
    found = {"delay_s": round(delay, 3), "finished_parts": len(kept), "table_at_kill": out.exists()}
    if try_other and kept and not out.exists(): found["other_option_refused"] = is_refused(run, source, out, part)
    written = resumed(run, source, out, part)
    return found | {
        "computed_again": len(set(written) & set(kept)), "identical": pd.read_parquet(out).equals(expected),
        "left_behind": sorted(f.name for f in out.parent.iterdir() if f != out)}


def bytes_a_path(n):
    "Peak of the memory that finding and sorting a list of n paths takes, for each [bytes]"
    tracemalloc.start()
    files = [f"/data/survey/images/{1237648720693755918 + 7 * i}.jpg" for i in range(n)]
    sorted(files, key=chapter._by_number)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / n


def in_all(rounds):
    "Sums over the rounds"
    refused = [r["other_option_refused"] for r in rounds if "other_option_refused" in r]
    return {
        "identical": sum(r["identical"] for r in rounds), "computed_again": sum(r["computed_again"] for r in rounds),
        "left_behind": sum(len(r["left_behind"]) for r in rounds),
        "killed_with_parts": sum(r["finished_parts"] > 0 for r in rounds),
        "killed_after_the_end": sum(r["table_at_kill"] for r in rounds),
        "other_option_tried": len(refused), "other_option_refused": sum(refused)}


def main(args):
    kills, n, part = (3, 200, 32) if args.small else (args.kills, 2000, 128)
    rng, rounds = np.random.default_rng(args.seed), []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        sky = make_mock(folder / "sky", n=n, seed=args.seed, workers=1)
        run = train(sky, folder / "run", epochs=1, init="none", size=64, precision="fp32", quiet=True).path
        pack(sky.path)
        (folder / "whole").mkdir()
        started(run, sky.path, folder / "whole/warm.parquet", n).join()
        began = time.monotonic()
        started(run, sky.path, folder / "whole/table.parquet", part).join()
        whole = time.monotonic() - began  # [s] of an undisturbed run: kills fall into that time
        expected = pd.read_parquet(folder / "whole/table.parquet")
        assert len(expected) == n
        for k in range(kills):
            out = folder / f"round{k}/table.parquet"
            out.parent.mkdir()
            delay = float(rng.uniform(0, whole))
            rounds.append(one_round(run, sky.path, out, part, 0, delay, expected, k % 4 == 0))
            shutil.rmtree(out.parent)
    result = {"kills": kills, "galaxies": n, "part": part, "undisturbed_s": round(whole, 2), "seed": args.seed,
              "cpus": os.cpu_count(), "bytes_a_path": round(bytes_a_path(20_000 if args.small else 1_000_000)),
              "total": in_all(rounds), "rounds": rounds}
    write_results(args.out, result, "predictions killed with SIGKILL and resumed", "mock")
    print(result["total"])


if __name__ == "__main__":
    PROCESSES.set_forkserver_preload(["galaxy_cnn.predict"])
    parser = option_parser(__doc__, out="kill_predict.json", small="3 kills of 200 galaxies", seed=0)
    parser.add_argument("--kills", type=int, default=20)
    main(parser.parse_args())
