"""A catalog of 142,000 rows with all columns through the local server and back.

    python benchmarks/catalog_roundtrip.py [--small] [--rows 142000] [--out results/catalog_roundtrip.json]

With what makes tables hard: ids up to 2^64, NULL, -9999, exponents, truncated streams, duplicates.
"""
import dataclasses
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from harness import option_parser, peak_memory, write_results
from skies import make_sky

from galaxy_cnn import download
from galaxy_cnn.catalogs import COLUMNS
from galaxy_cnn.download import Record, fetch_catalog, get_parts, keep_best, set_settings
from galaxy_cnn.local_server import serve
from galaxy_cnn.mock_catalog import draw_catalog
from galaxy_cnn.skyserver import Client, RequestPolicy


def hard_catalog(n, rng):
    "The mock sky's catalog with ids up to 2^64, NULL, -9999, exponents, objects with two and three spectra"
    catalog = draw_catalog(n, seed=0)
    catalog = catalog[[c for c in catalog if c in COLUMNS]]
    keys = np.unique(rng.integers(1, 2**64, 2 * n, dtype="uint64"))
    catalog["specObjID"] = rng.permutation(keys)[:n]
    for name in (c for c in catalog if COLUMNS[c].dtype == "float32" and c != "zErr"):
        values = catalog[name].to_numpy().copy()
        values[rng.random(n) < 0.01] = np.nan
        values[rng.random(n) < 0.01] = -9999
        tiny = rng.random(n) < 0.005
        mantissa = rng.normal(size=tiny.sum())
        values[tiny] = (mantissa * 10.0 ** rng.integers(-12, 12, tiny.sum())).astype("float32")
        catalog[name] = values
    # some get the objID, place and photometry of another row, and are then a second spectrum of it
    again = rng.choice(n, n // 100, replace=False)
    source = rng.choice(np.setdiff1d(np.arange(n), again), len(again))
    for name in (c for c in catalog if c in ("objID", "ra", "dec") or c.startswith(("petro", "modelMag"))):
        values = catalog[name].to_numpy().copy()
        values[again] = values[source]
        catalog[name] = values
    return catalog.reset_index(drop=True)


def printed(values):
    "Values as SkyServer would print them: 7 digits of a float32, 15 of a float64"
    if values.dtype not in ("float32", "float64"): return values
    digits = 7 if values.dtype == "float32" else 15
    return np.array([float(f"{v:.{digits}G}") for v in values.tolist()], values.dtype)


def differences(sent, got):
    "Values that did not arrive as SkyServer would print them, by column (sent and got in the same order)"
    wrong = {}
    for name in sent:
        a, b = printed(sent[name].to_numpy()), got[name].to_numpy()
        both_missing = pd.isna(a) & pd.isna(b)
        wrong[name] = int(((a != b) & ~both_missing).sum())
    return wrong


class Cuts:
    "A server's faults: three of the first tries are cut, in a row, cleanly between rows, in a chunk"
    def __init__(self): self.done = []

    def __call__(self, ask, answer):
        if ask.kind != "query" or "TOP" not in ask.params["cmd"] or len(self.done) >= 3: return None
        self.done.append(("in a row", "between rows", "in a chunk")[len(self.done)])
        body, half = answer.body, len(answer.body) // 2
        if self.done[-1] == "in a row": return dataclasses.replace(answer, body=body[:half])
        if self.done[-1] == "in a chunk": return dataclasses.replace(answer, keep=half)
        return dataclasses.replace(answer, body=body[:body[:half].rindex(b"\n") + 1])


def fetch(folder, catalog):
    "Fetch a catalog through the local server: what arrived, and what it took"
    sky, cuts, out = make_sky(folder / "sky", 2), Cuts(), folder / "out"
    with serve(sky, catalog=catalog, faults=cuts, queries=10**6) as server, Record(out / "downloads.sqlite") as record:
        client = Client(server.url, manners=RequestPolicy(pause=0.01, queries=10**6))
        settings = dict(release="dr17", size=128, scale="r90", cuts="", catalog=None, n=None)
        set_settings(record, base_url=server.url, **settings)
        record.begin()
        began = time.monotonic()
        fetch_catalog(out, record, client, progress=False)
        seconds, parts = time.monotonic() - began, get_parts(record)
    files = [out / "catalog_parts" / p.file for p in parts]
    got = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
    return got, {"parts": len(parts), "requests": client.requests, "cut_streams": cuts.done,
                 "seconds": round(seconds, 1), "parquet_MB": round(sum(f.stat().st_size for f in files) / 1e6, 1),
                 "peak_memory_MB": peak_memory() // 2**20}


def compared(sent, got):
    "How what arrived differs from what was sent, and how much of what is hard was in it"
    wrong, reals = differences(sent, got), got.select_dtypes("float32")
    # the photometry of an object is one: the server has it once, as SDSS does, so the first row's is that of all
    best, expected = keep_best(got), keep_best(sent)
    return {"wrong_values": sum(wrong.values()), "values": int(got.size),
            "wrong_by_column": {k: v for k, v in wrong.items() if v},
            "ids_beyond_int64": int((got["specObjID"] >= 2**63).sum()),
            "nulls": int(got.isna().sum().sum()), "missing_codes": int((reals == -9999).sum().sum()),
            "tiny_or_huge": int(((reals.abs() < 1e-4) | (reals.abs() > 1e7)).sum().sum()),
            "objects": int(got["objID"].nunique()), "duplicates_dropped": len(got) - len(best),
            "same_rows_kept": bool((best == expected).all())}


def main(args):
    n = 3_000 if args.small else args.rows
    if args.small: download.PART_ROWS = 1_000
    catalog = hard_catalog(n, np.random.default_rng(args.seed))
    with tempfile.TemporaryDirectory() as folder: got, took = fetch(Path(folder), catalog)
    sent = catalog.sort_values("specObjID", ignore_index=True)[got.columns]
    result = {"rows": n, "columns": len(got.columns), "rows_got": len(got), **took, **compared(sent, got),
              "note": "server and client in one process, on a shared machine with 4 cores",
              "cpus": os.cpu_count(), "seed": args.seed}
    write_results(args.out, result, "a catalog through the local server and back", "mock")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    parser = option_parser(__doc__, out="catalog_roundtrip.json", small="3,000 rows", seed=0)
    parser.add_argument("--rows", type=int, default=142_000)
    main(parser.parse_args())
