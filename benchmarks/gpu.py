"""How fast is it on a GPU, and what of the hardware's pace is that? Decoding, loading, the training step, the full fit, prediction, and what a user would run instead, in one call.

    python benchmarks/gpu.py [--galaxies 6000] [--minutes 9] [--sections fit cold ...] [--out results/gpu.json]
    python benchmarks/gpu.py --small --out /tmp/gpu.json          the same code at toy size on whatever device there is

Runs from the source tree. Draws a mock sky; 104,000 images to train on and 26,112 each to validate and to predict for are its training, validation and test galaxies over and over, under new ids
(hard links), so that every RMSE is one of distinct galaxies that no network has trained on. xresnet with Mish, without self-attention. Medians, with least and most; RMSE with its bootstrap interval.
Each section has its time and is left out, saying so, where it no longer fits; what it found before an error or the end of its time is kept. The file is written after each section.
"""
import argparse
import gc
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"  # before anything imports it
import numpy as np
import torch
from fastai.callback.core import Callback, CancelFitException, CancelValidException
from fastai.callback.progress import ProgressCallback
from fastai.learner import Learner
from fastai.optimizer import ranger as fastai_ranger
from PIL import Image
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from galaxy_cnn.files import versions, write_json
from galaxy_cnn.learner import (
    TUTORIAL, EpochHistory, EpochSeed, choose_device, choose_precision, make_learner, seed_all, target_scale,
)
from galaxy_cnn.loaders import in_memory_dls, load_cutouts, make_dls
from galaxy_cnn.metrics import bootstrap, rmse
from galaxy_cnn.models import FaithfulLoss, create_model, forward, network_input
from galaxy_cnn.predict import predict
from galaxy_cnn.run import read_run
from galaxy_cnn.splits import assign_split
from galaxy_cnn.survey import pack, read_survey, write_survey
from galaxy_cnn.train import fit_error_model, train
from galaxy_cnn.uncertainty import CALIBRATION_FILE, DETECTOR_FILE

TARGETS = ("metallicity",)
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
DRAW = "import sys; from galaxy_cnn.mock_images import make_mock; make_mock(sys.argv[1], n=int(sys.argv[2]), seed=3, workers=int(sys.argv[3]))"
STAGES = ("_load_labelled", "make_plan", "_prepare_run_folder", "make_network", "_fit_network", "_write_card", "read_run")  # functions of `galaxy_cnn.train` that a cold training is timed by
COLD = """
import time; start = time.perf_counter()
import json, resource, sys, torch
from galaxy_cnn import train as module
spent, (survey, out, arch, bs, size, epochs, device, stages) = {"import": time.perf_counter() - start}, sys.argv[1:]
def timed(name, function):
    def call(*args, **kwargs):
        begin = time.perf_counter()
        try: return function(*args, **kwargs)
        finally: spent[name] = spent.get(name, 0.0) + time.perf_counter() - begin
    return call
for name in stages.split(","): setattr(module, name, timed(name, getattr(module, name)))
timed("train", module.train)(survey, out, arch=arch, bs=int(bs), size=int(size), epochs=int(epochs), device=device, calibrate=False, quiet=True)
peak = torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else None
print(json.dumps({"seconds": spent, "bytes_on_gpu": peak, "bytes_in_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
"""


@dataclass(frozen=True)
class Sizes:
    "How large everything is"
    galaxies: int = 6000  # distinct ones
    train: int = 104_000
    valid: int = 26_112  # whole batches of 512
    held: int = 26_112  # to predict for
    archs: tuple = ("xresnet18", "xresnet34")
    px: int = 112
    epochs: int = 7
    bs: tuple = (128, 512)
    same_bs: int = 32  # of the fit on the distinct galaxies, so that it has some 800 steps
    steps: int = 30  # in a block that is timed
    repeats: int = 5
    copy: int = 2**31  # [bytes]
    matmul: int = 8192
    workers: tuple = (12, 8, 4, 0)  # of the stock loaders
    window: float = 3.0  # [s] over which a stock loader is timed
    drawers: int | None = None  # processes that draw; None: one for each core
    patience: float = 1.0  # times the sections' seconds
    compiled: tuple = (("default", {}), ("cuda graphs", {"mode": "reduce-overhead"}))  # arguments of `model.compile`


SMALL = Sizes(galaxies=150, train=96, valid=32, held=48, archs=("xresnet_tiny",), px=64, epochs=2, bs=(16, 32), same_bs=16, steps=2, repeats=2, copy=2**22, matmul=128, workers=(1, 0),
              window=0.1, drawers=1, patience=20, compiled=(("no kernels", {"backend": "eager"}),))


@dataclass
class Bench:
    "What the sections share"
    sizes: Sizes
    device: str
    precision: str
    work: Path  # a folder that is deleted afterwards
    end: float  # on the clock of `time.perf_counter`
    stop: float = 0.0  # end of the section under way
    found: dict = field(default_factory=dict)  # sections by name
    made: dict = field(default_factory=dict)  # surveys, pixels, Runs

    @property
    def cuda(self): return self.device == "cuda"

    def wait(self):
        "Until the device has done all that it was told to"
        if self.cuda: torch.cuda.synchronize()

    def clock(self):
        self.wait()
        return time.perf_counter()

    def seconds(self, work, repeats=None, warm=0):
        "Times of a function [s]"
        times = []
        for i in range(warm + (repeats or self.sizes.repeats)):
            start = self.clock()
            work()
            times.append(self.clock() - start)
        return times[warm:]


def spread(values, unit, scale=1.0):
    "Median, least and most"
    values = [scale * v for v in values]
    return {"value": statistics.median(values), "lo": min(values), "hi": max(values), "n": len(values), "unit": unit}


def rates(amount, times, unit="images/s"): return spread([amount / t for t in times], unit)


def ratio(one, other): return {"value": one["value"] / other["value"], "unit": "times"}


def leaf(value, unit): return {"value": value, "unit": unit}


def memory(n): return leaf(n / 2**30, "GiB")


# What the machine is, and what it can do


def machine(bench):
    "Names and versions"
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), None) if Path("/proc/cpuinfo").exists() else None
    about = {"device": bench.device, "cpu": model, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "precision": bench.precision, "versions": versions(), "cuda": torch.version.cuda}
    if not bench.cuda: return about
    gpu = torch.cuda.get_device_properties(0)
    return {**about, "name": gpu.name, "bytes": gpu.total_memory, "multiprocessors": gpu.multi_processor_count, "cudnn": torch.backends.cudnn.version(), "cudnn_benchmark": torch.backends.cudnn.benchmark}


def ceilings(bench, out):
    "The pace of copying (bytes read and written) and of a matrix product in bfloat16"
    source = torch.randint(256, (bench.sizes.copy,), dtype=torch.uint8, device=bench.device)
    target, repeats = torch.empty_like(source), 4 * bench.sizes.repeats
    out["copy"] = rates(2e-9 * bench.sizes.copy, bench.seconds(lambda: target.copy_(source), repeats, warm=repeats), "GB/s")
    n = bench.sizes.matmul
    a, b = torch.randn(2, n, n, device=bench.device).bfloat16()
    out["matmul"] = rates(2e-12 * n**3, bench.seconds(lambda: a @ b, repeats, warm=repeats), "TFLOP/s")


def share_of_peak(bench, images_per_second, arch):
    "Share of the matrix product's pace, from the operations of forward and backward pass"
    work = {k: v * bench.made["flops", arch] * 1e-12 for k, v in images_per_second.items() if k in ("value", "lo", "hi")}
    return {k: v / bench.found["ceilings"]["matmul"]["value"] for k, v in work.items()} | {"unit": "of the matrix product's pace"}


def count_flops(arch, px):
    "Operations (2 for a multiplication and addition) of forward and backward pass, an image"
    model = create_model(arch, 1, sigma=True)
    with FlopCounterMode(display=False) as counter: model(torch.randn(2, 3, px, px)).sum().backward()
    return counter.get_total_flops() / 2


# The sky


def repeated(bench, name, rows):
    "A packed Survey of rows of the mock sky's catalog, the same galaxies over and over, under new ids"
    sky, folder = bench.made["sky"], bench.work / name
    catalog = sky.catalog.iloc[rows].reset_index(drop=True).assign(objID=np.arange(1, len(rows) + 1))
    (folder / "images").mkdir(parents=True)
    for source, i in zip(np.array(sky.image_files, object)[rows], catalog["objID"]): linked(source, folder / "images" / f"{i}.jpg")
    write_survey(folder, catalog, {**sky.info, "n": len(rows), "note": f"{len(np.unique(rows))} galaxies, repeated"})
    pack(folder)
    return read_survey(folder)


def linked(source, target):
    "A second name for a file, or a copy where there can be none"
    try: os.link(source, target)
    except OSError: Path(target).write_bytes(Path(source).read_bytes())


def sky(bench, out):
    "Draw the galaxies, and repeat those of each split"
    s, path, start = bench.sizes, bench.work / "sky", time.perf_counter()
    child(bench, DRAW, path, s.galaxies, s.drawers or os.cpu_count())
    drawn, bench.made["sky"] = time.perf_counter() - start, read_survey(path)
    out["drawing"] = rates(s.galaxies, [drawn], "galaxies/s")
    split = assign_split(bench.made["sky"].catalog)
    rows = {name: np.flatnonzero(split == name) for name in ("train", "valid", "test")}
    out["distinct galaxies"] = {name: leaf(len(r), "galaxies") for name, r in rows.items()}
    start = time.perf_counter()
    bench.made["survey"] = repeated(bench, "survey", np.concatenate([np.resize(rows["train"], s.train), np.resize(rows["valid"], s.valid)]))
    bench.made["held"] = repeated(bench, "held", np.resize(rows["test"], s.held))
    out["linking and packing"] = rates(s.train + s.valid + s.held, [time.perf_counter() - start])
    out["packed"] = leaf((bench.work / "survey" / "packed.parquet").stat().st_size / 2**20, "MiB")
    bench.made["test"] = min(len(rows["test"]), s.held)  # the first so many of `held` are distinct
    if (assign_split(bench.made["survey"].catalog) == "train").sum() != s.train: raise RuntimeError("A galaxy changed its split when it was repeated.")


def pixels_of(bench, name):
    "The decoded cutouts of a Survey, decoded once: on the device those to train on, in memory those to predict for"
    if (name, "pixels") not in bench.made: bench.made[name, "pixels"] = load_cutouts(bench.made[name], "cpu" if name == "held" else bench.device)[0]
    return bench.made[name, "pixels"]


def held_images(bench): return pixels_of(bench, "held").movedim(1, 3).contiguous().numpy()


def score(bench, pred, first=None):
    "RMSE of what is predicted for the distinct test galaxies, which come first"
    n = min(bench.made["test"], first or bench.made["test"])
    return {**bootstrap(rmse, bench.made["held"].target(TARGETS[0])[:n], np.asarray(pred, float)[:n]), "unit": "dex"}


def score_of(bench, model, stats):
    "`score` of a network, of one view of each galaxy"
    images = pixels_of(bench, "held")[:bench.made["test"]].movedim(1, 3).contiguous().numpy()
    parts = [network_input(images[i:i + 256], bench.sizes.px, stats, bench.device) for i in range(0, len(images), 256)]
    return score(bench, torch.cat([forward(model.eval(), x, False, bench.precision)[:, 0].cpu() for x in parts]))


# Decoding and loading


def decode(bench, out):
    "From the packed file to one uint8 tensor"
    held = bench.made["held"]
    part = held.select(np.arange(len(held)) < 8192)
    for n in sorted({1, 2, 4, os.cpu_count()}): out[f"threads: {n}"] = rates(len(part), bench.seconds(lambda: load_cutouts(part, workers=n), 3))
    (seconds,) = bench.seconds(lambda: pixels_of(bench, "survey"), 1)
    out["onto the device"] = rates(len(bench.made["survey"]), [seconds])
    out["tensor"] = memory(pixels_of(bench, "survey").nbytes)


def learner_of(bench, name, arch, bs, cbs=()):
    "A Learner over a resident Survey, as `train` makes it"
    survey, split = bench.made[name], assign_split(bench.made[name].catalog)
    seed_all(0, 0, -1)
    dls = in_memory_dls(survey, split, pixels_of(bench, name), TARGETS, bs, bench.sizes.px, bench.made.get((name, "stats")), device=torch.device(bench.device))
    bench.made[name, "stats"] = dls.stats
    return make_learner(dls, network(survey, split, arch), replace(TUTORIAL, bs=bs), bench.precision, cbs)


def network(survey, split, arch): return create_model(arch, len(TARGETS), False, *target_scale(survey, split, TARGETS), sigma=True)


def loader(bench, out):
    "Batches alone: from the resident tensor to normalised images; the first epoch is not counted"
    for bs in bench.sizes.bs:
        dls = learner_of(bench, "survey", bench.sizes.archs[0], bs).dls
        found = rates(len(dls.train) * bs, bench.seconds(lambda: [None for _ in dls.train], 3, warm=1))
        floor = bench.sizes.px**2 * 3 * (1 + 4) / (1e9 * bench.found["ceilings"]["copy"]["value"])  # s: read a byte, write a float32
        out[f"bs {bs}"] = {"resident": found, "share of the copy's pace": leaf(found["value"] * floor, "of the copy's pace")}


# The step


def passes(bench, arch, bs):
    "Functions that do the forward pass, also the backward pass, and the whole step, on one batch"
    learn = learner_of(bench, "survey", arch, bs)
    learn.create_opt()
    learn.opt.set_hyper("lr", 1e-4)
    x, y = (t.clone() for t in learn.dls.train.one_batch())
    model, x = learn.model.to(memory_format=torch.channels_last).train(), x.contiguous(memory_format=torch.channels_last)
    def ahead():
        with autocast(bench): pred = model(x)
        return learn.loss_func(pred, y)
    def back():
        ahead().backward()
        learn.opt.zero_grad()
    def step():
        ahead().backward()
        learn.opt.step()
        learn.opt.zero_grad()
    return {"forward": ahead, "forward, backward": back, "step": step}


def autocast(bench): return torch.autocast(bench.device, torch.bfloat16, enabled=bench.precision == "bf16")


def blocks(bench, work):
    "Times [s] of blocks of steps, and how much of each had passed when the last step was launched"
    times, launched = [], []
    for _ in range(bench.sizes.repeats + 1):
        start = bench.clock()
        for _ in range(bench.sizes.steps): work()
        launched.append(time.perf_counter() - start)
        times.append(bench.clock() - start)
    return times[1:], [a / b for a, b in zip(launched, times)][1:]


def step(bench, out):
    "Forward pass, backward pass and optimiser on one batch over and over: nothing but the network"
    for arch in bench.sizes.archs:
        for bs in bench.sizes.bs:
            found = out[f"{arch}, bs {bs}"] = {}
            for name, work in passes(bench, arch, bs).items():
                times, launched = blocks(bench, work)
                found[name] = rates(bs * bench.sizes.steps, times)
            found["share of peak"] = share_of_peak(bench, found["step"], arch)
            found["launching"] = spread(launched, "of the time: near 1 the launches are the limit")


def launches(bench, out):
    "Kernels of a step, and the time that the device is busy with them (on a CPU: operations, and their time)"
    for arch in bench.sizes.archs:
        for bs in bench.sizes.bs:
            work = passes(bench, arch, bs)["step"]
            for _ in range(3): work()
            bench.wait()
            with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * bench.cuda]) as prof:
                for _ in range(3): work()
                bench.wait()
            kind = torch.autograd.DeviceType.CUDA if bench.cuda else torch.autograd.DeviceType.CPU
            events = [e for e in prof.key_averages() if e.device_type == kind and not getattr(e, "is_user_annotation", False)]
            busy = sum(e.self_device_time_total if bench.cuda else e.self_cpu_time_total for e in events)
            out[f"{arch}, bs {bs}"] = {"kernels": leaf(sum(e.count for e in events) / 3, "a step"), "busy": leaf(busy / 3000, "ms a step")}


class Training(Callback):
    "Which of the warnings caught come from the training batches"
    order = 50  # before `EpochHistory` reads the loss of the epoch
    def __init__(self, caught): self.caught = caught
    def before_train(self): self.first = len(self.caught)
    def after_train(self): self.last = len(self.caught)


def synchronisations(bench, out):
    "How often an epoch waits for the device (CUDA's own count, by where it happens)"
    learn = learner_of(bench, "sky", bench.sizes.archs[0], bench.sizes.same_bs, [EpochSeed(0), EpochHistory([], TARGETS)])
    learn.fit(1)
    n = len(learn.dls.train)
    out["training batches"] = leaf(n, "batches")
    if not bench.cuda:
        out["note"] = "No GPU: there is nothing to wait for."
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        learn.add_cb(training := Training(caught))
        torch.cuda.set_sync_debug_mode("warn")
        try: learn.fit(1)
        finally: torch.cuda.set_sync_debug_mode("default")
    def places(some): return dict(Counter(f"{Path(w.filename).name}:{w.lineno}" for w in some if "synchroniz" in str(w.message)).most_common(12))
    within, outside = places(caught[training.first:training.last]), places(caught[:training.first] + caught[training.last:])
    out["in training"] = {**leaf(sum(within.values()) / n, "a batch"), "where": within}
    out["between and in validation"] = {**leaf(sum(outside.values()), "an epoch"), "where": outside}


# The fit


class InTime(Callback):
    "The times of the epochs and of their training; end the fit after an epoch when the next one would end too late"
    order = 95
    def __init__(self, bench): self.bench, self.epochs, self.training = bench, [], []
    def before_epoch(self): self.start = self.bench.clock()
    def after_train(self): self.training.append(self.bench.clock() - self.start)

    def after_epoch(self):
        self.epochs.append(self.bench.clock() - self.start)
        if time.perf_counter() + 1.1 * self.epochs[-1] > self.bench.stop - 3: raise CancelFitException


class Window(Callback):
    "Train for a while, count the images of another while, and end"
    order = 100
    def __init__(self, bench, seconds): self.bench, self.window = bench, seconds
    def before_fit(self): self.begin, self.start, self.n = time.perf_counter(), None, 0
    def before_validate(self): raise CancelValidException

    def after_batch(self):
        if self.start is None:
            if time.perf_counter() - self.begin > self.window / 2: self.start = self.bench.clock()
            return
        self.n += len(self.xb[0])
        if time.perf_counter() - self.start < self.window: return
        self.pace = self.n / (self.bench.clock() - self.start)
        raise CancelFitException


def fit(bench, name, arch, bs, epochs, change=lambda learn: None):
    "Train a network on a resident Survey, in a process that has trained before, and score it"
    learner_of(bench, name, arch, bs).fit(1000, cbs=Window(bench, bench.sizes.window / 4))
    learn = learner_of(bench, name, arch, bs, [EpochSeed(0), EpochHistory([], TARGETS), clock := InTime(bench)])
    change(learn)
    (seconds,) = bench.seconds(lambda: learn.fit_one_cycle(epochs, TUTORIAL.lr), 1)
    learn.model._compiled_call_impl = None
    pace = rates(len(learn.dls.train) * bs, clock.training)
    return {**summary(clock, seconds, epochs), "training": pace, "share of peak": share_of_peak(bench, pace, arch), "rmse": score_of(bench, learn.model, learn.dls.stats)}


def summary(clock, seconds, epochs):
    "What the clock of a fit says"
    done = len(clock.epochs)
    found = {"epochs": leaf(done, "epochs"), "fit": leaf(seconds, "s"), "fit without validation": leaf(sum(clock.training), "s"), "first epoch": leaf(clock.epochs[0], "s"), "epoch": spread(clock.epochs, "s")}
    return found if done == epochs else {**found, "fit, extrapolated": leaf(seconds + (epochs - done) * found["epoch"]["value"], "s: the time was up before the last epoch")}


def fits(bench, out):
    "The full fit, warm: Learner, callbacks, validation after each epoch; nothing written"
    for bs in bench.sizes.bs:
        for arch in bench.sizes.archs: out[f"{arch}, bs {bs}"] = fit(bench, "survey", arch, bs, bench.sizes.epochs)


def cold(bench, out):
    "`train` in a fresh process: from starting Python and the packed file (in the page cache) to the saved Run"
    s = bench.sizes
    for arch in s.archs:
        run, start = bench.work / f"run-{arch}", time.perf_counter()
        said = child(bench, COLD, bench.made["survey"].path, run, arch, s.bs[0], s.px, s.epochs, bench.device, ",".join(STAGES))
        seconds, told = time.perf_counter() - start, json.loads(said.splitlines()[-1])
        bench.made["run"] = read_run(run)
        found = out[f"{arch}, bs {s.bs[0]}"] = {"process": leaf(seconds, "s"), **{k: leaf(v, "s") for k, v in told["seconds"].items()}, "memory": memory(told["bytes_in_memory"])}
        if told["bytes_on_gpu"]: found["on the GPU"] = memory(told["bytes_on_gpu"])
        found["rmse"] = score_of(bench, bench.made["run"].networks[0].to(bench.device), bench.made["run"].mean_std())


def child(bench, code, *arguments):
    "What code prints in a fresh process, which ends with the section's time"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)], env=ENVIRONMENT, capture_output=True, text=True, timeout=max(bench.stop - time.perf_counter(), 1))
    if done.returncode: raise RuntimeError(f"A process ended with {done.returncode}: {done.stderr[-1500:]}")
    return done.stdout


# What a user would run instead


def stock_learner(bench, dls, survey, split, arch):
    "fastai as it comes, in mixed precision on a GPU, with the same network, loss and recipe"
    seed_all(0, 0, -1)
    model = network(survey, split, arch).to(bench.device)
    learn = Learner(dls, model, loss_func=FaithfulLoss(model.units.std), opt_func=fastai_ranger, lr=TUTORIAL.lr, wd=TUTORIAL.wd)
    learn.remove_cbs(ProgressCallback)
    learn.logger = lambda *_: None
    return learn.to_fp16() if bench.cuda else learn


def stock_dls(bench, name, split, bs, workers):
    "The DataBlock of chapter 23: each JPEG is read, cropped and collated on the CPU, in every epoch"
    return make_dls(bench.made[name], split, TARGETS, bs, bench.sizes.px, statistics_of(bench), workers=workers, device=torch.device(bench.device))


def statistics_of(bench):
    "Mean and standard deviation of the training images, measured once"
    if ("survey", "stats") not in bench.made: learner_of(bench, "survey", bench.sizes.archs[0], bench.sizes.bs[0])
    return bench.made["survey", "stats"]


class Files(torch.utils.data.Dataset):
    "JPEGs, cropped and turned at random, as plain PyTorch would do it"
    def __init__(self, files, y, size): self.files, self.y, self.size = files, y, size
    def __len__(self): return len(self.files)

    def __getitem__(self, i):
        image = np.asarray(Image.open(self.files[i]).convert("RGB"))
        top, left = (random.randint(0, n - self.size) for n in image.shape[:2])
        image = np.rot90(image[top:top + self.size, left:left + self.size], random.randrange(4))
        return torch.from_numpy(np.ascontiguousarray((image[:, ::-1] if random.random() < 0.5 else image).transpose(2, 0, 1))), self.y[i]


def stream(bench, batches, work=lambda batch: None):
    "Images/s of a loader, and of what is done with each batch, over a while after a first while"
    begin, start, n = time.perf_counter(), None, 0
    while True:
        for batch in batches:
            work(batch)
            if start is None:
                if time.perf_counter() - begin > bench.sizes.window / 2: start = bench.clock()
                continue
            n += len(batch[0])
            if time.perf_counter() - start > bench.sizes.window: return n / (bench.clock() - start)


def fastai_pace(bench, workers):
    "Images/s of fastai's loader alone, and in training"
    s, survey = bench.sizes, bench.made["survey"]
    split = assign_split(survey.catalog)
    dls, window = stock_dls(bench, "survey", split, s.bs[0], workers), Window(bench, s.window)
    alone = stream(bench, dls.train)
    stock_learner(bench, dls, survey, split, s.archs[0]).fit(1000, cbs=window)
    return alone, window.pace


def torch_pace(bench, workers):
    "Images/s of a plain PyTorch loop: its loader alone, and training in bfloat16 with channels last and fused AdamW"
    s, survey = bench.sizes, bench.made["survey"]
    split, (mean, std) = assign_split(survey.catalog), (255 * torch.tensor(v, device=bench.device).view(3, 1, 1) for v in statistics_of(bench))
    rows = np.flatnonzero(split == "train")
    data = Files(np.array(survey.image_files, object)[rows], torch.tensor(survey.target(TARGETS[0])[rows], dtype=torch.float32), s.px)
    batches = torch.utils.data.DataLoader(data, s.bs[0], shuffle=True, num_workers=workers, drop_last=True, pin_memory=bench.cuda)
    model = network(survey, split, s.archs[0]).to(bench.device, memory_format=torch.channels_last)
    opt, loss_func = torch.optim.AdamW(model.parameters(), 1e-3, fused=True), FaithfulLoss(model.units.std)
    def work(batch):
        x, y = (t.to(bench.device, non_blocking=True) for t in batch)
        with autocast(bench): pred = model(((x.float() - mean) / std).contiguous(memory_format=torch.channels_last))
        loss_func(pred, y).backward()
        opt.step()
        opt.zero_grad()
    return stream(bench, batches), stream(bench, batches, work)


def peers(bench, out):
    "Stock loaders, which read and decode each image in every epoch: part of an epoch, without validation; the fit is extrapolated, so it has no RMSE (see `same fit`)"
    for workers in bench.sizes.workers:
        for name, pace in (("fastai", fastai_pace), ("plain PyTorch", torch_pace)):
            try: out[f"{name}, {workers} workers"] = compared(bench, *pace(bench, workers))
            except Exception as e: out[f"{name}, {workers} workers"] = {"error": repr(e)[:2000]}


def compared(bench, alone, training):
    "Paces of a peer's loader and training, and how much faster ours are"
    s, found = bench.sizes, {"loader": leaf(alone, "images/s"), "training": leaf(training, "images/s")}
    found["fit, extrapolated, without validation"] = leaf(s.epochs * s.train / training, "s")
    loader, fit = bench.found.get("loader", {}).get(f"bs {s.bs[0]}"), bench.found.get("fit", {}).get(f"{s.archs[0]}, bs {s.bs[0]}")
    if loader: found["our loader against it"] = ratio(loader["resident"], found["loader"])
    if fit: found["our training against it"] = ratio(fit["training"], found["training"])
    return found


def best_workers(bench):
    "The number of workers with which stock fastai trained fastest"
    paces = {w: bench.found.get("peers", {}).get(f"fastai, {w} workers", {}).get("training", {}).get("value", 0) for w in bench.sizes.workers}
    return max(paces, key=paces.get)


def same_fit(bench, out):
    "The distinct galaxies alone, all epochs, with stock fastai and with ours: times and errors, nothing extrapolated"
    s, survey, workers = bench.sizes, bench.made["sky"], best_workers(bench)
    out["resident"] = ours = fit(bench, "sky", s.archs[0], s.same_bs, s.epochs)
    split, clock = assign_split(survey.catalog), InTime(bench)
    learn = stock_learner(bench, stock_dls(bench, "sky", split, s.same_bs, workers), survey, split, s.archs[0])
    (seconds,) = bench.seconds(lambda: learn.fit_one_cycle(s.epochs, TUTORIAL.lr, cbs=[clock, EpochSeed(0)]), 1)
    pace = rates(len(learn.dls.train) * s.same_bs, clock.training)
    out[f"fastai, {workers} workers"] = {**summary(clock, seconds, s.epochs), "training": pace, "rmse": score_of(bench, learn.model, learn.dls.stats), "our training against it": ratio(ours["training"], pace)}


# Prediction


def run_of(bench):
    "The Run of the last cold training, or a brief one"
    if "run" not in bench.made:
        bench.made["run"] = train(bench.made["survey"], bench.work / "run", arch=bench.sizes.archs[0], bs=bench.sizes.bs[0], size=bench.sizes.px, epochs=1, device=bench.device, quiet=True)
    return bench.made["run"]


def without_errors(run):
    "Make a Run's predictions those of the network alone, with neither error bars nor flag"
    (run.path / DETECTOR_FILE).unlink(missing_ok=True)
    write_json(run.path / CALIBRATION_FILE, {"targets": {}, "notes": ["a benchmark"]})


def prediction(bench, out):
    "Pictures in memory, a packed Survey from its folder to the table, and fastai's `get_preds` with its loader"
    run, held, images, table = run_of(bench), bench.made["held"], held_images(bench), bench.work / "predicted.parquet"
    out["network"] = run.card["arch"]
    for tta, views in ((False, "one view"), (True, "eight views")):
        without_errors(run)
        found = out.setdefault(views, {})
        found["in memory"] = rates(len(images), bench.seconds(lambda: run.predict(images, tta=tta), 3, warm=1))
        found["rmse"] = score(bench, run.predict(images[:bench.made["test"]], tta=tta).mean[:, 0])
        found["packed Survey to table"] = rates(len(held), bench.seconds(lambda: predict(run, held.path, table, tta=tta), 2))
    out["get_preds"] = stock_prediction(bench, run)
    for views in ("one view", "eight views"): out[views]["against get_preds of one view"] = ratio(out[views]["packed Survey to table"], out["get_preds"]["from files"])
    sky = bench.made["sky"]
    fit_error_model(run, sky)
    out["eight views"]["with error bars and flag"] = rates(len(held), bench.seconds(lambda: predict(run, held.path, table), 2))


def stock_prediction(bench, run):
    "`get_preds` in half precision over the stock loader"
    s, n = bench.sizes, bench.sizes.held - bench.sizes.bs[0]
    dls = stock_dls(bench, "held", np.where(np.arange(s.held) < n, "valid", "train"), s.bs[0], best_workers(bench))
    learn = Learner(dls, run.networks[0].to(bench.device), loss_func=FaithfulLoss())
    learn.remove_cbs(ProgressCallback)
    said = []
    def work():
        with torch.autocast("cuda", torch.float16) if bench.cuda else nullcontext(): said.append(learn.get_preds(ds_idx=1)[0][:, 0])
    times = bench.seconds(work, 2)
    return {"workers": best_workers(bench), "from files": rates(n, times), "rmse": score(bench, said[-1].float().cpu(), n)}


# What each choice gains


def against(bench, out, name, change):
    "A fit with something changed, and its pace against the default's"
    s = bench.sizes
    default = bench.found["fit"][f"{s.archs[0]}, bs {s.bs[0]}"]
    out[name] = fit(bench, "survey", s.archs[0], s.bs[0], s.epochs, change)
    if torch._dynamo.utils.counters["stats"]: out[name]["compiled graphs"] = leaf(torch._dynamo.utils.counters["stats"]["unique_graphs"], "graphs")
    out[name]["against the default"] = ratio(out[name]["training"], default["training"])


def variants(bench, out):
    "fastai's optimiser instead of ours, and cuDNN's search for the fastest kernels"
    against(bench, out, "fastai's optimiser", lambda learn: setattr(learn, "opt_func", fastai_ranger))
    was, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, not torch.backends.cudnn.benchmark
    try: against(bench, out, f"cudnn.benchmark = {not was}", lambda learn: None)
    finally: torch.backends.cudnn.benchmark = was


def compiled(bench, out):
    "`model.compile()` against eager; its first epoch holds the compilation"
    for name, options in bench.sizes.compiled:
        try: against(bench, out, name, lambda learn: learn.model.compile(**options))
        except Exception as e: out[name] = {"error": repr(e)[:2000]}


# The harness


class Overtime(BaseException):
    "The section's time is up; no `except Exception` on the way may keep it"


@contextmanager
def time_limit(seconds):
    "Raise `Overtime` after so many seconds, and again, should something swallow it"
    def ring(*_): raise Overtime(f"stopped after {seconds:.0f} s")
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, 10)
    try: yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


SECTIONS = {  # name: function, seconds below which it is not begun, seconds after which it ends (on an H100-class GPU with 16 cores)
    "ceilings": (ceilings, 5, 30), "sky": (sky, 10, 150), "decode": (decode, 10, 60), "loader": (loader, 5, 30), "step": (step, 15, 45), "launches": (launches, 5, 20),
    "synchronisations": (synchronisations, 5, 20), "fit": (fits, 30, 150), "cold": (cold, 30, 120), "peers": (peers, 30, 100), "same fit": (same_fit, 15, 45),
    "prediction": (prediction, 20, 80), "variants": (variants, 15, 60), "compiled": (compiled, 30, 120),
}
NEEDED = ("ceilings", "sky")  # by the others


def run_section(bench, name):
    "Run a section within its time; what went wrong is a part of what it found"
    work, least, most = SECTIONS[name]
    start, out = time.perf_counter(), bench.found.setdefault(name, {})
    left = bench.end - start
    if left < least: return out.update(skipped=f"{left:.0f} s are left, it takes at least {least}")
    most = min(left, most * bench.sizes.patience)
    bench.stop = start + most
    try:
        with time_limit(most): work(bench, out)
    except (Exception, Overtime) as e: out["error"] = f"{type(e).__name__}: {e}"[:3000]
    out["section"] = leaf(time.perf_counter() - start, "s")
    gc.collect()
    if bench.cuda: torch.cuda.empty_cache()


def lines(found, path=()):
    "One line of the table for each number, error and section left out"
    for key, v in found.items():
        where = " | ".join((*path, key))
        if isinstance(v, dict) and "value" in v:
            width = f"  [{v['lo']:.4g}, {v['hi']:.4g}]" if "lo" in v else ""
            yield f"{where:<75} {v['value']:>10.4g}{width}  {v['unit']}"
        elif isinstance(v, dict): yield from lines(v, (*path, key))
        elif key in ("error", "skipped", "note"): yield f"{where:<75} {v}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--galaxies", type=int, help="distinct ones to draw")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--small", action="store_true", help="toy size, to see that everything works")
    parser.add_argument("--out", type=Path, default=Path("results/gpu.json"))
    args, start = parser.parse_args(), time.perf_counter()
    sizes, device = SMALL if args.small else Sizes(), choose_device(args.device)
    if args.galaxies: sizes = replace(sizes, galaxies=args.galaxies)
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(sizes, device, choose_precision("auto", device), Path(work), start + 60 * args.minutes)
        for arch in sizes.archs: bench.made["flops", arch] = count_flops(arch, sizes.px)
        about = {"what": "Speed on a GPU, mock sky", "command": " ".join(["python benchmarks/gpu.py", *sys.argv[1:]]), "small": args.small, "machine": machine(bench), "sizes": vars(sizes),
                 "operations": {f"{arch}, forward and backward": {"value": bench.made["flops", arch] * 1e-9, "unit": "GFLOP an image"} for arch in sizes.archs}}
        for name in [n for n in SECTIONS if n in {*NEEDED, *args.sections}]:
            run_section(bench, name)
            write_json(args.out, {**about, "sections": bench.found})
            print(f"{time.perf_counter() - start:5.0f} s  {name}", *[f"{k}: {bench.found[name][k]}" for k in ("error", "skipped") if k in bench.found[name]], flush=True)
    print(*lines({"machine": {"note": ", ".join(str(about["machine"].get(k)) for k in ("name", "device", "cores"))}, **bench.found}), sep="\n")


if __name__ == "__main__": main()
