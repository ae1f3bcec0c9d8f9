"""The command line: the path of a user from a sky to a table, and one sentence for every wrong input."""
import importlib
import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from galaxy_cnn import cli

FAST = ["--arch", "xresnet_tiny", "--epochs", "1"]
FUNCTIONS = {  # command: the functions whose parameters are its options
    "mock": "mock_images.make_mock", "serve": "second_sky.serve_as local_server.LocalServer",
    "download": "download.download", "verify": "verify.verify", "pack": "survey.pack", "train": "train.train",
    "pretrain": "train.pretrain train.train", "recalibrate": "recalibrate.recalibrate", "evaluate": "evaluate.evaluate", "mzr": "mzr.mzr",
    "experiments": "experiments.experiments", "explain": "explain.explain", "report": "report.report",
    "predict": "predict.predict scale.predict_hats",
    "export": "export.export", "catalog": "scale.survey_to_hats",
}
RENAMED = {("mock", "out"): "path", ("verify", "survey"): "path", ("pack", "survey"): "path", ("train", "target"): "targets",
           ("serve", "as_"): "provider", ("download", "from_"): "provider"}


def call(capsys, *args):
    "Run `galaxy-cnn` in this process; its exit code, and what it wrote to the two streams"
    before, sys.argv = sys.argv, ["galaxy-cnn", *map(str, args)]
    try:
        cli.main()
        code = 0
    except SystemExit as e: code = e.code or 0
    finally: sys.argv = before
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="session")
def sky(mock_survey): return mock_survey.path


@pytest.fixture(scope="session")
def run(mock_run): return mock_run.path


# ---- the path of a user

def test_help_names_every_command():
    program = Path(sys.executable).with_name("galaxy-cnn")
    text = subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout
    assert all(f" {c} " in text for c in [*FUNCTIONS, "demo"])


def test_demo_downloads_a_part_of_its_sky_and_verifies_it(few, tmp_path, capsys):
    cli._download_part(few.path, tmp_path / "part", 5)
    text = capsys.readouterr().out
    assert "5 galaxies asked for: 5 ok" in text and "is not whole" not in text


@pytest.mark.parametrize("command", [*FUNCTIONS, "demo"])
def test_every_command_has_help(capsys, command):
    code, out, _ = call(capsys, command, "--help")
    assert code == 0 and "Usage:" in out


def options(command): return inspect.signature(getattr(cli, command)).parameters


@pytest.mark.parametrize("command", FUNCTIONS)
def test_the_defaults_are_those_of_the_function_that_does_the_work(command):
    known = {}
    for name in FUNCTIONS[command].split():  # the first describes a parameter where two do
        module, function = name.split(".")
        function = getattr(importlib.import_module(f"galaxy_cnn.{module}"), function)
        known = {**inspect.signature(function).parameters, **known}
    for name, option in options(command).items():
        default, theirs = option.default, known[RENAMED.get((command, name), name)].default
        assert (tuple(default) if isinstance(default, list) else default) == theirs, name


@pytest.mark.parametrize("command", FUNCTIONS)
def test_every_option_is_described_and_only_folders_and_files_are_paths(command):
    for name, option in options(command).items():
        kind, info = option.annotation.__origin__, option.annotation.__metadata__[0]
        assert len(info.help) > 10 and "`_" not in info.help and info.help.endswith("."), (name, info.help)
        is_path = Path in (kind, *getattr(kind, "__args__", ()))
        assert is_path == (name in ("out", "survey", "run", "source", "catalog", "onnx", "folder")), (name, kind)


@pytest.mark.parametrize("said, found", [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_that_wait_are_told_to_sleep_unless_the_user_says_otherwise(said, found):
    code = "import galaxy_cnn, os, sys; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    if said: environment["OMP_WAIT_POLICY"] = said
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [found, "False"]


def test_from_a_sky_to_a_table(capsys, tmp_path):
    sky, run, table = tmp_path / "sky", tmp_path / "run", tmp_path / "table.parquet"
    assert call(capsys, "mock", "--out", sky, "--n", 320, "--workers", 1)[0] == 0
    assert call(capsys, "train", sky, "--out", run, *FAST)[0] == 0
    code, out, err = call(capsys, "evaluate", run, "--no-tta")
    assert code == 0 and "RMSE" in out and "ridge" in out, err
    code, out, err = call(capsys, "mzr", run)
    assert code == 0 and "fixed mass" in out, err
    assert call(capsys, "predict", run, sky, "--out", table)[0] == 0
    found = pd.read_parquet(table)
    assert found["objID"].tolist() == pd.read_parquet(sky / "catalog.parquet")["objID"].tolist()
    code, out, err = call(capsys, "pack", sky)
    assert code == 0 and "packed.parquet" in out, err
    assert call(capsys, "predict", run, sky, "--out", table)[0] == 0
    pd.testing.assert_frame_equal(pd.read_parquet(table), found)
    for name in ("model.json", "models/0.safetensors", "history.csv", "predictions.parquet", "metrics.json", "figures"):
        assert (run / name).exists(), name
    assert not (run / "checkpoint").exists() and not list(run.rglob(".*"))


def test_predicting_in_spite_of_broken_files_ends_with_1(capsys, sky, run, tmp_path):
    images = sorted((sky / "images").iterdir())[:6]
    for f in images: shutil.copy(f, tmp_path)
    (tmp_path / images[2].name).write_bytes(b"")
    code, _, err = call(capsys, "predict", run, tmp_path, "--out", tmp_path / "t.csv")
    assert code == 1 and "zero bytes" in err and len(pd.read_csv(tmp_path / "t.csv")) == 5
    assert pd.read_csv(tmp_path / "t.errors.csv")["image"].astype(str).tolist() == [images[2].stem]
    shutil.copy(images[2], tmp_path)
    assert call(capsys, "predict", run, tmp_path, "--out", tmp_path / "t.csv")[0] == 0
    assert not (tmp_path / "t.errors.csv").exists(), "the old errors are gone when there are none"


def test_predicting_for_a_hats_catalog_takes_every_option(capsys, tmp_path, monkeypatch):
    given = {}
    def predict_hats(run, catalog, out, **options):
        given.update(options)
        return {"n": 3, "partitions": 2, "computed": 1, "notes": []}
    monkeypatch.setattr("galaxy_cnn.scale.predict_hats", predict_hats)
    (tmp_path / "partition_info.csv").touch()
    args = ["--bs", 5, "--workers", 2, "--scheduler", "tcp://a:1", "--no-tta", "--accept-shift"]
    assert call(capsys, "predict", "run", tmp_path, "--out", tmp_path / "out", *args)[0] == 0
    assert given == dict(tta=False, bs=5, scheduler="tcp://a:1", workers=2, accept_shift=True)


def test_a_home_folder_is_found_in_every_path_argument(capsys, sky, run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    place = tmp_path / "mes données, été"
    place.mkdir()
    (place / "the sky").symlink_to(sky)
    (place / "the run").symlink_to(run)
    code, _, err = call(capsys, "predict", "~/mes données, été/the run", "~/mes données, été/the sky", "--out=~/ma  table.csv")
    assert code == 0 and len(pd.read_csv(tmp_path / "ma  table.csv")) == 240, err
    code, _, err = call(capsys, "train", "~/none  here", "--out", "~/x", "--init=~/nothing", *FAST)
    assert code == 2 and f"{tmp_path}/none  here" in err and "~" not in err
    code, _, err = call(capsys, "train", "~/mes données, été/the sky", "--out", "~/x", "--init=~/nothing", *FAST)
    assert code == 2 and f"{tmp_path}/nothing holds no Run" in err


# ---- what a message says to do is done

def test_a_run_without_error_bars_says_how_to_get_them(capsys, sky, run, tmp_path):
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("calibration.json", "detector.npz"))
    shutil.copytree(sky, tmp_path / "moved")
    edit("model.json", str(sky), str(tmp_path / "sky"))(tmp_path / "run")
    predict = ["predict", tmp_path / "run", image(sky), "--out", tmp_path / "t.csv"]
    code, out, _ = call(capsys, *predict)
    assert code == 0 and f"`galaxy-cnn evaluate {tmp_path / 'run'}` makes them" in out
    code, _, err = call(capsys, "evaluate", tmp_path / "run", "--no-tta")
    assert code == 2 and "say where it is with --survey" in err
    assert call(capsys, "evaluate", tmp_path / "run", "--no-tta", "--survey", tmp_path / "moved")[0] == 0
    code, out, _ = call(capsys, *predict)
    assert code == 0 and "evaluate" not in out and "metallicity_sigma" in pd.read_csv(tmp_path / "t.csv")


@pytest.mark.parametrize("command", ["train", "pretrain"])
def test_a_training_that_was_refused_goes_on_as_it_says(capsys, sky, tmp_path, command):
    shutil.copytree(sky, tmp_path / "sky")
    cut(tmp_path / "sky")
    survey = [tmp_path / "sky"] if command == "train" else ["--survey", tmp_path / "sky"]
    asked = [command, *survey, "--out", tmp_path / "run", *FAST]
    code, _, err = call(capsys, *asked)
    assert code == 2 and "--drop-bad" in err
    (tmp_path / "run" / "checkpoint").mkdir(parents=True)
    code, _, err = call(capsys, *asked, "--drop-bad")
    assert code == 2 and "go on with --resume" in err
    code, out, err = call(capsys, *asked, "--drop-bad", "--resume")
    assert code == 0 and (tmp_path / "run" / "model.json").exists(), err


# ---- wrong input: what is done to a sky or a run, the command, and the sentence

def image(sky): return sorted((sky / "images").iterdir())[0]


def catalog(change):
    "Damage by rewriting the catalog as a CSV, which has no hash"
    def damage(sky):
        table = pd.read_parquet(sky / "catalog.parquet")[["objID", "ra", "dec", "oh_p50"]].astype({"objID": object, "oh_p50": object})
        for name in ("catalog.parquet", "survey.json"): (sky / name).unlink()
        change(table).to_csv(sky / "catalog.csv", index=False)
    return damage


def put(column, value, row=2):
    def change(table):
        table[column] = table[column].astype(object)
        table.loc[row, column] = value
        return table
    return catalog(change)


def as_png(sky): Image.open(image(sky)).convert("RGB").save(image(sky), "PNG")
def small(sky): Image.open(image(sky)).resize((64, 64)).save(image(sky))
def cut(sky): image(sky).write_bytes(image(sky).read_bytes()[:900])
def through_floats(table): return table.assign(objID=(table["objID"].astype(float) // 256 * 256).astype("int64"))
def repeated(table): return pd.concat([table, table.iloc[:3]])
def edit(name, old, new): return lambda folder: (folder / name).write_text((folder / name).read_text().replace(old, new))
def flip(folder): f = folder / "models/0.safetensors"; b = bytearray(f.read_bytes()); b[-5] ^= 255; f.write_bytes(b)
def nothing(folder): pass


TRAIN = ["train", "{sky}", "--out", "{out}", *FAST]
PREDICT = ["predict", "{run}", "{sky}", "--out", "{out}.csv"]
EVALUATE = ["evaluate", "{run}"]
BAD = {  # name: (what is damaged, how, the command, what the sentence says)
    "truncated JPEG": ("sky", cut, TRAIN, "truncated"),
    "PNG named .jpg": ("sky", as_png, TRAIN, "not a JPEG"),
    "zero bytes": ("sky", lambda s: image(s).write_bytes(b""), TRAIN, "zero bytes"),
    "missing image": ("sky", lambda s: image(s).unlink(), TRAIN, "is missing"),
    "wrong size": ("sky", small, TRAIN, "64x64 px instead of 128x128"),
    "duplicate objID": ("sky", catalog(repeated), TRAIN, "stands in more than one row"),
    "objID as float": ("sky", put("objID", "1.237648704043942e+18"), TRAIN, "row 3: objID is '1.237648704043942e.18', not a whole number"),
    "objIDs rounded by floats": ("sky", catalog(through_floats), TRAIN, "multiple of 256"),
    "NaN target": ("sky", put("oh_p50", ""), TRAIN, "oh_p50 = nan.*--drop-bad"),
    "missing target": ("sky", put("oh_p50", -9999), TRAIN, "oh_p50 = -9999.*--drop-bad"),
    "AGN and composites": ("sky", catalog(lambda t: t.assign(bptclass=[4, 3, 3] + [1] * (len(t) - 3))), TRAIN,
                           "3 x not star-forming: objID .* has bptclass = 4, AGN; .*--drop-bad, or train with --any-class on the 3 "),
    "text for a number": ("sky", put("oh_p50", "eight"), TRAIN, "row 3: oh_p50 is 'eight', not a number"),
    "position off the sky": ("sky", put("dec", 123.0), TRAIN, "has no position on the sky"),
    "empty catalog": ("sky", catalog(lambda t: t.iloc[:0]), TRAIN, "has no rows"),
    "no objID": ("sky", catalog(lambda t: t.drop(columns="objID")), TRAIN, "has no column objID"),
    "no catalog": ("sky", lambda s: (s / "catalog.parquet").unlink(), TRAIN, "holds no catalog"),
    "damaged catalog": ("sky", lambda s: (s / "catalog.parquet").write_bytes(b"PAR1 and then nothing"), TRAIN, "cannot be read as a table"),
    "catalog of another survey": ("sky", edit("survey.json", '"catalog_hash": "', '"catalog_hash": "0'), TRAIN, "is not the catalog that"),
    "damaged survey.json": ("sky", lambda s: (s / "survey.json").write_text("{"), TRAIN, "not valid JSON"),
    "no such Survey": ("sky", nothing, ["train", "{sky}-none", "--out", "{out}"], "There is no Survey at"),
    "no such column": ("sky", nothing, [*TRAIN, "--target", "colour"], "no column 'colour'.*metallicity"),
    "no masses": ("sky", catalog(lambda t: t), [*TRAIN, "--target", "log_mass"], "targets that it has: metallicity"),
    "batch larger than the sample": ("sky", nothing, [*TRAIN, "--bs", "5000"], "Batches of 5000 cannot be made"),
    "too few galaxies": ("sky", catalog(lambda t: t.iloc[:2]), TRAIN, "training galax"),
    "no such architecture": ("sky", nothing, ["train", "{sky}", "--out", "{out}", "--arch", "resnet"], "no architecture 'resnet'"),
    "no such optimizer": ("sky", nothing, [*TRAIN, "--opt", "sgd"], "no optimi[sz]er 'sgd'"),
    "no such device": ("sky", nothing, [*TRAIN, "--device", "cuda:77"], "Device 'cuda:77' cannot be used"),
    "negative learning rate": ("sky", nothing, [*TRAIN, "--lr", "-1"], "lr must be positive"),
    "sky split without coordinates": ("sky", catalog(lambda t: t.drop(columns=["ra", "dec"])), [*TRAIN, "--split-by", "sky"], "needs the columns ra and dec"),
    "output that cannot be written": ("sky", nothing, ["train", "{sky}", "--out", "{sky}/catalog.parquet/run", *FAST], "cannot be written|Not a directory"),
    "Run that is already there": ("run", nothing, ["train", "{sky}", "--out", "{run}", *FAST], "already holds a Run"),
    "resumed with other arguments": ("run", nothing, ["train", "{sky}", "--out", "{run}", *FAST, "--seed", "9", "--resume"], "seed was 0, now 9"),
    "start from another architecture": ("run", nothing, ["train", "{sky}", "--out", "{out}", "--arch", "xresnet9", "--epochs", "1", "--init", "{run}"], "only that can start from it"),
    "no such Run": ("run", nothing, ["evaluate", "{run}-none"], "holds no Run"),
    "damaged card": ("run", lambda r: (r / "model.json").write_text('{"arch":'), EVALUATE, "not valid JSON"),
    "card of another architecture": ("run", edit("model.json", '"xresnet_tiny"', '"xresnet18"'), EVALUATE, "does not hold the weights of xresnet18"),
    "weights are missing": ("run", lambda r: (r / "models/0.safetensors").unlink(), PREDICT, "0.safetensors is missing"),
    "weights are truncated": ("run", lambda r: (r / "models/0.safetensors").write_bytes(b"\x10\0\0\0"), PREDICT, "not a readable safetensors"),
    "a weight was changed": ("run", flip, PREDICT, "is damaged"),
    "evaluated on another Survey": ("sky", put("oh_p50", 8.5), ["evaluate", "{run}", "--survey", "{sky}"], "is not the Survey that"),
    "table in no known format": ("run", nothing, ["predict", "{run}", "{sky}", "--out", "{out}.xlsx"], "must end in .parquet or .csv"),
    "table that cannot be written": ("run", nothing, ["predict", "{run}", "{sky}", "--out", "{sky}/catalog.parquet/t.csv"], "cannot be written"),
    "nothing to predict": ("run", nothing, ["predict", "{run}", "{sky}-none", "--out", "{out}.csv"], "is no folder"),
    "folder without images": ("run", nothing, ["predict", "{run}", "{run}/models", "--out", "{out}.csv"], "holds no images"),
    "not a number": ("sky", nothing, ["train", "{sky}", "--out", "{out}", "--epochs", "many"], "valid integer"),
    "no such precision": ("sky", nothing, [*TRAIN, "--precision", "fp8"], "'fp8' is not one of 'auto', 'fp32', 'bf16', 'fp16'"),
    "no such kind of split": ("sky", nothing, [*TRAIN, "--split-by", "mass"], "'mass' is not one of 'auto', 'sky', 'random'"),
    "no such figure format": ("run", nothing, [*EVALUATE, "--figure-format", "gif"], "'gif' is not one of 'png', 'pdf'"),
    "no galaxies": ("sky", nothing, ["mock", "--out", "{out}", "--n", "0"], "range|greater than or equal to 1"),
    "no such command": ("sky", nothing, ["trian", "{sky}"], "No such command"),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_input_gets_one_sentence_and_exit_code_2(capsys, sky, run, tmp_path, name):
    what, damage, command, sentence = BAD[name]
    places = {"sky": sky, "run": run, "out": tmp_path / "out"}
    shutil.copytree(places[what], tmp_path / what)
    places[what] = tmp_path / what
    damage(places[what])
    before = sorted(tmp_path.rglob("*"))
    code, out, err = call(capsys, *[a.format(**places) for a in command])
    assert code == 2, (out, err)
    assert "Traceback" not in err
    assert pd.Series([err]).str.contains(sentence, flags=16).all(), err  # flag 16: the sentence may be anywhere
    if err.startswith("galaxy-cnn:"): assert len(err.strip().splitlines()) == 1, err
    assert sorted(tmp_path.rglob("*")) == before, "a wrong input leaves nothing behind"


def test_bad_galaxies_are_left_out_when_asked(capsys, sky, tmp_path):
    shutil.copytree(sky, tmp_path / "sky")
    cut(tmp_path / "sky")
    code, out, err = call(capsys, "train", tmp_path / "sky", "--out", tmp_path / "run", *FAST, "--drop-bad")
    assert code == 0 and "1 bad ones left out" in out, err


# ---- real galaxies

def test_real_galaxies_from_the_command_line(capsys, real, tmp_path):
    run = tmp_path / "run"
    code, out, err = call(capsys, "train", real / "sdss_sample", "--out", run, "--arch", "xresnet_tiny", "--epochs", 3, "--folds", 2)
    assert code == 0, err
    code, out, err = call(capsys, "evaluate", run, "--no-tta")
    assert code == 0 and "400" in out and "mock" not in out.lower(), (out, err)
    code, out, err = call(capsys, "mzr", run)
    assert code == 0 and "lgm_tot_p50" in out + err, "a Survey without masses gets a sentence"
    code, out, err = call(capsys, "predict", run, real / "sdss_spirals", "--out", tmp_path / "t.csv", "--no-tta", "--accept-shift")
    table = pd.read_csv(tmp_path / "t.csv")
    assert code == 0 and len(table) == 2000 and np.isfinite(table["metallicity_pred"]).all()
