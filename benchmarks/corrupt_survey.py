"""Random byte corruptions and truncations of a finished Survey: does `verify` find each, and does `--repair` heal with exactly as many requests?

    python benchmarks/corrupt_survey.py [--small] [--number 500] [--out results/corrupt_survey.json]

Rounds of five corruptions each, over cutouts, catalog.parquet, its parts, downloads.sqlite, survey.json and SHA256SUMS; the Survey is restored between rounds.
Where a round hits both the record and SHA256SUMS, some whole cutouts are left without any proof: they are found 'unproven', and asked for again.
"""
import argparse
import json
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from skies import make_sky, served, since

A_ROUND = 5
WHERE = {"cutout": 0.6, "catalog": 0.1, "part": 0.1, "record": 0.1, "survey.json": 0.05, "sums": 0.05}


def corrupt(file, rng):
    "Change one byte of a file or cut it short; what was done"
    body = bytearray(file.read_bytes())
    position = int(rng.integers(len(body)))
    if rng.random() < 0.5:
        body[position] ^= int(rng.integers(1, 256))
        done = "byte"
    else:
        del body[position:]
        done = "truncation"
    file.write_bytes(body)
    return done


def targets(out, rng):
    "Different files to corrupt in one round: [(what, file)]"
    files = {"cutout": sorted((out / "images").glob("*.jpg")), "part": sorted((out / "catalog_parts").glob("*")), "catalog": [out / "catalog.parquet"],
             "record": [out / "downloads.sqlite"], "survey.json": [out / "survey.json"], "sums": [out / "SHA256SUMS"]}
    chosen = []
    for what in rng.choice(list(WHERE), A_ROUND, p=list(WHERE.values())):
        left = [f for f in files[what] if f not in [c[1] for c in chosen]] or [f for f in files["cutout"] if f not in [c[1] for c in chosen]]
        file = left[int(rng.integers(len(left)))]
        chosen.append((next(w for w, fs in files.items() if file in fs), file))
    return chosen


def name_of(what, file): return file.stem if what == "cutout" else f"catalog_parts/{file.name}" if what == "part" else file.name


def one_round(out, sky, url, log, rng):
    "Corrupt, verify, repair, verify: one line of the result"
    from galaxy_cnn.files import InputError
    from galaxy_cnn.verify import Verification, verify
    chosen = targets(out, rng)
    kinds = [corrupt(file, rng) for _, file in chosen]
    findings = verify(out, progress=False).findings
    found, unproven = {(f.what, f.name) for f in findings}, {(f.what, f.name) for f in findings if f.state == "unproven"}
    damaged = {(what, name_of(what, file)) for what, file in chosen}
    position = log.stat().st_size
    try: healed = verify(out, repair=True, base_url=url, progress=False)
    except InputError as e: healed = Verification({}, [], messages=[f"refused: {str(e).replace(str(out), '')}"])
    cutouts, queries = since(log, position, sky)
    images, parts = (sum(what == w for what, _ in chosen) for w in ("cutout", "part"))
    same = all((out / "images" / f"{i}.jpg").read_bytes() == sky.image_path(i).read_bytes() for i in sky.catalog["objID"])
    return {"corrupted": Counter(f"{what}: {kind}" for (what, _), kind in zip(chosen, kinds)), "missed": sorted(map(str, damaged - found)),
            "images": images, "parts": parts, "cutouts_requested": len(cutouts), "queries": queries, "healed": healed.ok and bool(healed.checked), "identical": same, "messages": healed.messages,
            "left_without_proof": len(unproven - damaged), "false_alarms": sorted(map(str, found - damaged - unproven))}


def unhealable(folder, sky, url):
    "What repair says of things that no server can give back"
    from galaxy_cnn.download import download
    from galaxy_cnn.files import InputError
    from galaxy_cnn.verify import verify
    own, said = folder / "own", {}
    download(own, base_url=url, catalog=sky.catalog.head(20), progress=False)
    part = own / "catalog_parts" / "00000.parquet"
    part.write_bytes(part.read_bytes()[:-50])
    try: verify(own, repair=True, base_url=url, progress=False)
    except InputError as e: said["part of a catalog of one's own"] = str(e).replace(str(folder), "")
    for name in ("downloads.sqlite", "survey.json"): (own / name).unlink()
    try: verify(own, repair=True, base_url=url, progress=False)
    except InputError as e: said["record and survey.json lost"] = str(e).replace(str(folder), "")
    bare = folder / "bare"
    download(bare, base_url=url, n=20, cuts="none", progress=False)
    for name in ("downloads.sqlite", "SHA256SUMS"): (bare / name).unlink()
    said["record and SHA256SUMS lost"] = verify(bare, repair=True, base_url=url, progress=False).messages
    return said


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="60 corruptions of 40 galaxies")
    parser.add_argument("--number", type=int, default=500)
    parser.add_argument("--out", default="results/corrupt_survey.json")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    number, n = (60, 40) if arguments.small else (arguments.number, 300)
    rng, rounds = np.random.default_rng(arguments.seed), []
    from galaxy_cnn import download
    download.PART_ROWS = -(-n // 3)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        sky, out = make_sky(folder / "sky", n, seed=arguments.seed), folder / "survey"
        with served(sky.path, log=folder / "log") as url:
            download.download(folder / "whole", base_url=url, cuts="none", progress=False)
            for _ in range(number // A_ROUND):
                shutil.copytree(folder / "whole", out)
                rounds.append(one_round(out, sky, url, folder / "log", rng))
                shutil.rmtree(out)
            said = unhealable(folder, sky, url)
    corrupted = sum((r["corrupted"] for r in rounds), Counter())
    total = {"corruptions": sum(corrupted.values()), "missed": sum(len(r["missed"]) for r in rounds), "rounds": len(rounds),
             "rounds_healed": sum(r["healed"] for r in rounds),
             "rounds_refused": sum(str(r["messages"]).startswith("['refused") for r in rounds), "rounds_with_identical_images": sum(r["identical"] for r in rounds),
             "images_corrupted": sum(r["images"] for r in rounds), "cutouts_requested": sum(r["cutouts_requested"] for r in rounds),
             "images_left_without_proof": sum(r["left_without_proof"] for r in rounds), "false_alarms": sum(len(r["false_alarms"]) for r in rounds),
             "rounds_with_exactly_the_bad_images_requested": sum(r["cutouts_requested"] == r["images"] for r in rounds),
             "rounds_with_exactly_the_bad_and_unproven_requested": sum(r["cutouts_requested"] == r["images"] + r["left_without_proof"] for r in rounds),
             "parts_corrupted": sum(r["parts"] for r in rounds), "queries": sum(r["queries"] for r in rounds)}
    result = {"galaxies": n, "seed": arguments.seed, "total": total, "corrupted": dict(sorted(corrupted.items())), "cannot_heal": said, "rounds": rounds}
    Path(arguments.out).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({**total, "cannot_heal": said}, indent=1))


if __name__ == "__main__": main()
