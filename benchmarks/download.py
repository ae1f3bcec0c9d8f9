"""The download beside what a user would write: a serial loop of requests, and a plain thread pool.

    python benchmarks/download.py [--small] [--part rates cpu memory commits] [--objects 1000 10000 100000]
                                  [--out results/download.json]

Cutouts a second, CPU, memory, and what a commit costs. The server runs in a process of its own. `rates` gives it 100 ms
of latency, as a real service may have; `cpu` and `memory` give it none. Results are merged into the JSON, and written
as a table beside it (.md).
"""
import json
import os
import platform
import resource
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests
from harness import fresh_python, option_parser, write_results
from skies import make_sky, served

from galaxy_cnn.download import Record, RecordRow, download
from galaxy_cnn.files import atomic_path, read_json
from galaxy_cnn.providers import CutoutRequest, cutout_scale

CONNECTIONS, LATENCY = 8, 0.1
WATCHED = Path(__file__).with_name("watched_download.py")
MEMORY_KEYS = ("at_start_MB", "before_the_first_cutout_MB", "peak_until_the_last_cutout_MB", "peak_MB", "seconds")


def cpu():
    "CPU seconds of this process"
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measured(work, n):
    "Seconds, CPU and rate of some work on n cutouts"
    began, used = time.monotonic(), cpu()
    work()
    seconds, used = time.monotonic() - began, cpu() - used
    return {"cutouts": n, "seconds": round(seconds, 2), "per_second": round(n / seconds, 1),
            "cpu_ms": round(1e3 * used / n, 2)}


def urls_of(sky, url):
    "The URLs of all cutouts"
    scale = cutout_scale("r90", sky.catalog["petroR90_r"], sky.size)
    places = zip(sky.catalog["ra"], sky.catalog["dec"], scale)
    return [f"{url}/{CutoutRequest(ra, dec, s, sky.size).key}" for ra, dec, s in places]


def serial(urls, out):
    "The loop that people write, without its sleep and with its errors unnoticed"
    for i, url in enumerate(urls): (out / f"{i}.jpg").write_bytes(requests.get(url).content)


def pool(urls, out):
    "The same in a plain pool of threads"
    def fetch(i, url): (out / f"{i}.jpg").write_bytes(requests.get(url).content)
    with ThreadPoolExecutor(CONNECTIONS) as threads: list(threads.map(fetch, range(len(urls)), urls))


def ours(sky, url, out, n):
    "The cutouts of n galaxies of one's own catalog: the whole download, catalog.parquet and SHA256SUMS included"
    done, options = {}, dict(connections=CONNECTIONS, progress=False)
    catalog = sky.select([i < n for i in range(len(sky))]).catalog
    result = measured(lambda: done.update(download(out, base_url=url, catalog=catalog, **options)), n)
    assert done["complete"], done
    return result


def warmed_up(sky, url, folder, n):
    "URLs of all cutouts and a folder for them; imports and first connections are not timed"
    urls, plain = urls_of(sky, url), folder / "plain"
    plain.mkdir(parents=True)
    serial(urls[:n], plain)
    ours(sky, url, folder / "warm", n)
    return urls, plain


def rates(folder, args):
    "Cutouts a second at 100 ms of latency"
    few, many = (20, 100) if args.small else (200, 2000)
    folder = folder / "rates"
    sky = make_sky(folder / "sky", many)
    with served(sky.path, latency=LATENCY) as url:
        urls, plain = warmed_up(sky, url, folder, 2)
        result = {"latency_s": LATENCY, "connections": CONNECTIONS, "ceiling_per_second": CONNECTIONS / LATENCY,
                  "serial requests.get": measured(lambda: serial(urls[:few], plain), few),
                  "thread pool of requests.get": measured(lambda: pool(urls[:many // 2], plain), many // 2),
                  "galaxy_cnn": ours(sky, url, folder / "ours", many)}
    result["galaxy_cnn_of_ceiling"] = round(result["galaxy_cnn"]["per_second"] / result["ceiling_per_second"], 3)
    return result


def cpu_cost(folder, args):
    "CPU ms a cutout, without latency, one connection at a time for the bare request"
    n, folder = 100 if args.small else 1500, folder / "cpu"
    sky = make_sky(folder / "sky", n)
    with served(sky.path) as url:
        urls, plain = warmed_up(sky, url, folder, 5)
        return {"bare requests.get, serial": measured(lambda: serial(urls, plain), n),
                "thread pool of requests.get": measured(lambda: pool(urls, plain), n),
                "galaxy_cnn": ours(sky, url, folder / "ours", n)}


def memory(folder, args):
    "Resident memory [MB] of a download of so many objects, catalog by query, in a process of its own"
    result = {}
    for n in (100, 300) if args.small else args.objects:
        sky, out = make_sky(folder / f"memory{n}", n), folder / f"out{n}"
        with served(sky.path) as url: said = json.loads(fresh_python(WATCHED, out, url))
        assert said["n"] == n, said
        result[str(n)] = said["found"]
        for path in (sky.path, out): shutil.rmtree(path)
    return result


def record_row(i):
    "A row of the record as a download writes it"
    request = f"dr17/SkyServerWS/ImgCutout/getjpeg?ra={i}"
    return RecordRow(i, request, "ok", 1, 200, 1800, "0" * 64, f"http://x/{i}", "", "2026-01-01T00:00:00+00:00")


def commit_ms(file, mode, batch, n):
    "Milliseconds a row of a record of n rows, a batch of them in a commit"
    with Record(file) as record:
        record.begin()
        record.base.execute(f"PRAGMA synchronous = {mode}")
        began = time.monotonic()
        for start in range(0, n, batch):
            record.put(record_row(i) for i in range(start, start + batch))
        return round(1e3 * (time.monotonic() - began) / n, 3)


def commits(folder, args):
    "Rows one by one or 32 at a time, in SQLite's log with and without a flush at each commit; and a file's flush"
    n, result = 256 if args.small else 4096, {}
    for mode in ("NORMAL", "FULL"):
        for batch in (1, 32):
            spent = commit_ms(folder / f"{mode}{batch}.sqlite", mode, batch, n)
            result[f"{mode}, {batch} rows a commit, ms a row"] = spent
    began = time.monotonic()
    for i in range(256):
        with atomic_path(folder / "files" / f"{i}.jpg") as tmp: tmp.write_bytes(b"x" * 1800)
    result["file: write, flush, rename, ms"] = round(1e3 * (time.monotonic() - began) / 256, 3)
    return result


def rows_of(found, keys):
    "Rows of a Markdown table"
    cells = [[name, *(v[k] for k in keys)] for name, v in found]
    return [f"| {' | '.join(map(str, row))} |" for row in cells]


def rates_table(found):
    "Contenders of `rates` or `cpu` as Markdown"
    rows = [(name, v) for name, v in found.items() if isinstance(v, dict)]
    head = ["| what | n | cutouts/s | CPU ms a cutout |", "|---|---|---|---|"]
    return head + rows_of(rows, ("cutouts", "per_second", "cpu_ms"))


def rates_lines(r):
    "Cutouts a second as Markdown"
    return [f"Latency {1000 * r['latency_s']:.0f} ms, {r['connections']} connections: at most "
            f"{r['ceiling_per_second']:.0f} cutouts/s; galaxy_cnn reaches {r['galaxy_cnn_of_ceiling']:.1%}.", "",
            *rates_table(r)]


def cpu_lines(r): return ["", "Without latency:", "", *rates_table(r)]


def memory_lines(r):
    "Resident memory as Markdown"
    return ["", "Resident memory of a whole download (catalog by query, all columns):", "",
            "| objects | at start, MB | catalog fetched, before the first cutout, MB | peak until the last cutout, MB "
            "| peak with the final catalog, MB | seconds |", "|---|---|---|---|---|---|",
            *rows_of(r.items(), MEMORY_KEYS)]


def commits_lines(r): return ["", "| commit | ms |", "|---|---|", *(f"| {k} | {v} |" for k, v in r.items())]


PARTS = {"rates": rates, "cpu": cpu_cost, "memory": memory, "commits": commits}
LINES = {"rates": rates_lines, "cpu": cpu_lines, "memory": memory_lines, "commits": commits_lines}


def table(result):
    "The results as Markdown"
    load = ", ".join(f"{part} {v}" for part, v in result["load_average_before"].items())
    lines = ["# Download: measured", "", f"Local server in a process of its own; {result['cpus']} cores of a machine "
             f"shared with other work, Python {result['python']}. Mock sky, pictures of noise (about 2 kB). Written by "
             "`benchmarks/download.py`.", "", f"Load average of the machine before each part: {load}.", ""]
    for part, lines_of in LINES.items():
        if part in result: lines += lines_of(result[part])
    return "\n".join(lines) + "\n"


def main(args):
    result = read_json(args.out) if args.out.exists() else {}
    result |= {"cpus": os.cpu_count(), "python": platform.python_version()}
    with tempfile.TemporaryDirectory() as folder:
        for part in args.part:
            load = round(os.getloadavg()[0], 1)
            result[part] = PARTS[part](Path(folder), args)
            result.setdefault("load_average_before", {})[part] = load
            write_results(args.out, result, "downloads beside what a user would write", "mock")
            args.out.with_suffix(".md").write_text(table(result))
            print(part, json.dumps(result[part], indent=1), flush=True)


if __name__ == "__main__":
    parser = option_parser(__doc__, out="download.json", small="a minute's form")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--objects", nargs="+", type=int, default=[1_000, 10_000, 100_000], help="for memory")
    main(parser.parse_args())
