"""A catalog of 142,000 rows with all columns through the local server and back: ids, NULL, -9999, exponents, truncated streams, duplicates.

    python benchmarks/catalog_roundtrip.py [--small] [--rows 142000] [--out results/catalog_roundtrip.json]
"""
import argparse
import dataclasses
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent))
from skies import make_sky

from galaxy_cnn.download import Record, fetch_catalog, get_parts, keep_best, set_settings
from galaxy_cnn.local_server import serve
from galaxy_cnn.mock_catalog import draw_catalog
from galaxy_cnn.skyserver import Client, RequestPolicy
from galaxy_cnn.catalogs import COLUMNS


def hard_catalog(n, rng):
    "The mock sky's catalog with what makes tables hard: ids up to 2^64, NULL, -9999, exponents, objects with two and three spectra"
    catalog = draw_catalog(n, seed=0)
    catalog = catalog[[c for c in catalog if c in COLUMNS]]
    keys = np.unique(rng.integers(1, 2**64, 2 * n, dtype="uint64"))
    catalog["specObjID"] = rng.permutation(keys)[:n]
    reals = [c for c in catalog if COLUMNS[c].dtype == "float32" and c != "zErr"]
    for name in reals:
        values = catalog[name].to_numpy().copy()
        values[rng.random(n) < 0.01] = np.nan
        values[rng.random(n) < 0.01] = -9999
        tiny = rng.random(n) < 0.005
        values[tiny] = (rng.normal(size=tiny.sum()) * 10.0 ** rng.integers(-12, 12, tiny.sum())).astype("float32")
        catalog[name] = values
    again = rng.choice(n, n // 100, replace=False)  # each gets the objID, place and photometry of another row: a second spectrum of it
    source = rng.choice(np.setdiff1d(np.arange(n), again), len(again))
    photometry = [c for c in catalog if c in ("objID", "ra", "dec") or c.startswith(("petro", "modelMag"))]
    for name in photometry:
        values = catalog[name].to_numpy().copy()
        values[again] = values[source]
        catalog[name] = values
    return catalog.reset_index(drop=True)


def seven_digits(values): return np.array([np.nan if v != v else np.float32(f"{v:.7G}") for v in values.tolist()], dtype="float32")


def differences(sent, got):
    "Values that did not arrive as SkyServer would print them, by column (sent and got in the same order)"
    wrong = {}
    for name in sent:
        a, b = sent[name].to_numpy(), got[name].to_numpy()
        if COLUMNS[name].dtype == "float32": a = seven_digits(a)
        if COLUMNS[name].dtype == "float64": a = np.array([float(f"{v:.15G}") for v in a])
        wrong[name] = int(((a != b) & ~(pd.isna(a) & pd.isna(b))).sum())
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="3,000 rows")
    parser.add_argument("--rows", type=int, default=142_000)
    parser.add_argument("--out", default="results/catalog_roundtrip.json")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    n, rng = 3_000 if arguments.small else arguments.rows, np.random.default_rng(arguments.seed)
    if arguments.small:
        from galaxy_cnn import download
        download.PART_ROWS = 1_000
    catalog, cuts = hard_catalog(n, rng), []

    def faults(ask, answer):
        "Three of the first tries are cut: in a row, cleanly between rows, in a chunk"
        if ask.kind != "query" or "TOP" not in ask.params["cmd"] or len(cuts) >= 3: return None
        cuts.append(("in a row", "between rows", "in a chunk")[len(cuts)])
        body = answer.body
        if cuts[-1] == "in a row": return dataclasses.replace(answer, body=body[:len(body) // 2])
        if cuts[-1] == "between rows": return dataclasses.replace(answer, body=body[:body[:len(body) // 2].rindex(b"\n") + 1])
        return dataclasses.replace(answer, keep=len(body) // 2)

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        sky = make_sky(folder / "sky", 2)
        with serve(sky, catalog=catalog, faults=faults, queries=10**6) as server, Record(folder / "out" / "downloads.sqlite") as record:
            client = Client(server.url, manners=RequestPolicy(pause=0.01, queries=10**6))
            set_settings(record, base_url=server.url, release="dr17", size=128, scale="r90", cuts="", catalog=None, n=None)
            record.begin()
            began = time.monotonic()
            fetch_catalog(folder / "out", record, client, progress=False)
            seconds, parts = time.monotonic() - began, get_parts(record)
        got = pd.concat([pd.read_parquet(folder / "out" / "catalog_parts" / p.file) for p in parts], ignore_index=True)
        size = sum((folder / "out" / "catalog_parts" / p.file).stat().st_size for p in parts)
    sent = catalog.sort_values("specObjID", ignore_index=True)[got.columns]
    # the photometry of an object is one: the server has it once, as SDSS does, so the first row's stands for all its spectra
    best, expected = keep_best(got), keep_best(sent)
    result = {
        "rows": n, "columns": len(got.columns), "rows_got": len(got), "parts": len(parts), "requests": client.requests, "cut_streams": cuts,
        "seconds": round(seconds, 1), "parquet_MB": round(size / 1e6, 1), "peak_memory_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "wrong_values": sum(differences(sent, got).values()), "values": int(got.size), "wrong_by_column": {k: v for k, v in differences(sent, got).items() if v},
        "ids_beyond_int64": int((got["specObjID"] >= 2**63).sum()), "nulls": int(got.isna().sum().sum()), "missing_codes": int((got.select_dtypes("float32") == -9999).sum().sum()),
        "tiny_or_huge": int(((got.select_dtypes("float32").abs() < 1e-4) | (got.select_dtypes("float32").abs() > 1e7)).sum().sum()),
        "objects": int(got["objID"].nunique()), "duplicates_dropped": len(got) - len(best), "same_rows_kept": bool((best == expected).all()),
        "note": "server and client in one process, on a shared machine with 4 cores", "cpus": os.cpu_count(), "seed": arguments.seed}
    Path(arguments.out).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__": main()
