"""Training images streamed from a packed file, beside the loader in memory and fastai's DataBlock.

    python benchmarks/streaming.py [--small] [--repeats 3] [--work runs/streaming] [--out results/streaming.json]

Images a second of one core (seconds that it works, all threads counted, one thread within torch): whole epochs of
shuffled batches, cropped and normalized, with and without shifts and turns. Peak memory of a process that streams an
epoch of galaxies whose pixels would take 0.8 and 6.4 GB: mock galaxies, repeated under other names.
"""
import os
import shutil
import time
from functools import partial
from pathlib import Path

import numpy as np
from harness import fresh_python, interleaved, machine, option_parser, peak_memory, ratio, times, write_results

from galaxy_cnn.survey import pack, read_survey, write_survey

SEED, DISTINCT, BS = 61, 512, 128


def repeated_sky(folder, n):
    "Packed Survey of n galaxies, whose pictures are those of a few"
    from galaxy_cnn.mock_images import make_mock
    if (folder / "packed.parquet").is_file(): return read_survey(folder)
    few = make_mock(folder.parent / "few", n=DISTINCT, seed=SEED)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "images").mkdir(parents=True)
    catalog = few.catalog.iloc[np.arange(n) % DISTINCT].reset_index(drop=True)
    catalog["objID"] = catalog["objID"].to_numpy() + np.arange(n) // DISTINCT * 10**12
    for i, name in enumerate(catalog["objID"]): os.link(few.image_files[i % DISTINCT], folder / f"images/{name}.jpg")
    survey = write_survey(folder, catalog, few.info)
    pack(folder)
    return survey


def halves(survey): return np.where(np.arange(len(survey)) < len(survey) - 128, "train", "valid")


def pace(loader):
    "Images a second of a core, over an epoch"
    n = 0
    def epoch():
        nonlocal n
        n = sum(len(x) for x, _ in loader)
    (seconds,) = times(epoch, clock=time.process_time)
    return n / seconds


def loaders(survey, n_stock):
    "The loaders that are compared, each over the same galaxies, fastai's over a part of them"
    from galaxy_cnn.loaders import in_memory_dls, load_cutouts, make_dls, streaming_dls
    split, pixels = halves(survey), load_cutouts(survey)[0]
    part = survey.select(np.arange(len(survey)) < n_stock)
    stock = make_dls(part, halves(part), bs=BS, device="cpu")
    found = {"fastai DataBlock": stock.train}
    for augment, how in ((False, "center"), (True, "shifts and turns")):
        options = dict(bs=BS, stats=stock.stats, augment=augment)
        found[f"in memory, {how}"] = in_memory_dls(survey, split, pixels, **options).train
        found[f"streamed, {how}"] = streaming_dls(survey, split, **options).train
    return found


def memory_of_an_epoch(folder):
    "Print the peak memory [bytes] of this process before and after it streams an epoch"
    import torch

    from galaxy_cnn.loaders import streaming_dls
    torch.set_num_threads(1)
    survey = read_survey(Path(folder))
    train = streaming_dls(survey, halves(survey), bs=BS, stats=([0.1] * 3, [0.1] * 3)).train
    before = peak_memory()
    print(before, peak_memory() if sum(len(x) for x, _ in train) else 0)


def memory(folder, n):
    "Peak memory of a process that streams n galaxies"
    survey = repeated_sky(folder, n)
    before, after = fresh_python(
        "-c", f"from streaming import memory_of_an_epoch; memory_of_an_epoch({str(folder)!r})"
    ).split()
    return {
        "galaxies": n,
        "pixels_MB": 3 * survey.size**2 * n / 1e6,
        "packed_MB": (folder / "packed.parquet").stat().st_size / 1e6,
        "before_MB": int(before) / 1e6,
        "peak_MB": int(after) / 1e6,
    }


def main(args):
    import torch
    torch.set_num_threads(1)
    sizes = (1500, 3000) if args.small else (16_384, 131_072)
    survey = repeated_sky(args.work / f"sky-{sizes[0]}", sizes[0])
    contenders = loaders(survey, 512 if args.small else 1024)
    found = interleaved({name: partial(pace, loader) for name, loader in contenders.items()}, args.repeats)
    rates = {name: v["images_per_second"] for name, v in found.items()}
    ratios = {
        f"{name} over fastai DataBlock": ratio(rate, rates["fastai DataBlock"])
        for name, rate in rates.items()
        if "DataBlock" not in name
    }
    results = {"machine": machine(), "batch": BS, "images_per_core_second": rates, "ratios": ratios,
               "memory": [memory(args.work / f"sky-{n}", n) for n in sizes]}
    write_results(
        args.out, results, "images a second of a core that a training loader gives, and its memory", "mock", sizes[0]
    )
    for name, v in ratios.items(): print(f"{name}: {v['value']:.1f} ({v['lo']:.1f}, {v['hi']:.1f})")
    for row in results["memory"]: print(row)


if __name__ == "__main__":
    parser = option_parser(
        __doc__, out="streaming.json", work="runs/streaming", small="a few minutes less, and no figure to quote"
    )
    parser.add_argument("--repeats", type=int, default=3)
    main(parser.parse_args())
