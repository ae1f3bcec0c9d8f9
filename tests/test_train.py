"Training: the loss's shapes, exact resume after SIGKILL, determinism, what shuffled labels score, and what is refused"
import json
import multiprocessing as mp
import os
import random
import shutil
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback, CancelEpochException
from fastai.callback.training import GradientClip
from safetensors.torch import load_file, save_file

import galaxy_cnn.processes as processes_module
from galaxy_cnn import checkpoint as checkpoint_module
from galaxy_cnn import train as train_module
from galaxy_cnn.files import Incomplete, InputError, read_json, write_json
from galaxy_cnn.images import read_images
from galaxy_cnn.learner import (
    BF16_FLAGS,
    RECIPES,
    CapturedStep,
    EpochHistory,
    EpochSeed,
    _RangeTest,
    _why_plain,
    cpu_flags,
    make_learner,
    seed_all,
)
from galaxy_cnn.loaders import in_memory_dls, load_cutouts, streaming_dls
from galaxy_cnn.models import ScaledRMSE, create_model, head_layer, torch_threads
from galaxy_cnn.run import ARGUMENTS_FILE, CHECKPOINT_FILE, read_run
from galaxy_cnn.splits import assign_split
from galaxy_cnn.survey import MISSING, Survey, pack, read_survey, validate, write_survey
from galaxy_cnn.train import fit_error_model, pretrain, train, warm_start
from galaxy_cnn.uncertainty import ErrorModel

# without the error model, which few of these tests are about
QUIET = dict(precision="fp32", device="cpu", calibrate=False, quiet=True)
SMALL = dict(arch="xresnet_tiny", epochs=3, bs=16, **QUIET)
FEW = dict(epochs=1, split_by="random", precision="fp32", device="cpu")
TWO = FEW | dict(folds=2)  # instead of the five networks that a few hundred galaxies get


@pytest.fixture(scope="session")
def run(mock_survey, tmp_path_factory):
    return train(mock_survey, tmp_path_factory.mktemp("runs") / "run", **SMALL)


@pytest.fixture(scope="session")
def few_labels(few, tmp_path_factory):
    "A Run as a few hundred galaxies get it: two pretrained networks, a Gaussian process beside each, error bars"
    return train(few, tmp_path_factory.mktemp("runs") / "few", quiet=True, **TWO)


@pytest.fixture
def copy(run, tmp_path):
    "A copy of a Run, to be damaged"
    shutil.copytree(run.path, tmp_path / "run")
    return tmp_path / "run"


def largest_difference(run, other):
    "Largest difference between the weights of two Runs"
    files = zip(sorted(run.glob("models/*")), sorted(other.glob("models/*")), strict=True)
    pairs = [(load_file(a), load_file(b)) for a, b in files]
    return max(float((a[k] - b[k]).abs().max()) for a, b in pairs for k in a)


def assert_same_training(run, other):
    "The same weights and history, but for the time it took"
    assert largest_difference(run.path, other.path) <= 1e-6
    ours, theirs = (r.history().drop(columns="seconds") for r in (run, other))
    pd.testing.assert_frame_equal(ours, theirs, atol=1e-6)


def valid_rmse(run): return run.card["headline"]["valid_rmse_metallicity"]


def interrupt(*args): raise KeyboardInterrupt


# The loss

@pytest.mark.parametrize("pred, y", [
    ((8,), (8,)),
    ((8, 1), (1, 8)),
    ((8, 1), (8, 2)),
    ((1, 1), (8,)),
    ((8, 2), (8,)),
    ((8, 2), (2, 8)),
    ((8, 1, 1), (8,)),
])
def test_the_loss_refuses_shapes_that_would_broadcast(pred, y):
    with pytest.raises(ValueError, match="do not pair off"):
        ScaledRMSE()(torch.zeros(pred), torch.zeros(y))


def test_one_target_may_come_without_its_second_axis():
    pred, y = torch.randn(8, 1), torch.randn(8)
    expected = (pred[:, 0] - y).square().mean().sqrt() / 0.2
    assert ScaledRMSE([0.2])(pred, y) == ScaledRMSE([0.2])(pred, y[:, None]) == expected


def test_sigma_has_no_say_in_what_the_network_looks_for():
    model = create_model("xresnet_tiny", 2, sigma=True)
    for p in head_layer(model).parameters(): torch.nn.init.normal_(p)
    out = model(torch.randn(4, 3, 112, 112))
    trunk = [p for n, p in model.named_parameters() if "log_sigma" not in n]
    def moves_the_trunk(part):
        gradients = torch.autograd.grad(part.sum(), trunk, allow_unused=True, retain_graph=True)
        return any(g is not None and g.any() for g in gradients)
    assert moves_the_trunk(out[:, :2]) and not moves_the_trunk(out[:, 2:])


# Resume

def die_at(count, function, before=False, truncate=False):
    "`function`, which kills its process at the given call: before or after it, or with half of its file on disk"
    calls = []
    def wrapper(*args, **kwargs):
        calls.append(args)
        last = len(calls) == count
        if last and before: os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kwargs)
        if last and truncate: os.truncate(args[1], os.path.getsize(args[1]) // 2)
        if last: os.kill(os.getpid(), signal.SIGKILL)
        return result
    return wrapper


def train_until_killed(survey, out, options, where, count):
    "What a process does that is killed in its `count`-th step, write of a checkpoint, or between that and the history"
    if where == "step": EpochHistory.after_batch = die_at(count, EpochHistory.after_batch)
    if where == "write": checkpoint_module.save_file = die_at(count, checkpoint_module.save_file, truncate=True)
    if where == "history": checkpoint_module.write_history = die_at(count, checkpoint_module.write_history, before=True)
    train(survey, out, **options)


@pytest.fixture(scope="session")
def processes():
    "Starts processes that have torch and fastai loaded already"
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["galaxy_cnn.train"])
    return context


# Batches of 9: six steps an epoch, or five in a fold, so that Lookahead is on its way when a fold's epoch ends
@pytest.mark.parametrize("opt, folds, kills", [
    ("adam", None, [("step", 12), ("write", 2)]),
    ("ranger", 2, [("write", 5), ("history", 1)]),
])
def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(few, tmp_path, processes, opt, folds, kills):
    options = SMALL | dict(opt=opt, folds=folds, split_by="random", bs=9)
    whole = train(few, tmp_path / "whole", **options)
    for i, (where, count) in enumerate(kills):
        arguments = str(few.path), tmp_path / "killed", options | dict(resume=i > 0), where, count
        child = processes.Process(target=train_until_killed, args=arguments)
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        with pytest.raises(InputError, match="unfinished Run"): read_run(tmp_path / "killed")
    resumed = train(few, tmp_path / "killed", resume=True, **options)
    assert_same_training(whole, resumed)
    # nothing half written is left
    assert {p.name for p in resumed.path.rglob("*")} == {p.name for p in whole.path.rglob("*")}


@pytest.fixture
def side_by_side(monkeypatch):
    "Networks of any size are worth processes; the list of those that have been started"
    started, start = [], processes_module._start_worker
    monkeypatch.setattr(train_module, "_WORTH_PROCESSES", 0)
    monkeypatch.setattr(processes_module, "_start_worker", lambda: started.append(start()) or started[-1])
    return started


def when_another_epoch_is_kept(out, act):
    "Call a function as soon as a network that is trained apart has written a checkpoint"
    before = {f: f.stat().st_mtime_ns for f in out.rglob(Path(CHECKPOINT_FILE).name)}
    def wait():
        for _ in range(10_000):
            now = {f: f.stat().st_mtime_ns for f in out.rglob(Path(CHECKPOINT_FILE).name)}
            if now != before: return act()
            time.sleep(0.01)
    threading.Thread(target=wait).start()


def test_networks_side_by_side_outlive_a_killed_process_and_ctrl_c(heeding, few, tmp_path, side_by_side):
    options, out = TWO | dict(epochs=20, init=None, calibrate=False, quiet=True), tmp_path / "run"
    when_another_epoch_is_kept(out, lambda: side_by_side[0].kill())
    with torch_threads(2), pytest.raises(Incomplete, match="was ended by SIGKILL.* The epochs completed are kept"):
        train(few, out, **options)
    when_another_epoch_is_kept(out, lambda: os.kill(os.getpid(), signal.SIGINT))
    with torch_threads(2), pytest.raises(Incomplete, match="Stopped. The epochs completed are kept"):
        train(few, out, resume=True, **options)
    assert len(side_by_side) == 4 and None not in [worker.poll() for worker in side_by_side]
    with torch_threads(1):
        resumed = train(few, out, resume=True, **options)
        assert len(side_by_side) == 4  # one thread, no process
        whole = train(few, tmp_path / "whole", **options)
    assert_same_training(whole, resumed)
    assert {p.name for p in out.rglob("*")} == {p.name for p in whole.path.rglob("*")}


def test_what_was_begun_in_memory_or_apart_goes_on_so_or_not_at_all(few, tmp_path, side_by_side, monkeypatch):
    options, out, asked = TWO | dict(init=None, calibrate=False, quiet=True), tmp_path / "run", []
    def stopped(*_):
        asked.append(sorted(f.name for f in (out / "checkpoint").iterdir()))
        raise KeyboardInterrupt
    monkeypatch.setattr(train_module, "_fit_side_by_side", stopped)
    with pytest.raises(Incomplete): train(few, out, **options)
    with monkeypatch.context() as patch, pytest.raises(InputError, match="begun with all cutouts in memory.* as much memory"):
        patch.setattr("galaxy_cnn.loaders.free_memory", lambda device="cpu": 10**6)
        train(few, out, resume=True, **options)
    (out / "checkpoint/0").mkdir()  # where a network that is trained apart has its own checkpoint
    with pytest.raises(Incomplete): train(few, out, resume=True, graph=True, **options)
    assert asked == [["arguments.json"], ["0", "arguments.json"]]


def test_a_failure_in_another_process_is_a_sentence(few, tmp_path, side_by_side):
    options = TWO | dict(lr=1e30, init=None, quiet=True)
    with torch_threads(2), pytest.raises(Incomplete, match="^The loss is nan in epoch 0 of network [01]"):
        train(few, tmp_path / "run", **options)


def test_ctrl_c_says_how_to_go_on_and_the_tutorials_loader_resumes_exactly(few, tmp_path, monkeypatch, capsys):
    options = QUIET | dict(arch="xresnet9", size=32, epochs=3, bs=12, split_by="random")
    stopped = tmp_path / "stopped"
    whole = train(few, tmp_path / "whole", **options)
    write = checkpoint_module.write_history
    def interrupted(out, rows):
        write(out, rows)
        if len(rows) == 2: raise KeyboardInterrupt
    monkeypatch.setattr(checkpoint_module, "write_history", interrupted)
    with pytest.raises(Incomplete, match="same command with --resume"): train(few, stopped, **options)
    monkeypatch.setattr(checkpoint_module, "write_history", write)
    with pytest.raises(InputError, match="unfinished Run: go on with --resume"): train(few, stopped, **options)
    with pytest.raises(InputError, match="lr was 0.01, now 0.02"): train(few, stopped, resume=True, lr=0.02, **options)
    other = Survey(few.path, few.catalog.assign(oh_p50=few.catalog["oh_p50"] + 0.1), few.info)
    with pytest.raises(InputError, match="fingerprint was"): train(other, stopped, resume=True, **options)
    options["quiet"] = False
    resumed = train(few, stopped, resume=True, **options)
    assert "Going on with network 0 after 2 of 3 epochs" in capsys.readouterr().out
    assert largest_difference(whole.path, resumed.path) <= 1e-6
    train(few, stopped, resume=True, **options)
    assert "nothing to resume" in capsys.readouterr().out


def test_a_damaged_checkpoint_is_named(few, tmp_path, monkeypatch):
    options = SMALL | dict(epochs=1, split_by="random")
    monkeypatch.setattr(train_module, "_write_card", interrupt)
    with pytest.raises(Incomplete): train(few, tmp_path / "run", **options)
    (tmp_path / "run" / CHECKPOINT_FILE).write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a checkpoint that can be continued"):
        train(few, tmp_path / "run", resume=True, **options)


# The captured step

def fit_captured(survey, arch, *cbs, device="cpu", size=32):
    "A Learner after 56 steps, the rate climbing and falling, and its history"
    split, rows = assign_split(survey.catalog, by="random"), []
    seed_all(0, 0, -1)
    pixels = load_cutouts(survey)[0].to(device)
    stats = (0.1,) * 3, (0.1,) * 3
    bs = int((split == "train").sum()) // 8
    options = dict(bs=bs, size=size, stats=stats, augment=RECIPES[arch].augment)
    dls = in_memory_dls(survey, split, pixels, **options)
    model = create_model(arch, 1, mean=[8.9], std=[0.2], sigma=True)
    learn = make_learner(dls, model, RECIPES[arch], "fp32", cbs)
    history = [] if device == "meta" else [EpochHistory(rows, ["metallicity"])]
    learn.fit_one_cycle(7, 3e-3, cbs=[EpochSeed(0), *history])
    return learn, rows


@pytest.mark.parametrize("arch", ["xresnet9", "xresnet_tiny"])  # Ranger and crops; Adam, turns and the average
def test_the_captured_step_does_what_the_plain_one_does(few, arch):
    (plain, rows), (captured, same) = (fit_captured(few, arch, *cbs) for cbs in ([], [CapturedStep("cpu")]))
    assert not captured.captured_step.plain and len(captured.recorder.losses) == 56
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(captured.model.state_dict()[name], value, rtol=0, atol=1e-6)
    assert [row["train_loss"] for row in same] == pytest.approx([row["train_loss"] for row in rows], abs=1e-6)
    assert same[-1]["train_loss"] < same[0]["train_loss"] and captured.recorder.lrs == plain.recorder.lrs
    tensors, numbers = checkpoint_module.optimizer_state(captured.opt)
    assert numbers == checkpoint_module.optimizer_state(plain.opt)[1] and tensors  # what a resumed run starts from
    for learn in (plain, captured): learn.fit(2, cbs=[_RangeTest(num_it=12, stop_div=False), EpochSeed(0)])
    ranges = [torch.stack(learn.recorder.losses) for learn in (plain, captured)]
    assert len(ranges[0]) == 12
    torch.testing.assert_close(*ranges, rtol=0, atol=1e-6)


class TrainOnly(Callback):
    def after_train(self): raise CancelEpochException


@pytest.mark.parametrize("arch", ["xresnet9", "xresnet_tiny"])
def test_nothing_in_the_captured_step_waits_for_a_number(few, arch):
    "On the meta device no tensor has values: what asks for one fails"
    learn, _ = fit_captured(few, arch, CapturedStep("meta"), TrainOnly(), device="meta")
    assert not learn.captured_step.plain and learn.captured_step.number.device.type == "meta"
    with pytest.raises(RuntimeError, match="meta"): learn.captured_step.number.item()


def test_steps_that_cannot_be_captured_are_plain_and_it_is_said_once(few, capsys, tmp_path):
    said = []
    clipped, _ = fit_captured(few, "xresnet_tiny", CapturedStep("cpu", said.append), GradientClip(0.01))
    free, _ = fit_captured(few, "xresnet_tiny")
    assert said == ["The training step is not captured, because GradientClip acts within it: plain steps are taken."]
    assert any(not torch.equal(a, b) for a, b in zip(clipped.model.parameters(), free.model.parameters()))
    options = SMALL | dict(epochs=1, folds=2, split_by="random", quiet=False)
    one, other = (train(few, tmp_path / str(graph), graph=graph, **options) for graph in (False, True))
    assert capsys.readouterr().out.count("does not train on a CUDA GPU: plain steps") == 1
    assert largest_difference(one.path, other.path) == 0


# What a training must and must not learn

@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_seed_gives_the_same_run_and_another_seed_another(few, tmp_path, threads):
    with torch_threads(threads):
        one, again, other = (
            train(few, tmp_path / name, seed=seed, **SMALL | dict(epochs=1, split_by="random"))
            for name, seed in (("one", 0), ("again", 0), ("other", 1))
        )
    assert_same_training(one, again)
    assert largest_difference(one.path, other.path) > 1e-3
    assert (one.split.names != other.split.names).any()


def test_shuffled_labels_score_like_predicting_the_mean(mock_survey, tmp_path):
    labels = np.random.default_rng(0).permutation(mock_survey.catalog["oh_p50"].to_numpy())
    mock_survey.catalog.assign(oh_p50=labels).to_csv(tmp_path / "catalog.csv", index=False)
    (tmp_path / "images").symlink_to(mock_survey.path / "images")
    learned = {}
    for name, survey in {"true": mock_survey, "shuffled": read_survey(tmp_path)}.items():
        trained = train(survey, tmp_path / "runs" / name, **SMALL | dict(epochs=4, bs=8, folds=2))
        y = survey.target("metallicity")
        fold = trained.split.network
        squares = [np.mean((y[fold == k] - y[(fold != k)].mean()) ** 2) for k in (0, 1)]
        learned[name] = valid_rmse(trained) / np.sqrt(np.mean(squares))
    assert learned["true"] < 0.85 and 0.95 < learned["shuffled"] < 1.15, learned


def test_labels_of_a_fold_move_nothing_of_the_network_that_it_validates(few, few_labels, tmp_path):
    "Nor of its Gaussian process; the other network and process learn from them"
    lies = few.catalog["oh_p50"] - 0.3 * (few_labels.split.network == 0)
    lying = Survey(few.path, few.catalog.assign(oh_p50=lies), few.info)
    other = train(lying, tmp_path / "other", calibrate=False, quiet=True, **TWO)
    def same(file, prefix=""):
        ours, theirs = (load_file(r.path / file) for r in (few_labels, other))
        names = [name for name in ours if name.startswith(prefix)]
        assert names
        return all(torch.equal(ours[name], theirs[name]) for name in names)
    assert same("models/0.safetensors") and not same("models/1.safetensors")
    assert same("gp.safetensors", "0/") and not same("gp.safetensors", "1/")


def test_a_loss_that_is_not_a_number_ends_the_run_and_keeps_what_was_there(few, tmp_path, monkeypatch):
    forward, calls = ScaledRMSE.forward, []
    def breaks_down(self, pred, y):
        calls.append(1)
        return forward(self, pred, y) * (float("nan") if len(calls) > 8 else 1)
    monkeypatch.setattr(ScaledRMSE, "forward", breaks_down)
    message = "^The loss is nan in epoch [12] .*lower learning rate.* The epochs completed are kept"
    with pytest.raises(Incomplete, match=message):
        train(few, tmp_path / "run", **SMALL | dict(split_by="random"))
    assert (tmp_path / "run" / CHECKPOINT_FILE).is_file()


@pytest.mark.skipif(not cpu_flags() & BF16_FLAGS, reason="this CPU has no bfloat16 in hardware")
def test_bf16_is_recorded_and_agrees_with_fp32(mock_survey, run, tmp_path):
    half = train(mock_survey, tmp_path / "half", **SMALL | dict(precision="auto"))
    assert half.card["precision"] == "bf16" and run.card["precision"] == "fp32"
    assert 0 < abs(valid_rmse(half) - valid_rmse(run)) < 0.02


# Input that is refused

def test_bad_galaxies_are_listed_or_left_out(mock_survey, tmp_path):
    survey = Survey(tmp_path / "sky", mock_survey.catalog.copy(), {})
    shutil.copytree(mock_survey.path / "images", survey.path / "images")
    survey.catalog.loc[3, "oh_p50"] = MISSING
    files = survey.image_files
    os.truncate(files[5], 300)
    os.remove(files[7])
    write_survey(survey.path, survey.catalog, {})
    problems = r"3 problems; 1 x missing target, 1 x unreadable image, 1 x missing image: objID \d+ has oh_p50 = -9999"
    with pytest.raises(InputError, match=problems):
        train(survey.path, tmp_path / "run", **SMALL | dict(epochs=1))
    assert not (tmp_path / "run").exists()
    run = train(survey.path, tmp_path / "run", drop_bad=True, **SMALL | dict(epochs=1))
    assert sorted(run.card["survey"]["dropped"]) == sorted(survey.catalog["objID"][[3, 5, 7]].tolist())
    assert len(run.survey()) == run.card["survey"]["n"] - 3 == 237


def test_galaxies_that_do_not_form_stars_are_refused_left_out_or_taken(mock_survey, tmp_path, capsys):
    classes = np.ones(len(mock_survey), int)
    classes[:6] = -1, 2, 3, 4, 5, 3
    survey = Survey(mock_survey.path, mock_survey.catalog.assign(bptclass=classes), {"source": "mock"})
    with pytest.raises(InputError, match=r"5 problems; 5 x not star-forming: .* = -1, unclassifiable.*--drop-bad.*--any-class on the 5 "):
        train(survey, tmp_path / "run", **SMALL)
    options = SMALL | dict(epochs=1, calibrate=False, quiet=False)
    left = train(survey, tmp_path / "left", drop_bad=True, **options)
    assert "5 galaxies are not star-forming by their bptclass: they are left out." in capsys.readouterr().out
    assert sorted(left.card["survey"]["dropped"]) == sorted(survey.catalog["objID"][[0, 2, 3, 4, 5]])
    whole = train(survey, tmp_path / "whole", any_class=True, **options)
    assert "5 galaxies are not star-forming by their bptclass: they are trained on" in capsys.readouterr().out
    assert (whole.card["survey"]["dropped"], whole.card["survey"]["not_star_forming"]) == ([], 5)
    assert validate(survey, ("log_mass",)) == [], "a mass may be any galaxy's"


@pytest.mark.parametrize("options, message", [
    (dict(arch="vgg"), "there are xresnet_tiny, xresnet9"),
    (dict(opt="sgd"), "there are ranger, adam"),
    (dict(bs=1000), r"Batches of 1000 cannot be made from \d+ training galaxies"),
    (dict(bs=1), "Batches of 1 cannot"),
    (dict(epochs=-1), "epochs must be positive, not -1"),
    (dict(lr=float("nan")), "lr must be positive, not nan"),
    (dict(folds=1), "at least 2 folds"),
    (dict(precision="fp8"), "fp32, bf16 or fp16, not 'fp8'"),
    (dict(precision="fp16"), "fp16 needs a CUDA GPU"),
    (dict(device="quantum"), "'quantum' cannot be used"),
    (dict(split_by="name"), "not 'name'"),
    (dict(targets=("colour",)), "targets that it has: metallicity"),
    (dict(targets=("metallicity", "metallicity")), "different names"),
    (dict(targets=()), "at least one"),
])
def test_options_that_cannot_be(mock_survey, tmp_path, options, message):
    with pytest.raises(InputError, match=message): train(mock_survey, tmp_path / "run", **SMALL | options)
    assert not (tmp_path / "run").exists()


def test_surveys_that_cannot_be_trained_on(mock_survey, tmp_path):
    twenty = mock_survey.select(np.arange(240) < 20)
    with pytest.raises(InputError, match="training galaxies are too few"):
        train(twenty, tmp_path / "few", split_by="random", quiet=True)
    flat = Survey(mock_survey.path, mock_survey.catalog.assign(oh_p50=9.0), mock_survey.info)
    with pytest.raises(InputError, match="have the same metallicity"): train(flat, tmp_path / "flat", **SMALL)
    with pytest.raises(FileNotFoundError, match="There is no Survey at"): train(tmp_path / "nowhere", tmp_path / "run")


def test_a_folder_that_is_taken_is_found_before_the_work(few, tmp_path, monkeypatch):
    monkeypatch.setattr(train_module, "load_cutouts", None)
    monkeypatch.setattr("galaxy_cnn.mock_images.make_mock", None)
    for file, text in (("model.json", "already holds a Run"), (ARGUMENTS_FILE, "unfinished Run"), ("notes.txt", "is not a Run")):
        out = tmp_path / Path(file).stem
        (out / file).parent.mkdir(parents=True)
        (out / file).touch()
        with pytest.raises(InputError, match=text): train(few, out, **SMALL)
        with pytest.raises(InputError, match=text): pretrain(out)


def test_a_folder_that_is_not_ours(mock_survey, run, tmp_path):
    with pytest.raises(InputError, match="already holds a Run"): train(mock_survey, run.path, **SMALL)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not a Run: give another --out"): train(mock_survey, tmp_path, **SMALL)
    with pytest.raises(InputError, match="notes.txt/run cannot be written"):
        train(mock_survey, tmp_path / "notes.txt" / "run", **SMALL)


# Runs that are refused

CARD, WEIGHTS = "model.json", "models/0.safetensors"


def set_card(path, **values): write_json(path / CARD, read_json(path / CARD) | values)


def take_from_card(path, key): write_json(path / CARD, {k: v for k, v in read_json(path / CARD).items() if k != key})


def swap_weights(path, **values): save_file(create_model(sigma=True, **values).state_dict(), path / WEIGHTS)


def flip_a_bit(file):
    data = bytearray(file.read_bytes())
    data[-100] ^= 64
    file.write_bytes(data)


TINY = "does not hold the weights of xresnet_tiny"
FAULTS = {
    "no card": (lambda p: (p / CARD).unlink(), "holds no Run"),
    "card is not JSON": (lambda p: (p / CARD).write_text("{"), "not valid JSON"),
    "card is a list": (lambda p: (p / CARD).write_text("[]"), "not the card of a Run"),
    "card without targets": (lambda p: take_from_card(p, "targets"), "lacks targets"),
    "card of the future": (lambda p: set_card(p, format=9), "has format 9"),
    "card of another architecture": (lambda p: set_card(p, arch="xresnet18"), "hold the weights of xresnet18"),
    "card of an unknown architecture": (lambda p: set_card(p, arch="vgg"), "no architecture 'vgg'"),
    "card of other targets": (lambda p: set_card(p, targets=["metallicity", "log_mass"]), "for metallicity, log_mass"),
    "weights missing": (lambda p: (p / WEIGHTS).unlink(), "0.safetensors is missing"),
    "weights empty": (lambda p: (p / WEIGHTS).write_bytes(b""), "not a readable safetensors"),
    "weights truncated": (lambda p: os.truncate(p / WEIGHTS, 50_000), "not a readable safetensors"),
    "weights with a flipped bit": (lambda p: flip_a_bit(p / WEIGHTS), "SHA-256"),
    "weights of another network": (lambda p: swap_weights(p, arch="xresnet9"), TINY),
    "weights of another run": (lambda p: swap_weights(p, arch="xresnet_tiny"), "SHA-256"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_runs(copy, fault):
    damage, message = FAULTS[fault]
    damage(copy)
    with pytest.raises(InputError, match=message) as error: read_run(copy)
    assert len(str(error.value)) < 400 and "\n" not in str(error.value)


def test_a_run_knows_its_survey(run, mock_survey, tmp_path):
    assert run.survey().fingerprint == mock_survey.fingerprint
    assert set(run.split.objID) == set(mock_survey.catalog["objID"])
    shutil.copytree(mock_survey.path, tmp_path / "moved")
    assert run.survey(tmp_path / "moved").catalog.equals(mock_survey.catalog)
    os.remove(sorted((tmp_path / "moved/images").iterdir())[0])
    with pytest.raises(InputError, match="is not the Survey that"): run.survey(tmp_path / "moved")
    with pytest.raises(InputError, match="no longer at .*nowhere: say where it is with --survey"):
        run.survey(tmp_path / "nowhere")


def test_nothing_pickled_is_written(run):
    assert {p.suffix for p in run.path.rglob("*") if p.is_file()} == {".safetensors", ".json", ".csv"}
    assert all(json.loads(p.read_text()) for p in run.path.rglob("*.json"))


# A few hundred galaxies

def test_a_few_galaxies_start_from_the_pretrained_network_in_five_folds(few, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train_module, "_fit_network", interrupt)
    with pytest.raises(Incomplete): train(few, tmp_path / "run", **FEW)
    assert "5 networks start from the one pretrained on a mock sky" in capsys.readouterr().out
    arguments = read_json(tmp_path / "run" / ARGUMENTS_FILE)
    assert arguments["folds"] == 5 and arguments["gp"] and arguments["init"]


def test_networks_and_gaussian_processes_of_few_galaxies_answer_as_their_card_says(few, few_labels):
    run = few_labels
    assert run.folds == 2 and run.gp["share"] == 0.5
    true = few.target("metallicity")
    images = read_images(few.image_files)
    fold, held = run.split.network, run.split.held_out
    pred = np.full(len(true), np.nan)
    with torch_threads(2):
        for k in range(2): pred[fold == k] = run.predict(images[fold == k], k).mean[:, 0]
    assert np.sqrt(np.mean((pred - true)[held] ** 2)) == pytest.approx(valid_rmse(run), abs=2e-4)
    alone = run.card["gp"]["process_alone"]["valid_rmse_metallicity"]
    assert valid_rmse(run) < 0.75 * true[held].std() and alone < 0.85 * true[held].std()


@pytest.mark.parametrize("name", ["gp.safetensors", "models/frozen.safetensors"])
def test_a_part_of_few_labels_that_is_damaged_is_named(few_labels, tmp_path, name):
    shutil.copytree(few_labels.path, tmp_path / "run")
    file = tmp_path / "run" / name
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match=f"{file.name} is missing or damaged"): read_run(tmp_path / "run")


@pytest.mark.parametrize("options, folds", [
    (dict(init=None), None),
    (dict(arch="xresnet_tiny"), None),
    (dict(size=96), None),
    (dict(init="pretrained", folds=2), 2),
])
def test_what_is_told_otherwise(few, tmp_path, options, folds):
    run = train(few, tmp_path / "run", calibrate=False, quiet=True, **FEW, **options)
    assert run.folds == folds and run.card["gp"] is None
    assert (run.card["init"] is not None) == ("pretrained" in options.values())


def test_the_error_model_is_the_last_act_and_is_made_up_for_when_a_finished_run_is_resumed(few, tmp_path):
    options = FEW | dict(arch="xresnet_tiny", folds=2, init=None, quiet=True)
    run = train(few, tmp_path / "run", **options)
    errors = ErrorModel.load(run.path)
    card = (run.path / "model.json").read_bytes()
    assert errors.calibrations["metallicity"].n == len(few)
    (run.path / "calibration.json").unlink()
    again = ErrorModel.load(train(few, run.path, resume=True, **options).path)
    assert again.calibrations == errors.calibrations and (run.path / "model.json").read_bytes() == card
    assert fit_error_model(run, few, run.predict(few)).calibrations == errors.calibrations


def test_no_accessor_of_a_run_writes(few_labels):
    path = few_labels.path
    before = {p: p.stat().st_mtime_ns for p in path.rglob("*")}
    again = read_run(path)
    again.split, again.networks, again.gp, again.history(), again.describe(), ErrorModel.load(path)
    again.predict(again.survey())
    assert {p: p.stat().st_mtime_ns for p in path.rglob("*")} == before


def test_starts_that_cannot_be(few, tmp_path):
    options = FEW | dict(init="pretrained", quiet=True)
    with pytest.raises(InputError, match="has seen crops of 112 px"):
        train(few, tmp_path / "run", size=96, **options)
    with pytest.raises(InputError, match="stands beside each network of a cross-validation"):
        train(few, tmp_path / "run", gp=True, **options)
    with pytest.raises(InputError, match="only that can start from it"):
        train(few, tmp_path / "run", arch="xresnet9", **options)
    assert not (tmp_path / "run").exists()


def test_what_a_killed_run_of_few_galaxies_ends_with(few, few_labels, tmp_path, monkeypatch):
    options = TWO | dict(calibrate=False, quiet=True)
    with monkeypatch.context() as m:
        m.setattr(train_module, "save_arrays", interrupt)
        with pytest.raises(Incomplete, match="--resume"): train(few, tmp_path / "stopped", **options)
    resumed = train(few, tmp_path / "stopped", resume=True, **options)
    assert largest_difference(few_labels.path, resumed.path) == 0
    assert resumed.card["gp"] == few_labels.card["gp"]


def test_pretraining_reads_many_quantities_and_its_head_is_taken_over(mock_survey, tmp_path):
    start = pretrain(tmp_path / "start", mock_survey, epochs=1, device="cpu", precision="fp32", quiet=True)
    assert len(start.targets) == 12 and start.card["survey"]["path"] == mock_survey.name
    model = create_model("xresnet_tiny", 2, sigma=True)
    warm_start(model, start, 0, ("log_sfr", "metallicity"))
    ours, theirs = head_layer(model).mean.weight, head_layer(start.networks[0]).mean.weight
    assert torch.equal(ours[1], theirs[start.targets.index("oh_true")]) and not ours[0].any()
    bare = Survey(mock_survey.path, mock_survey.catalog[["objID", "oh_p50"]], mock_survey.info)
    with pytest.raises(InputError, match="two are the least"): pretrain(tmp_path / "none", bare)


# The real sky

def test_real_galaxies_teach_the_small_network_something(real, tmp_path):
    run = train(real / "sdss_sample", tmp_path / "run", init=None, epochs=10, calibrate=False, quiet=True)
    assert run.card["arch"] == "xresnet_tiny" and run.card["split"]["by"] == "random"
    scatter = np.std(run.survey().target("metallicity")[run.split.valid()])
    assert valid_rmse(run) < 0.75 * scatter


# Cutouts from elsewhere than memory

def test_what_does_not_fit_into_memory_is_streamed_and_resumes_exactly(few, few_labels, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("galaxy_cnn.loaders.free_memory", lambda device="cpu": 10**6)
    options = FEW | dict(arch="xresnet9", size=32, epochs=2, calibrate=False, init="none")
    whole = train(few, tmp_path / "whole", **options)
    assert "did not fit into the memory that was free: they are streamed" in capsys.readouterr().out
    write = checkpoint_module.write_history
    def interrupted(out, rows):
        write(out, rows)
        raise KeyboardInterrupt
    monkeypatch.setattr(checkpoint_module, "write_history", interrupted)
    with pytest.raises(Incomplete): train(few, tmp_path / "stopped", **options)
    monkeypatch.setattr(checkpoint_module, "write_history", write)
    with monkeypatch.context() as patch:  # with more memory the order is the same, and a finished Run is finished
        patch.setattr("galaxy_cnn.loaders.free_memory", lambda device="cpu": 10**10)
        resumed = train(few, tmp_path / "stopped", resume=True, **options)
        train(few, tmp_path / "stopped", resume=True, **options)
    assert resumed.history()["epoch"].tolist() == [0, 1] and largest_difference(whole.path, resumed.path) == 0
    # the Gaussian process reads the files too, and finds in them what it found in memory
    from_files = train(few, tmp_path / "few", calibrate=False, quiet=True, **TWO).card["gp"]["process_alone"]
    assert from_files == pytest.approx(few_labels.card["gp"]["process_alone"], abs=1e-5)


def test_a_streamed_epoch_has_each_galaxy_once_with_its_own_pixels(mock_survey, tmp_path, monkeypatch):
    for module in ("survey", "loaders"): monkeypatch.setattr(f"galaxy_cnn.{module}.ROW_GROUP", 16)
    shutil.copytree(mock_survey.path, tmp_path / "sky")
    pack(tmp_path / "sky")
    survey = read_survey(tmp_path / "sky")
    split = np.where(np.arange(240) % 6 == 0, "valid", "train")
    stream = streaming_dls(survey, split, bs=8)
    memory = in_memory_dls(survey, split, load_cutouts(survey)[0], bs=8, stats=stream.stats)
    stream.train.rng = random.Random(5)
    rows, drawn = stream.train.draw_epoch()
    assert sorted(torch.cat(rows).tolist()) == np.flatnonzero(split == "train").tolist()
    assert _why_plain(SimpleNamespace(dls=stream), "cpu") == "the cutouts do not lie on the GPU"
    assert min(len((part // 16).unique()) for part in rows) >= 4, "a batch of neighbors"
    stream.train.rng, memory.train.on_device = random.Random(5), stream.train.on_device
    for batch, part, how in zip(stream.train, rows, drawn, strict=True):
        for value, same in zip(batch, memory.train.batch(part, how)): assert torch.equal(value, same)


def test_a_packed_survey_trains_to_the_same_weights(mock_survey, run, tmp_path):
    shutil.copytree(mock_survey.path, tmp_path / "sky")
    pack(tmp_path / "sky")
    packed = train(tmp_path / "sky", tmp_path / "packed", **SMALL)
    assert largest_difference(run.path, packed.path) == 0
