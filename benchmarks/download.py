"""The download beside what a user would write: a serial loop of requests, and a plain thread pool; CPU, memory, and what a commit costs.

    python benchmarks/download.py [--small] [--part rates cpu memory commits] [--objects 1000 10000 100000] [--out results/download.json]

The server runs in a process of its own. `rates` gives it 100 ms of latency, as a real service may have; `cpu` and `memory` give it none.
Results are merged into the JSON, and written as a table beside it (.md).
"""
import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from skies import make_sky, served

CONNECTIONS, LATENCY = 8, 0.1


def cpu():
    "CPU seconds of this process"
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measured(work, n):
    "Seconds, CPU and rate of some work on n cutouts"
    began, used = time.monotonic(), cpu()
    work()
    seconds, used = time.monotonic() - began, cpu() - used
    return {"cutouts": n, "seconds": round(seconds, 2), "per_second": round(n / seconds, 1), "cpu_ms": round(1e3 * used / n, 2)}


def urls_of(sky, url):
    "The URLs of all cutouts"
    from galaxy_cnn.skyserver import CutoutRequest, cutout_scale
    scale = cutout_scale("r90", sky.catalog["petroR90_r"], sky.size)
    return [f"{url}/{CutoutRequest(a, d, s, sky.size).key}" for a, d, s in zip(sky.catalog["ra"], sky.catalog["dec"], scale)]


def serial(urls, out):
    "The loop that people write, without its sleep and with its errors unnoticed"
    import requests
    for i, url in enumerate(urls): (out / f"{i}.jpg").write_bytes(requests.get(url).content)


def pool(urls, out):
    "The same in a plain pool of threads"
    import requests
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        list(threads.map(lambda job: (out / f"{job[0]}.jpg").write_bytes(requests.get(job[1]).content), enumerate(urls)))


def only(sky, n):
    "The first n galaxies of a sky"
    return sky.select([i < n for i in range(len(sky))])


def rates(folder, small):
    "Cutouts a second at 100 ms of latency"
    few, many = (20, 100) if small else (200, 2000)
    sky = make_sky(folder / "rates", many)
    with served(sky.path, latency=LATENCY) as url:
        urls, plain = urls_of(sky, url), folder / "plain"
        plain.mkdir()
        serial(urls[:2], plain), ours_cutouts(sky, url, folder / "warm", 2)  # imports and first connections are not timed
        result = {"latency_s": LATENCY, "connections": CONNECTIONS, "ceiling_per_second": CONNECTIONS / LATENCY,
                  "serial requests.get": measured(lambda: serial(urls[:few], plain), few),
                  "thread pool of requests.get": measured(lambda: pool(urls[:many // 2], plain), many // 2),
                  "galaxy_cnn": ours_cutouts(sky, url, folder / "ours", many)}
    result["galaxy_cnn_of_ceiling"] = round(result["galaxy_cnn"]["per_second"] / result["ceiling_per_second"], 3)
    return result


def ours_cutouts(sky, url, out, n):
    "The cutouts of n galaxies of one's own catalog: what is timed is the whole download, catalog.parquet and SHA256SUMS included"
    from galaxy_cnn.download import download
    done = {}
    result = measured(lambda: done.update(download(out, base_url=url, catalog=only(sky, n).catalog, connections=CONNECTIONS, progress=False)), n)
    assert done["complete"], done
    return result


def cpu_cost(folder, small):
    "CPU ms a cutout, without latency, one connection at a time for the bare request"
    n = 100 if small else 1500
    sky = make_sky(folder / "cpu", n)
    with served(sky.path) as url:
        urls, plain = urls_of(sky, url), folder / "cpu_plain"
        plain.mkdir()
        serial(urls[:5], plain), ours_cutouts(sky, url, folder / "cpu_warm", 5)
        return {"bare requests.get, serial": measured(lambda: serial(urls, plain), n), "thread pool of requests.get": measured(lambda: pool(urls, plain), n),
                "galaxy_cnn": ours_cutouts(sky, url, folder / "cpu_ours", n)}


CHILD = """
import sys, threading, time
import galaxy_cnn.download as d
def rss(): return int(open('/proc/self/statm').read().split()[1]) * 4096 / 1e6
peaks, start = {'all': 0.0, 'cutouts': 0.0}, rss()
def watch():
    while True:
        now = rss()
        for k in peaks: peaks[k] = max(peaks[k], now)
        time.sleep(0.02)
threading.Thread(target=watch, daemon=True).start()
fetch = d.fetch_cutouts
def watched(*a, **k):
    global before, cutouts
    before = peaks['cutouts'] = rss()
    reason = fetch(*a, **k)
    cutouts = peaks['cutouts']
    return reason
d.fetch_cutouts = watched
began = time.monotonic()
s = d.download(sys.argv[1], base_url=sys.argv[2], cuts='none', progress=False)
print(s['complete'], s['outcomes']['ok'], *(round(x, 1) for x in (start, before, cutouts, max(peaks['all'], cutouts), time.monotonic() - began)))
"""


def memory(folder, small, objects):
    "Resident memory [MB] of a download of so many objects, catalog by query, in a process of its own"
    result = {}
    for n in (100, 300) if small else objects:
        sky = make_sky(folder / f"memory{n}", n)
        with served(sky.path) as url:
            line = subprocess.run([sys.executable, "-c", CHILD, str(folder / f"out{n}"), url], capture_output=True, text=True, check=True).stdout.split()
        assert line[0] == "True" and int(line[1]) == n, line
        result[str(n)] = dict(zip(("at_start_MB", "before_the_first_cutout_MB", "peak_until_the_last_cutout_MB", "peak_MB", "seconds"), map(float, line[2:])))
        for name in (f"memory{n}", f"out{n}"): shutil.rmtree(folder / name)
    return result


def commits(folder, small):
    "What a commit costs: rows one by one or 32 at a time, in SQLite's log with and without a flush at each commit; and a file's flush and rename"
    from galaxy_cnn.download import Record, RecordRow
    from galaxy_cnn.files import atomic_path
    n, result = 256 if small else 4096, {}
    row = lambda i: RecordRow(i, f"dr17/SkyServerWS/ImgCutout/getjpeg?ra={i}", "ok", 1, 200, 1800, "0" * 64, f"http://x/{i}", "", "2026-01-01T00:00:00+00:00")
    for mode in ("NORMAL", "FULL"):
        for batch in (1, 32):
            with Record(folder / f"{mode}{batch}.sqlite") as record:
                record.begin()
                record.base.execute(f"PRAGMA synchronous = {mode}")
                began = time.monotonic()
                for start in range(0, n, batch): record.put(row(i) for i in range(start, start + batch))
                result[f"{mode}, {batch} rows a commit, ms a row"] = round(1e3 * (time.monotonic() - began) / n, 3)
    began = time.monotonic()
    for i in range(256):
        with atomic_path(folder / "files" / f"{i}.jpg") as tmp: tmp.write_bytes(b"x" * 1800)
    result["file: write, flush, rename, ms"] = round(1e3 * (time.monotonic() - began) / 256, 3)
    return result


def table(result):
    "The results as Markdown"
    lines = ["# Download: measured", "", f"Local server in a process of its own; {result['cpus']} cores of a machine shared with other work, Python {result['python']}. Mock sky, "
             "pictures of noise (about 2 kB). Written by `benchmarks/download.py`.", "",
             f"Load average of the machine before each part: {', '.join(f'{k} {v}' for k, v in result['load_average_before'].items())}.", ""]
    if "rates" in result:
        r = result["rates"]
        lines += [f"Latency {1000 * r['latency_s']:.0f} ms, {r['connections']} connections: at most {r['ceiling_per_second']:.0f} cutouts/s; galaxy_cnn reaches {r['galaxy_cnn_of_ceiling']:.1%}.", "",
                  "| what | n | cutouts/s | CPU ms a cutout |", "|---|---|---|---|"]
        lines += [f"| {k} | {v['cutouts']} | {v['per_second']} | {v['cpu_ms']} |" for k, v in r.items() if isinstance(v, dict)]
    if "cpu" in result:
        lines += ["", "Without latency:", "", "| what | n | cutouts/s | CPU ms a cutout |", "|---|---|---|---|"]
        lines += [f"| {k} | {v['cutouts']} | {v['per_second']} | {v['cpu_ms']} |" for k, v in result["cpu"].items()]
    if "memory" in result:
        lines += ["", "Resident memory of a whole download (catalog by query, all columns):", "", "| objects | at start, MB | catalog fetched, before the first cutout, MB | peak until the last cutout, MB | peak with the final catalog, MB | seconds |",
                  "|---|---|---|---|---|---|"]
        lines += [f"| {n} | {m['at_start_MB']} | {m['before_the_first_cutout_MB']} | {m['peak_until_the_last_cutout_MB']} | {m['peak_MB']} | {m['seconds']} |" for n, m in result["memory"].items()]
    if "commits" in result: lines += ["", "| commit | ms |", "|---|---|"] + [f"| {k} | {v} |" for k, v in result["commits"].items()]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a minute's form")
    parser.add_argument("--part", nargs="+", default=["rates", "cpu", "memory", "commits"])
    parser.add_argument("--objects", nargs="+", type=int, default=[1_000, 10_000, 100_000], help="for memory")
    parser.add_argument("--out", default="results/download.json")
    arguments = parser.parse_args()
    out = Path(arguments.out)
    result = json.loads(out.read_text()) if out.exists() else {}
    result |= {"cpus": os.cpu_count(), "python": platform.python_version()}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        works = {"rates": lambda: rates(folder, arguments.small), "cpu": lambda: cpu_cost(folder, arguments.small),
                 "memory": lambda: memory(folder, arguments.small, arguments.objects), "commits": lambda: commits(folder, arguments.small)}
        for part in arguments.part:
            load = round(os.getloadavg()[0], 1)
            result[part] = works[part]()
            result.setdefault("load_average_before", {})[part] = load
            out.write_text(json.dumps(result, indent=1) + "\n")
            out.with_suffix(".md").write_text(table(result))
            print(part, json.dumps(result[part], indent=1), flush=True)


if __name__ == "__main__": main()
