"""Random byte corruptions and truncations of a finished Survey: does `verify` find each, and `--repair` heal it?

    python benchmarks/corrupt_survey.py [--small] [--number 500] [--out results/corrupt_survey.json]

Rounds of five corruptions each, over cutouts, catalog.parquet, its parts, downloads.sqlite, survey.json and SHA256SUMS;
the Survey is restored between rounds. Repair should need exactly as many requests as there are bad cutouts. Where a
round hits both the record and SHA256SUMS, some whole cutouts are left without any proof: they are found 'unproven', and
asked for again.
"""
import json
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from harness import option_parser, write_results
from skies import make_sky, same_images, served, since

from galaxy_cnn import download
from galaxy_cnn.files import InputError
from galaxy_cnn.verify import Verification, verify

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
    files = {"cutout": sorted((out / "images").glob("*.jpg")), "part": sorted((out / "catalog_parts").glob("*")),
             "catalog": [out / "catalog.parquet"], "record": [out / "downloads.sqlite"],
             "survey.json": [out / "survey.json"], "sums": [out / "SHA256SUMS"]}
    kinds, chosen = {file: what for what, group in files.items() for file in group}, []
    for what in rng.choice(list(WHERE), A_ROUND, p=list(WHERE.values())):
        left = [f for f in files[what] if f not in chosen]
        if not left: left = [f for f in files["cutout"] if f not in chosen]
        chosen.append(left[int(rng.integers(len(left)))])
    return [(kinds[file], file) for file in chosen]


def name_of(what, file):
    "Name under which `verify` reports a file"
    return {"cutout": file.stem, "part": f"catalog_parts/{file.name}"}.get(what, file.name)


def repaired(out, url):
    "What `verify --repair` says"
    try: return verify(out, repair=True, base_url=url, progress=False)
    except InputError as e: return Verification({}, [], messages=[f"refused: {str(e).replace(str(out), '')}"])


def one_round(out, sky, url, log, rng):
    "Corrupt, verify, repair, verify: one line of the result"
    chosen = targets(out, rng)
    corrupted = Counter(f"{what}: {corrupt(file, rng)}" for what, file in chosen)
    findings = verify(out, progress=False).findings
    found = {(f.what, f.name) for f in findings}
    unproven = {(f.what, f.name) for f in findings if f.state == "unproven"}
    damaged = {(what, name_of(what, file)) for what, file in chosen}
    position = log.stat().st_size
    healed = repaired(out, url)
    cutouts, queries = since(log, position, sky)
    images, parts = (sum(what == w for what, _ in chosen) for w in ("cutout", "part"))
    return {"corrupted": corrupted, "missed": sorted(map(str, damaged - found)), "images": images,
            "parts": parts, "cutouts_requested": len(cutouts), "queries": queries,
            "healed": healed.ok and bool(healed.checked), "identical": same_images(out, sky),
            "messages": healed.messages, "left_without_proof": len(unproven - damaged),
            "false_alarms": sorted(map(str, found - damaged - unproven))}


def unhealable(folder, sky, url):
    "What repair says of things that no server can give back"
    own, bare, said = folder / "own", folder / "bare", {}
    def ask(what):
        try: verify(own, repair=True, base_url=url, progress=False)
        except InputError as e: said[what] = str(e).replace(str(folder), "")
    download.download(own, base_url=url, catalog=sky.catalog.head(20), progress=False)
    part = own / "catalog_parts" / "00000.parquet"
    part.write_bytes(part.read_bytes()[:-50])
    ask("part of a catalog of one's own")
    for name in ("downloads.sqlite", "survey.json"): (own / name).unlink()
    ask("record and survey.json lost")
    download.download(bare, base_url=url, n=20, cuts="none", progress=False)
    for name in ("downloads.sqlite", "SHA256SUMS"): (bare / name).unlink()
    said["record and SHA256SUMS lost"] = verify(bare, repair=True, base_url=url, progress=False).messages
    return said


def in_all(rounds):
    "Sums over the rounds"
    def total(value): return sum(value(r) for r in rounds)
    return {
        "corruptions": total(lambda r: r["corrupted"].total()), "missed": total(lambda r: len(r["missed"])),
        "rounds": len(rounds), "rounds_healed": total(lambda r: r["healed"]),
        "rounds_refused": total(lambda r: str(r["messages"]).startswith("['refused")),
        "rounds_with_identical_images": total(lambda r: r["identical"]),
        "images_corrupted": total(lambda r: r["images"]),
        "cutouts_requested": total(lambda r: r["cutouts_requested"]),
        "images_left_without_proof": total(lambda r: r["left_without_proof"]),
        "false_alarms": total(lambda r: len(r["false_alarms"])),
        "rounds_with_exactly_the_bad_images_requested": total(lambda r: r["cutouts_requested"] == r["images"]),
        "rounds_with_exactly_the_bad_and_unproven_requested":
            total(lambda r: r["cutouts_requested"] == r["images"] + r["left_without_proof"]),
        "parts_corrupted": total(lambda r: r["parts"]), "queries": total(lambda r: r["queries"]),
    }


def main(args):
    number, n = (60, 40) if args.small else (args.number, 300)
    rng, rounds = np.random.default_rng(args.seed), []
    download.PART_ROWS = -(-n // 3)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        sky, out, log = make_sky(folder / "sky", n, seed=args.seed), folder / "survey", folder / "log"
        with served(sky.path, log=log) as url:
            download.download(folder / "whole", base_url=url, cuts="none", progress=False)
            for _ in range(number // A_ROUND):
                shutil.copytree(folder / "whole", out)
                rounds.append(one_round(out, sky, url, log, rng))
                shutil.rmtree(out)
            said = unhealable(folder, sky, url)
    corrupted, total = sum((r["corrupted"] for r in rounds), Counter()), in_all(rounds)
    result = {"galaxies": n, "seed": args.seed, "total": total, "corrupted": dict(sorted(corrupted.items())),
              "cannot_heal": said, "rounds": rounds}
    write_results(args.out, result, "corruptions of a Survey, found and healed", "mock")
    print(json.dumps({**total, "cannot_heal": said}, indent=1))


if __name__ == "__main__":
    small = "60 corruptions of 40 galaxies"
    parser = option_parser(__doc__, out="corrupt_survey.json", small=small, seed=0)
    parser.add_argument("--number", type=int, default=500)
    main(parser.parse_args())
