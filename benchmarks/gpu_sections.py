"The sections of benchmarks/gpu.py: each takes the bench and a dict, to which it adds what it finds"
import json
import os
import time
import warnings
from collections import Counter
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastai.learner import Learner
from fastai.optimizer import ranger as fastai_ranger
from gpu_bench import TARGETS, Galaxies, Window, fit, network, repeat_galaxies, stock_dls, stock_learner, time_fit
from harness import ROOT, fresh_python
from stock import Pictures
from torch.profiler import ProfilerActivity, profile
from units import memory, quantity, rates, repeated_quantity, times_as_fast

from galaxy_cnn.files import write_json
from galaxy_cnn.learner import EpochHistory, EpochSeed
from galaxy_cnn.loaders import load_cutouts
from galaxy_cnn.models import FaithfulLoss
from galaxy_cnn.predict import predict
from galaxy_cnn.run import read_run
from galaxy_cnn.survey import read_survey
from galaxy_cnn.train import fit_error_model, train
from galaxy_cnn.uncertainty import CALIBRATION_FILE, DETECTOR_FILE


def first_setting(bench): return f"{bench.sizes.archs[0]}, bs {bench.sizes.bs[0]}"


def each_setting(bench): return [(arch, bs) for arch in bench.sizes.archs for bs in bench.sizes.bs]


# What the machine can do, and the sky

def ceilings(bench, out):
    "The pace of copying (bytes read and written) and of a matrix product in bfloat16"
    s, repeats = bench.sizes, 4 * bench.sizes.repeats
    source = torch.randint(256, (s.copy,), dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    out["copy"] = rates(2e-9 * s.copy, bench.times(lambda: target.copy_(source), repeats, repeats), "GB/s")
    a, b = torch.randn(2, s.matmul, s.matmul, device=bench.device).bfloat16()
    out["matmul"] = rates(2e-12 * s.matmul**3, bench.times(lambda: a @ b, repeats, repeats), "TFLOP/s")


def sky(bench, out):
    "Draw the galaxies, and repeat those of each split"
    s, path = bench.sizes, bench.work / "sky"
    mock = ["mock", "--out", path, "--n", s.galaxies, "--seed", 3, "--workers", s.drawers or os.cpu_count()]
    command = partial(fresh_python, "-c", "from galaxy_cnn.cli import main; main()", timeout=bench.budget.left())
    out["drawing"] = rates(s.galaxies, bench.times(lambda: command(*mock)), "galaxies/s")
    bench.galaxies["sky"] = distinct = Galaxies(read_survey(path), s.px, bench.device)
    rows = {name: np.flatnonzero(distinct.split == name) for name in ("train", "valid", "test")}
    out["distinct galaxies"] = {name: quantity(len(r), "galaxies") for name, r in rows.items()}
    seen = np.concatenate([np.resize(rows["train"], s.train), np.resize(rows["valid"], s.valid)])
    wanted = {"survey": seen, "held": np.resize(rows["test"], s.held)}
    def link_and_pack(): bench.galaxies.update({k: repeat_galaxies(bench, k, v) for k, v in wanted.items()})
    out["linking and packing"] = rates(s.train + s.valid + s.held, bench.times(link_and_pack))
    packed = bench.galaxies["survey"].survey.path / "packed.parquet"
    out["packed"] = quantity(packed.stat().st_size / 2**20, "MiB")
    bench.n_test = min(len(rows["test"]), s.held)
    if (bench.galaxies["survey"].split == "train").sum() != s.train:
        raise RuntimeError("A galaxy changed its split when it was repeated.")


# Decoding and loading

def decode(bench, out):
    "From the packed file to one uint8 tensor"
    held, galaxies = bench.galaxies["held"].survey, bench.galaxies["survey"]
    part = held.select(np.arange(len(held)) < 8192)
    for n in sorted({1, 2, 4, os.cpu_count()}):
        out[f"threads: {n}"] = rates(len(part), bench.times(lambda: load_cutouts(part, workers=n), 3))
    out["onto the device"] = rates(len(galaxies), bench.times(lambda: galaxies.pixels))
    out["tensor"] = memory(galaxies.pixels.nbytes)


def loader(bench, out):
    "Batches alone: from the tensor in memory to normalized images; the first epoch is not counted"
    bytes_an_image = bench.sizes.px**2 * 3 * (1 + 4)  # a byte is read and a float32 written
    for bs in bench.sizes.bs:
        batches = bench.learner("survey", bench.sizes.archs[0], bs).dls.train
        found = rates(len(batches) * bs, bench.times(lambda: [None for _ in batches], 3, 1))
        share = found["value"] * bytes_an_image / (1e9 * bench.found["ceilings"]["copy"]["value"])
        out[f"bs {bs}"] = {"resident": found, "share of the copy's pace": quantity(share, "of the copy's pace")}


# The step

def passes(bench, arch, bs):
    "Functions that do the forward pass, also the backward pass, and the whole step, on one batch"
    learn = bench.learner("survey", arch, bs)
    learn.create_opt()
    learn.opt.set_hyper("lr", 1e-4)
    x, y = (t.clone() for t in learn.dls.train.one_batch())
    x = x.contiguous(memory_format=torch.channels_last)
    model = learn.model.to(memory_format=torch.channels_last).train()
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
    "Seconds of blocks of steps, and the share of each that had passed when the last step was launched"
    seconds, launched = [], []
    for _ in range(bench.sizes.repeats + 1):
        start = bench.clock()
        for _ in range(bench.sizes.steps): work()
        launching = time.perf_counter() - start
        seconds.append(bench.clock() - start)
        launched.append(launching / seconds[-1])
    return seconds[1:], launched[1:]


def step(bench, out):
    "Forward pass, backward pass and optimizer on one batch over and over: nothing but the network"
    for arch, bs in each_setting(bench):
        found = out[f"{arch}, bs {bs}"] = {}
        for name, work in passes(bench, arch, bs).items():
            seconds, launched = blocks(bench, work)
            found[name] = rates(bs * bench.sizes.steps, seconds)
        found["share of peak"] = bench.share_of_peak(found["step"], arch)
        found["launching"] = repeated_quantity(launched, "of the time: near 1 the launches are the limit")


def launches(bench, out, steps=3):
    "Kernels of a step, and the time that the device is busy with them (on a CPU: operations, and their time)"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * bench.cuda
    for arch, bs in each_setting(bench):
        work = passes(bench, arch, bs)["step"]
        bench.times(work, steps)
        with profile(activities=activities) as prof: bench.times(work, steps)
        count, busy = device_events(bench, prof)
        found = {"kernels": quantity(count / steps, "a step"), "busy": quantity(busy / 1000 / steps, "ms a step")}
        out[f"{arch}, bs {bs}"] = found


def device_events(bench, prof):
    "Number of the device's events in a profile, and their time [us]"
    kind = torch.autograd.DeviceType.CUDA if bench.cuda else torch.autograd.DeviceType.CPU
    events = [e for e in prof.key_averages() if e.device_type == kind and not getattr(e, "is_user_annotation", False)]
    time_of = "self_device_time_total" if bench.cuda else "self_cpu_time_total"
    return sum(e.count for e in events), sum(getattr(e, time_of) for e in events)


class Training(Callback):
    "Numbers of the warnings caught before the training batches, and up to their end"
    order = 50  # before `EpochHistory` reads the loss of the epoch
    def __init__(self, caught): self.caught = caught
    def before_train(self): self.first = len(self.caught)
    def after_train(self): self.last = len(self.caught)


def synchronizations(bench, out):
    "How often an epoch waits for the device (CUDA's own count, by where it happens)"
    callbacks = [EpochSeed(0), EpochHistory([], TARGETS)]
    learn = bench.learner("sky", bench.sizes.archs[0], bench.sizes.same_bs, callbacks)
    learn.fit(1)
    n = len(learn.dls.train)
    out["training batches"] = quantity(n, "batches")
    if not bench.cuda:
        out["note"] = "No GPU: there is nothing to wait for."
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        training = Training(caught)
        torch.cuda.set_sync_debug_mode("warn")
        try: learn.fit(1, cbs=training)
        finally: torch.cuda.set_sync_debug_mode("default")
    within = places(caught[training.first:training.last])
    outside = places(caught[:training.first] + caught[training.last:])
    out["in training"] = {**quantity(sum(within.values()) / n, "a batch"), "where": within}
    out["between and in validation"] = {**quantity(sum(outside.values()), "an epoch"), "where": outside}


def places(caught):
    "Where the warnings of synchronization come from, the most frequent ones"
    waits = [w for w in caught if "synchroniz" in str(w.message)]
    return dict(Counter(f"{Path(w.filename).name}:{w.lineno}" for w in waits).most_common(12))


# The fit

def first_fit(bench, out, captured=False):
    "A fit, warm: Learner, callbacks, validation after each epoch; nothing written; as many epochs as there is time for"
    arch, bs = bench.sizes.archs[0], bench.sizes.bs[0]
    out[first_setting(bench)] = fit(bench, "survey", arch, bs, captured=captured)


def fits(bench, out):
    "The fits of the other networks and batches, with the captured step and with the plain one"
    for arch, bs in each_setting(bench)[1:]:
        for step, captured in (("captured", True), ("plain", False)):
            found = out[f"{arch}, bs {bs}, {step} step"] = {}
            with kept_error(found): found |= fit(bench, "survey", arch, bs, captured=captured)


def cold(bench, out):
    "`train` in a fresh process: from starting Python and the packed file (in the page cache) to the saved Run"
    s, survey = bench.sizes, bench.galaxies["survey"].survey
    for arch in s.archs:
        folder = bench.work / f"run-{arch}"
        wanted = {"survey": str(survey.path), "out": str(folder), "arch": arch, "bs": s.bs[0], "size": s.px,
                  "epochs": s.epochs, "device": bench.device, "graph": bench.cuda}
        command = ROOT / "benchmarks" / "gpu.py", "--cold", json.dumps(wanted)
        start = time.perf_counter()
        said = json.loads(fresh_python(*command, timeout=bench.budget.left()).splitlines()[-1])
        seconds = {"process": time.perf_counter() - start, **said["seconds"]}
        bench.run = read_run(folder)
        found = out[f"{arch}, bs {s.bs[0]}"] = {k: quantity(v, "s") for k, v in seconds.items()}
        found |= {k: memory(n) for k, n in said["bytes"].items()}
        found["rmse"] = bench.score_network(bench.run.networks[0].to(bench.device), bench.run.mean_std())


# What a user would run instead

def stream(bench, batches, work=lambda batch: None):
    "Images/s of a loader, and of what is done with each batch, over a while after a first while"
    begin = time.perf_counter()
    start, n = None, 0
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
    dls, window = stock_dls(bench, "survey", bench.sizes.bs[0], workers), Window(bench, bench.sizes.window)
    alone = stream(bench, dls.train)
    stock_learner(bench, "survey", dls).fit(1000, cbs=window)
    return alone, window.pace


def torch_pace(bench, workers):
    "Images/s of a plain PyTorch loop: its loader alone, and training in bfloat16 with channels last and fused AdamW"
    s, galaxies = bench.sizes, bench.galaxies["survey"]
    rows = np.flatnonzero(galaxies.split == "train")
    y = torch.tensor(galaxies.survey.target(TARGETS[0])[rows], dtype=torch.float32)
    options = dict(shuffle=True, num_workers=workers, drop_last=True, pin_memory=bench.cuda)
    batches = torch.utils.data.DataLoader(Pictures(galaxies.files(rows), y, s.px), s.bs[0], **options)
    mean, std = (255 * torch.tensor(v, device=bench.device).view(3, 1, 1) for v in galaxies.stats)
    model = network(galaxies, s.archs[0]).to(bench.device, memory_format=torch.channels_last)
    opt = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    loss_func = FaithfulLoss(model.units.std)
    def work(batch):
        x, y = (t.to(bench.device, non_blocking=True) for t in batch)
        x = ((x.float() - mean) / std).contiguous(memory_format=torch.channels_last)
        with autocast(bench): pred = model(x)
        loss_func(pred, y).backward()
        opt.step()
        opt.zero_grad()
    return stream(bench, batches), stream(bench, batches, work)


@contextmanager
def kept_error(found):
    "What goes wrong with one of several contenders is a part of what is found"
    try: yield
    except Exception as e: found["error"] = repr(e)[:2000]


def peers(bench, out):
    "Stock loaders, which decode in every epoch, over part of one: the fit is extrapolated, its error is in `same fit`"
    for workers in bench.sizes.workers:
        for name, pace in (("fastai", fastai_pace), ("plain PyTorch", torch_pace)):
            found = out[f"{name}, {workers} workers"] = {}
            with kept_error(found): found |= compared(bench, *pace(bench, workers))


def compared(bench, alone, training):
    "Paces of a peer's loader and training, and how much faster ours are"
    s, found = bench.sizes, {"loader": quantity(alone, "images/s"), "training": quantity(training, "images/s")}
    found["fit, extrapolated, without validation"] = quantity(s.epochs * s.train / training, "s")
    for name, title in (("fit", "our training against it"), ("captured fit", "our captured training against it")):
        ours = bench.found.get(name, {}).get(first_setting(bench))
        if ours: found[title] = times_as_fast(ours["training"], found["training"])
    return found


def best_workers(bench):
    "The number of workers with which stock fastai trained fastest"
    peers = bench.found.get("peers", {})
    def pace(workers): return peers.get(f"fastai, {workers} workers", {}).get("training", {}).get("value", 0)
    return max(bench.sizes.workers, key=pace)


def same_fit(bench, out):
    "The distinct galaxies alone, all epochs, with stock fastai and with ours: times and errors, nothing extrapolated"
    s, workers = bench.sizes, best_workers(bench)
    out["resident"] = ours = fit(bench, "sky", s.archs[0], s.same_bs)
    out["resident, captured step"] = fit(bench, "sky", s.archs[0], s.same_bs, captured=True)
    learn = stock_learner(bench, "sky", stock_dls(bench, "sky", s.same_bs, workers))
    found = out[f"fastai, {workers} workers"] = time_fit(bench, learn)
    found["rmse"] = bench.score_network(learn.model, learn.dls.stats)
    found["our training against it"] = times_as_fast(ours["training"], found["training"])


# Prediction

def run_of(bench):
    "The Run of the last cold training, or a brief one"
    if bench.run: return bench.run
    s = bench.sizes
    options = dict(arch=s.archs[0], bs=s.bs[0], size=s.px, epochs=1, device=bench.device, calibrate=False, quiet=True)
    bench.run = train(bench.galaxies["survey"].survey, bench.work / "run", **options)
    return bench.run


def without_errors(run):
    "Make a Run's predictions those of the network alone, with neither error bars nor flag"
    (run.path / DETECTOR_FILE).unlink(missing_ok=True)
    write_json(run.path / CALIBRATION_FILE, {"targets": {}, "notes": ["a benchmark"]})


def prediction(bench, out):
    "Pictures in memory, a packed Survey from its folder to the table, and fastai's `get_preds` with its loader"
    run, images, held = run_of(bench), bench.held_images(), bench.galaxies["held"].survey
    def to_table(tta=True): return predict(run, held.path, bench.work / "predicted.parquet", tta=tta)
    out["network"] = run.card["arch"]
    without_errors(run)
    for tta, views in ((False, "one view"), (True, "eight views")):
        found = out[views] = {}
        found["in memory"] = rates(len(images), bench.times(lambda: run.predict(images, tta=tta), 3, 1))
        found["rmse"] = bench.score(run.predict(images[:bench.n_test], tta=tta).mean[:, 0])
        found["packed Survey to table"] = rates(len(held), bench.times(lambda: to_table(tta), 2))
    out["get_preds"] = stock_prediction(bench, run)
    for found in (out["one view"], out["eight views"]):
        gain = times_as_fast(found["packed Survey to table"], out["get_preds"]["from files"])
        found["against get_preds of one view"] = gain
    fit_error_model(run, bench.galaxies["survey"].survey)
    out["eight views"]["with error bars and flag"] = rates(len(held), bench.times(to_table, 2))


def stock_prediction(bench, run):
    "`get_preds` in half precision over the stock loader"
    s, workers = bench.sizes, best_workers(bench)
    n = s.held - s.bs[0]  # one batch is set aside, since the loader wants something to train on
    split = np.where(np.arange(s.held) < n, "valid", "train")
    dls = stock_dls(bench, "held", s.bs[0], workers, split)
    learn = Learner(dls, run.networks[0].to(bench.device), loss_func=FaithfulLoss())
    learn.remove_cbs(ProgressCallback)
    said = []
    def work():
        with torch.autocast("cuda", torch.float16) if bench.cuda else nullcontext():
            said.append(learn.get_preds(ds_idx=1)[0][:, 0])
    pace = rates(n, bench.times(work, 2))
    return {"workers": workers, "from files": pace, "rmse": bench.score(said[-1].float().cpu(), n)}


# What each choice gains

def against(bench, found, change=lambda learn: None):
    "A fit with something changed, and its pace against the default's"
    s, graphs = bench.sizes, torch._dynamo.utils.counters["stats"]
    default = bench.found["fit"][first_setting(bench)]
    found |= fit(bench, "survey", s.archs[0], s.bs[0], change)
    if graphs: found["compiled graphs"] = quantity(graphs["unique_graphs"], "graphs")
    found["against the default"] = times_as_fast(found["training"], default["training"])


def variants(bench, out):
    "fastai's optimizer instead of ours, and cuDNN's search for the fastest kernels"
    cudnn = torch.backends.cudnn
    was = cudnn.benchmark
    def take_fastai(learn): learn.opt_func = fastai_ranger
    against(bench, out.setdefault("fastai's optimiser", {}), take_fastai)
    cudnn.benchmark = not was
    try: against(bench, out.setdefault(f"cudnn.benchmark = {not was}", {}))
    finally: cudnn.benchmark = was


def compiled(bench, out):
    "`model.compile()` against eager; its first epoch holds the compilation"
    for name, options in bench.sizes.compiled:
        found = out[name] = {}
        with kept_error(found): against(bench, found, lambda learn: learn.model.compile(**options))


SECTIONS = {
    "ceilings": ceilings, "sky": sky, "decode": decode, "loader": loader, "step": step, "launches": launches,
    "synchronisations": synchronizations, "fit": first_fit, "captured fit": partial(first_fit, captured=True),
    "all fits": fits, "cold": cold, "peers": peers, "same fit": same_fit, "prediction": prediction,
    "variants": variants, "compiled": compiled,
}
