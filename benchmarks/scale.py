"""Predictions over HATS catalogs: are they those of `predict`, what do they cost, does memory stay flat?

    python benchmarks/scale.py [--section NAME ...] [--rows 100000 1000000] [--repeats 3] [--out results/scale.json]

equality: a mock sky through a HATS catalog and two worker processes against `predict`, and its crossmatch by LSDB.
overhead: against a plain loop over the same Parquet files in as many processes, with a network that takes no time and
with a true one. memory: of a worker, against rows and against the size of a partition. partitions: what each costs the
client. conversion: memory from a Survey to HATS and back. Each section is written when it is done, beside the others
that the file holds.
Catalogs of many rows are the partitions of a small one, linked under many cells.
"""
import ctypes
import json
import os
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

import harness
import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from harness import CORES, fresh_python, option_parser, peak_memory, write_results

from galaxy_cnn.figures import PREDICTED, new_figure
from galaxy_cnn.files import read_json
from galaxy_cnn.images import PackedCutout, read_pixels
from galaxy_cnn.mock_images import make_mock
from galaxy_cnn.ood import ood_features
from galaxy_cnn.predict import predict, prediction_fingerprint
from galaxy_cnn.run import read_run
from galaxy_cnn.scale import hats_to_survey, predict_hats, predict_partition, survey_to_hats
from galaxy_cnn.survey import read_survey, write_survey
from galaxy_cnn.train import train
from galaxy_cnn.uncertainty import ErrorModel

FULL = 20_000  # galaxies of the sky
COLUMNS = ["_healpix_29", "objID", "ra", "dec", "image"]
PARTITION_MB = 2  # about a thousand of its pictures
SUBREAPER = 36  # of Linux's prctl


# ---- skies, Runs, catalogs

def mock_sky(work, parts):
    "Skies of 5,000 mock galaxies each, as one Survey"
    skies = [make_mock(work / f"part{k}", n=5000, seed=201 + k) for k in range(parts)]
    out = work / f"sky{parts}"
    if (out / "survey.json").is_file(): return read_survey(out)
    (out / "images").mkdir(parents=True, exist_ok=True)
    for file in [Path(f) for sky in skies for f in sky.image_files]:
        if not (out / "images" / file.name).exists(): os.link(file, out / "images" / file.name)
    return write_survey(out, pd.concat([sky.catalog for sky in skies], ignore_index=True), skies[0].info)


def trained_run(work, calibrate=True):
    "A Run that knows little and is whole: with error bars and flag, or without"
    out = work / ("run" if calibrate else "bare_run")
    if (out / "model.json").is_file(): return read_run(out)
    options = dict(arch="xresnet_tiny", epochs=2, init="none", quiet=True)
    return train(make_mock(work / "part0", n=5000, seed=201), out, calibrate=calibrate, **options)


def hats_of(work, survey):
    "The HATS catalog of a Survey or a part of it, of about as many partitions"
    out = work / f"hats{len(survey)}"
    survey_to_hats(survey, out, PARTITION_MB * len(survey) / FULL)
    return out


def partitions(catalog): return sorted(Path(catalog).glob("dataset/*/*/Npix*.parquet"))


def linked(files, out, n):
    "A catalog of n partitions that are these files in turn, under cells of order 8: linked, not copied"
    from hats.catalog import PartitionInfo
    from hats.io.paths import pixel_catalog_file
    from hats.pixel_math import HealpixPixel
    shutil.rmtree(out, ignore_errors=True)
    cells = [HealpixPixel(8, i) for i in range(n)]
    for i, cell in enumerate(cells):
        file = Path(str(pixel_catalog_file(out, cell)))
        file.parent.mkdir(parents=True, exist_ok=True)
        os.link(files[i % len(files)], file)
    PartitionInfo.from_healpix(cells).write_to_file(catalog_path=out)
    return out


def of_rows(catalog, out, rows):
    "A catalog of at least so many rows, and how many they are"
    files = partitions(catalog)
    sizes = np.array([pq.read_metadata(f).num_rows for f in files])
    held = np.cumsum(np.tile(sizes, rows // sizes.sum() + 1))
    n = int(np.searchsorted(held, rows)) + 1
    linked(files, out, n)
    return int(held[n - 1])


def of_fours(catalog, out, n):
    "A catalog of n partitions of four galaxies each"
    four = out.with_name("four.parquet")
    pq.write_table(pq.read_table(partitions(catalog)[0]).slice(0, 4), four)
    return linked([four], out, n)


# ---- processes

@contextmanager
def environment(**values):
    "Variables of the environment for the processes that are started meanwhile"
    before = dict(os.environ)
    os.environ.update({k: str(v) for k, v in values.items()})
    try: yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def stub(work, network=False):
    "Processes predict with scale_stub.py; yields the folder of what they say"
    log = work / "log"
    shutil.rmtree(log, ignore_errors=True)
    log.mkdir(parents=True)
    keep = {"SCALE_NETWORK": 1} if network else {}
    with environment(SCALE_LOG=log, DASK_DISTRIBUTED__WORKER__PRELOAD="['scale_stub']", **keep): yield log


def child(*arguments):
    "What a function of this script returned in a fresh process"
    return json.loads(fresh_python(__file__, "--child", *arguments).splitlines()[-1])


def run_child(name, *arguments):
    "The other end of `child`: its result, its seconds and its memory"
    start = time.perf_counter()
    found = CHILDREN[name](*arguments) or {}
    others = getrusage(RUSAGE_CHILDREN)
    cost = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time(), "peak_MB": peak_memory() / 1e6,
            "cpu_seconds_of_children": others.ru_utime + others.ru_stime}
    print(json.dumps({**found, **cost}))


def workers_used(log):
    "The most memory of a worker [MB], and the CPU time of all of them"
    used = [tuple(map(float, f.read_text().split())) for f in log.glob("*.used")]
    return {"worker_peak_MB": max(m for _, m in used) / 1e6, "worker_cpu_seconds": sum(c for c, _ in used)}


def child_hats(run, catalog, out):
    done = predict_hats(run, catalog, out, tta=False, workers=CORES, accept_shift=True)
    return {key: value for key, value in done.items() if key != "notes"}  # they name folders of this machine


def child_partition(run, source, target):
    import_module("scale_stub")
    return predict_partition(source, target, run, prediction_fingerprint(run, False), tta=False)


def child_loop(run, catalog, out, part, parts, stubbed):
    "Plain loop over the Parquet files of a catalog, every so many-th of them: nothing is checked, nothing is kept"
    if stubbed == "stub": import_module("scale_stub")
    run, out = read_run(run), Path(out)
    errors = ErrorModel.load(run.path) or ErrorModel({}, None, [])
    for i, file in enumerate(partitions(catalog)[int(part)::int(parts)]):
        table = pq.read_table(file, columns=COLUMNS)
        pixels = np.stack([read_pixels(PackedCutout("picture.jpg", data)) for data in table["image"].to_pylist()])
        prediction = run.predict(pixels, tta=False)
        flag = None
        if errors.detector: flag = errors.detector.flag(ood_features(pixels, prediction.features, workers=1))
        answers = prediction.to_table(run.targets, errors, flag)
        pd.concat([table.drop_columns(["image"]).to_pandas(), answers], axis=1).to_parquet(out / f"{part}-{i}.parquet")


def child_to_hats(survey, out): return survey_to_hats(survey, out, PARTITION_MB / 10)


def child_to_survey(catalog, out): return {"n": len(hats_to_survey(catalog, out))}


CHILDREN = {name.removeprefix("child_"): work for name, work in globals().items() if name.startswith("child_")}


# ---- equality

def differences(one, two):
    "How two tables of predictions of the same galaxies differ"
    columns = [c for c in one if c in two and c not in ("objID", "image", "error")]
    unequal, largest = np.zeros(len(one), bool), {}
    for name in columns:
        a, b = one[name].to_numpy(float), two[name].to_numpy(float)
        unequal |= ~((a == b) | np.isnan(a) & np.isnan(b))
        largest[name] = float(np.nanmax(np.abs(a - b), initial=0))
    most = max(largest.values())
    return {"columns": len(columns), "rows_that_differ": int(unequal.sum()), "most": most, "by_column": largest}


def matched(catalog, answers):
    "Pairs of a catalog and its predictions within 0.1 arcsec, by LSDB, and how many of them are one galaxy"
    import lsdb
    one, two = lsdb.open_catalog(catalog, columns=["objID", "ra", "dec"]), lsdb.open_catalog(answers)
    both = one.crossmatch(two, radius_arcsec=0.1, suffixes=("", "_cnn")).compute(progress_bar=False)
    return {"pairs": len(both), "of_one_galaxy": int((both["objID"] == both["objID_cnn"]).sum())}


def compared(work, sky, n, tta):
    "Predictions of the first n galaxies by `predict`, and of their HATS catalog by two workers"
    run, sky = trained_run(work), sky.select(np.arange(len(sky)) < n)
    out, plain = work / f"answers{n}", work / f"answers{n}.parquet"
    catalog = hats_of(work, sky)
    shutil.rmtree(out, ignore_errors=True)
    done = predict_hats(run.path, catalog, out, tta=tta, workers=2)
    predict(run, sky.image_files, plain, tta=tta, accept_shift=True)
    expected = pd.read_parquet(plain).sort_values("objID", ignore_index=True)
    found = pd.concat([pd.read_parquet(f) for f in partitions(out)]).sort_values("objID", ignore_index=True)
    once = found["objID"].tolist() == expected["objID"].tolist() == sorted(sky.catalog["objID"])
    return {"n": len(found), "partitions": done["partitions"], "views": 8 if tta else 1, "every_galaxy_once": once,
            "against_predict": differences(found, expected), "crossmatch": matched(catalog, out)}


def equality(work, args):
    sky = mock_sky(work, args.parts)
    return [compared(work, sky, len(sky), tta=False), compared(work, sky, len(sky) // 10, tta=True)]


# ---- overhead

def loop(work, run, catalog, stubbed):
    "Seconds and CPU seconds of the plain loop, in as many processes as there are cores"
    out = work / "loop"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    start, before = time.perf_counter(), getrusage(RUSAGE_CHILDREN)
    with environment(OMP_NUM_THREADS=1), ThreadPoolExecutor(CORES) as pool:  # else numpy's threads are too many
        list(pool.map(lambda i: child("loop", run.path, catalog, out, i, CORES, stubbed), range(CORES)))
    return used_since(start, before)


def engine(work, run, catalog, stubbed):
    "The same of `predict_hats`"
    out = work / "engine"
    shutil.rmtree(out, ignore_errors=True)
    start, before = time.perf_counter(), getrusage(RUSAGE_CHILDREN)
    with stub(work, network=stubbed != "stub"): child("hats", run.path, catalog, out)
    return used_since(start, before)


def used_since(start, before):
    "Seconds on the clock and of the processors, children of children included: also those that a server has started"
    seconds = time.perf_counter() - start
    while psutil.Process().children(): os.wait()  # orphans come here, see `main`
    now = getrusage(RUSAGE_CHILDREN)
    cpu = now.ru_utime + now.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "cpu_seconds": cpu}


def raced(work, run, catalog, kind, repeats):
    "Both in turn"
    ways = {"plain loop": loop, "predict_hats": engine}
    return harness.interleaved({name: partial(way, work, run, catalog, kind) for name, way in ways.items()}, repeats)


def overhead(work, args):
    "Both, for many rows and for almost none: what it costs to start the processes"
    found, base = {}, hats_of(work, mock_sky(work, args.parts))
    few, many = of_fours(base, work / "linked_few", CORES), work / "linked_rows"
    rows = of_rows(base, many, args.rows[0])
    for kind in args.network:
        run = trained_run(work, calibrate=kind == "network")
        took = raced(work, run, many, kind, args.repeats)
        more = {key: harness.ratio(took["predict_hats"][key], took["plain loop"][key]) for key in took["plain loop"]}
        found[kind] = {"rows": rows, "partitions": len(partitions(many)), **took, "ratio": more,
                       "start": raced(work, run, few, kind, 1)}
    return found


# ---- memory, partitions, conversion

def measured(work, run, catalog):
    "What `predict_hats` with a network that takes no time uses: the client, and its workers"
    shutil.rmtree(work / "engine", ignore_errors=True)
    with stub(work) as log:
        found = child("hats", run.path, catalog, work / "engine")
        return {**found, **workers_used(log)}


def memory(work, args):
    "Of a worker: against the rows of a catalog, and against the rows of a single partition"
    run, base = trained_run(work, calibrate=False), hats_of(work, mock_sky(work, args.parts))
    catalog = work / "linked_memory"
    found = {"rows": [], "partition": []}
    for rows in args.rows:
        n = of_rows(base, catalog, rows)
        found["rows"].append({"rows": n, **measured(work, run, catalog)})
    for rows in (1_000, 10_000, 100_000)[:len(args.rows) + 1]:
        for groups in (1024, rows):
            file = one_partition(base, work / "partition.parquet", rows, groups)
            done = child("partition", run.path, file, work / "partition_answers.parquet")
            found["partition"].append({"rows_of_a_group": groups, "MB": file.stat().st_size / 1e6, **done})
            (work / "partition_answers.parquet").unlink()
    return found


def one_partition(catalog, file, rows, groups):
    "A single Parquet file with so many rows, in groups of so many rows"
    files = partitions(catalog)
    tables = [pq.read_table(f, columns=COLUMNS) for f in files]
    table = pa.concat_tables(tables * (rows // FULL + 1)).slice(0, rows)
    pq.write_table(table.combine_chunks(), file, row_group_size=groups, compression="none")
    return file


def partition_costs(work, args):
    "The client's time and memory against the number of partitions, of four galaxies each"
    run, base = trained_run(work, calibrate=False), hats_of(work, mock_sky(work, args.parts))
    catalogs = ((n, of_fours(base, work / "linked_many", n)) for n in args.partitions)
    return [{"partitions": n, **measured(work, run, catalog)} for n, catalog in catalogs]


def conversion(work, args):
    "Memory from a Survey to HATS and back, of a tenth of the sky and of all"
    found, sky = [], mock_sky(work, args.parts)
    for n in (len(sky) // 10, len(sky)):
        few, hats, back = (work / f"conversion_{name}" for name in ("survey", "hats", "back"))
        for folder in (few, hats, back): shutil.rmtree(folder, ignore_errors=True)
        few.mkdir()
        (few / "images").symlink_to(sky.path / "images")
        write_survey(few, sky.catalog.head(n), sky.info)
        there = child("to_hats", few, hats)
        found.append({"n": n, "to_hats": there, "to_survey": child("to_survey", hats, back)})
    return found


SECTIONS = {"equality": equality, "overhead": overhead, "memory": memory, "partitions": partition_costs,
            "conversion": conversion}


# ---- figure

def figure(found):
    "Seconds against the plain loop; memory of a worker against rows; the client against partitions"
    fig = new_figure(11, 3.2)
    axes = fig.subplots(1, 3)
    plot_overhead(axes[0], found["overhead"])
    rows, single = found["memory"]["rows"], found["memory"]["partition"]
    axes[1].plot([r["rows"] for r in rows], [r["worker_peak_MB"] for r in rows], "o-", label="rows of a catalog")
    for label, style, chosen in (("of one partition", "s--", True), ("of one partition, one row group", "^:", False)):
        kept = [r for r in single if (r["rows_of_a_group"] == 1024) == chosen]
        axes[1].plot([r["n"] for r in kept], [r["peak_MB"] for r in kept], style, label=label)
    axes[1].set(xscale="log", xlabel="rows", ylabel="peak memory of a worker [MB]", title="no network")
    axes[1].set_ylim(0, 1.1 * max(r["worker_peak_MB"] for r in rows))
    axes[1].legend(fontsize=7)
    many = found["partitions"]
    x = [r["partitions"] for r in many]
    axes[2].plot(x, [r["cpu_seconds"] for r in many], "o-", label="CPU time [s]")
    axes[2].plot(x, [r["peak_MB"] for r in many], "s--", label="peak memory [MB]")
    axes[2].set(xscale="log", yscale="log", xlabel="partitions of 4 galaxies", title="client and scheduler")
    axes[2].legend(fontsize=7, loc="center left")
    fig.suptitle(f"mock, {CORES} worker processes", fontsize=9)
    return fig


def plot_overhead(ax, found):
    "Bars of both, for each network"
    for i, (kind, v) in enumerate(found.items()):
        for j, (name, hatch) in enumerate((("plain loop", ""), ("predict_hats", "//"))):
            took = v[name]["seconds"]
            ends = [[took["median"] - took["min"]], [took["max"] - took["median"]]]
            ax.bar(i + 0.4 * j, took["median"], 0.38, yerr=ends, hatch=hatch, color=("0.75", PREDICTED)[j], ec="k",
                   label=name if i == 0 else None)
    names = {"stub": "no network", "network": "xresnet_tiny"}
    ax.set_xticks([i + 0.2 for i in range(len(found))], [names[kind] for kind in found])
    ax.set(ylabel=f"seconds for {next(iter(found.values()))['rows']:,} rows")
    ax.legend(fontsize=7, loc="upper left")


def main(args):
    orphans_come_here = ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0) == 0
    if not orphans_come_here: raise SystemExit("Linux is needed, for its prctl.")
    args.work.mkdir(parents=True, exist_ok=True)
    found = read_json(args.out)["sections"] if args.out.exists() else {}
    for name in args.section:
        print(name, flush=True)
        new = SECTIONS[name](args.work, args)
        found[name] = found.get(name, {}) | new if isinstance(new, dict) else new
        found = {key: found[key] for key in SECTIONS if key in found}
        what = "Predictions over HATS catalogs by processes of Dask; mock sky, linked many times where rows are many"
        write_results(args.out, {"machine": harness.machine(), "sections": found}, what, "mock", 5_000 * args.parts)
    drawn = {"overhead", "memory", "partitions"}
    if drawn <= set(found): harness.save_figure(args.out.with_suffix(".png"), figure(found))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]: sys.exit(run_child(*sys.argv[2:]))
    parser = option_parser(__doc__, out="scale.json", work="runs/scale", small="5,000 galaxies, few rows, once")
    parser.add_argument("--section", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--rows", nargs="+", type=int, default=[100_000, 1_000_000], help="overhead takes the first")
    parser.add_argument("--partitions", nargs="+", type=int, default=[100, 1_000, 10_000])
    parser.add_argument("--network", nargs="+", choices=("stub", "network"), default=["stub", "network"])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    args.parts = 1 if args.small else 4
    if args.small: args.rows, args.partitions, args.repeats = [6_000], [4, 20], 1
    main(args)
