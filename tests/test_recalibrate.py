"""Labels of a new kind of pictures correct a Run: the line is exact, the new Run is whole, and wrong input ends in a sentence."""
import errno
import json
import os
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from galaxy_cnn.cli import exit_code
from galaxy_cnn.download import _info
from galaxy_cnn.evaluate import evaluate
from galaxy_cnn.export import export_folder
from galaxy_cnn.files import Incomplete, InputError, file_hash
from galaxy_cnn.images import read_images
from galaxy_cnn.label_scales import convert_oh
from galaxy_cnn.literature import SDSS_LABELS
from galaxy_cnn.metrics import coverage
from galaxy_cnn.predict import LABELS_KEY, predict
from galaxy_cnn.recalibrate import fit_line, recalibrate
from galaxy_cnn.report import commands, training_sentence
from galaxy_cnn.run import Run, read_run
from galaxy_cnn.survey import read_survey, write_survey
from galaxy_cnn.train import train
from galaxy_cnn.uncertainty import ErrorModel, fit_calibration


@pytest.fixture(scope="module")
def parent(few, tmp_path_factory):
    "Two networks of one epoch, each with a Gaussian process"
    out = tmp_path_factory.mktemp("parent") / "parent"
    return train(few, out, init="pretrained", folds=2, gp=True, arch="xresnet_tiny", epochs=1, quiet=True)


@pytest.fixture(scope="module")
def darker(mock_survey, tmp_path_factory):
    "144 galaxies that the parent has not seen, at 0.7 of their levels; the first 60 have labels"
    folder = tmp_path_factory.mktemp("darker") / "darker"
    (folder / "images").mkdir(parents=True)
    part = mock_survey.select(np.arange(240) >= 96)
    for objID, image in zip(part.catalog["objID"], read_images(part.image_files)):
        Image.fromarray(np.rint(0.7 * image).astype("uint8")).save(folder / "images" / f"{objID}.png")
    catalog = part.catalog.assign(oh_p50=part.catalog["oh_p50"].where(np.arange(144) < 60, -9999))
    return write_survey(folder, catalog, {"source": "mock"})


@pytest.fixture(scope="module")
def child(parent, darker): return recalibrate(parent, darker, parent.path.with_name("child"))


def test_answers_lie_on_the_line_with_gaussian_processes_too(parent, child, darker):
    files = darker.image_files[60:80]
    before, after = parent.predict(files), child.predict(files)
    line = child.card["recalibration"]["lines"]["metallicity"]
    fitted = np.polyfit(before.mean[:, 0], after.mean[:, 0], 1)
    np.testing.assert_allclose(after.mean[:, 0], np.polyval(fitted, before.mean[:, 0]), atol=2e-6)
    assert abs(fitted[0] - line["slope"]) < 1e-3
    np.testing.assert_allclose(after.sigma, line["slope"] * before.sigma, rtol=1e-5)


def test_held_out_answers_do_not_know_their_own_label(parent, child, darker):
    galaxies = child.survey()
    assert len(galaxies) == 60 and len(child.card["survey"]["dropped"]) == 84
    true, fold = galaxies.target("metallicity"), child.split.network
    before, after = parent.predict(galaxies.image_files).mean[:, 0], child.predict(galaxies).mean[:, 0]
    method = child.card["recalibration"]["method"]
    for k in range(5):
        intercept, slope = fit_line(true[fold != k], before[fold != k], method)
        np.testing.assert_allclose(after[fold == k], intercept + slope * before[fold == k], atol=5e-6)
    rmse = child.card["recalibration"]["rmse"]["metallicity"]
    assert rmse[method] == min(rmse.values()) == child.card["headline"]["valid_rmse_metallicity"]
    assert abs(np.sqrt(np.mean((after - true) ** 2)) - rmse[method]) < 1e-5


def test_the_child_is_a_run_as_any_other(parent, child, darker, tmp_path):
    assert child.card["recalibration"]["parent"] == file_hash(parent.path / "model.json")
    assert predict(child, darker.path, tmp_path / "t.csv")["n"] == 144, "the new pictures are no shift to it"
    metrics = evaluate(child)
    assert metrics["n"] == 60 and ErrorModel.load(child.path).detector is not None, "144 pictures, labeled or not"
    assert metrics["targets"]["metallicity"]["cnn"]["rmse"]["value"] == pytest.approx(
        child.card["headline"]["valid_rmse_metallicity"], abs=1e-5)
    text = training_sentence(child, metrics)
    assert f"“{parent.card['survey']['name']}”" in text and "Recalibrated on 60 galaxies of darker" in text
    assert "galaxy-cnn recalibrate parent darker --method" in " ".join(commands(child, metrics))
    export_folder(child, tmp_path / "shared")
    shared = (tmp_path / "shared" / "README.md").read_text()
    assert "on 96 cutouts" in shared and "Recalibrated on 60" in shared
    assert "Pictures like those of “darker”, 128 x 128 px" in shared
    assert not re.search(r': "/', (tmp_path / "shared" / "model.json").read_text()), "no place on this machine"
    assert read_run(tmp_path / "shared").recalibrated == child.recalibrated


def test_fine_tuning_gives_a_run_of_five_folds(parent, darker, tmp_path, monkeypatch):
    monkeypatch.setattr("galaxy_cnn.recalibrate.train", partial(train, epochs=1))
    some = darker.select(np.arange(144) < 26)
    tuned = recalibrate(parent, some, tmp_path / "tuned", method="fine-tuning")
    assert len(tuned.networks) == 5 and tuned.gp and len(tuned.survey()) == 26
    errors = tuned.card["recalibration"]["rmse"]["metallicity"]
    assert set(errors) == {"nothing", "fine-tuning"} and "fine-tuned" in tuned.recalibrated
    assert ErrorModel.load(tuned.path).calibrations["metallicity"].n == 26


def test_what_stopped_the_fine_tuning_is_said(parent, darker, tmp_path, monkeypatch):
    def full(*args): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr("galaxy_cnn.recalibrate.train", partial(train, epochs=1))
    monkeypatch.setattr("galaxy_cnn.train._fit_network", full)
    with pytest.raises(Incomplete, match=r"\(No space left on device\)\. Fine-tuning was stopped and nothing was written") as error:
        recalibrate(parent, darker.select(np.arange(144) < 26), tmp_path / "tuned", method="fine-tuning")
    assert "resume" not in str(error.value) and not list(tmp_path.iterdir())


def test_cutouts_that_cannot_be_read_are_left_out_at_the_end_too(parent, darker, tmp_path):
    sky = read_survey(shutil.copytree(darker.path, tmp_path / "sky"))
    labeled, unlabeled = sky.image_files[0], sky.image_files[60:]
    for file in (labeled, unlabeled[0]): Path(file).write_bytes(b"no picture")
    Path(unlabeled[1]).unlink()
    Image.new("RGB", (64, 64)).save(unlabeled[2])
    with pytest.raises(InputError, match="1 x unreadable image"): recalibrate(parent, sky, tmp_path / "child", "offset")
    child = recalibrate(parent, sky, tmp_path / "child", "offset", drop_bad=True)
    assert child.card["recalibration"]["n"] == 59 and len(ErrorModel.load(child.path).detector.references) == 140


@pytest.mark.parametrize("n", [25, 60])
def test_intervals_of_few_galaxies_hold_on_average(n):
    rng = np.random.default_rng(0)
    held = []
    for seed in range(60):
        pred = rng.normal(8.9, 0.2, n + 500)
        true = pred + rng.normal(0, 0.1, n + 500)
        ends = fit_calibration(true[:n], pred[:n], seed=seed).interval(pred[n:])
        held.append(coverage(true[n:], *ends)["value"])
    assert 0.88 < np.mean(held) < 0.92 + 1.5 / n, "the fewer, the wider"


def test_wrong_input_ends_in_a_sentence_and_leaves_nothing(parent, darker, few, tmp_path):
    other = write_survey(tmp_path / "other", darker.catalog.drop(columns="oh_p50").assign(lgm_tot_p50=10.0), darker.info)
    unlabeled = darker.select(np.arange(144) >= 60)
    wrong = {
        "at least 25": (darker.select(np.arange(144) < 24), {}),
        "has 0 labeled galaxies (oh_p50)": (unlabeled, {}),
        "no column 'oh_p50'": (other, {}),
        "labeled galaxies (oh_p50), 93 of which": (few, {}),
        "no method 'best'": (darker, {"method": "best"}),
    }
    for text, (survey, options) in wrong.items():
        with pytest.raises(InputError) as error: recalibrate(parent, survey, tmp_path / "out", **options)
        assert text in str(error.value) and exit_code(error.value) == 2, error.value
    with pytest.raises(InputError, match="exists"): recalibrate(parent, darker, parent.path)
    assert {p.name for p in tmp_path.iterdir()} == {"other"}


def test_labels_on_another_scale_are_refused_or_converted(parent, darker, tmp_path):
    scaled = {**parent.card["survey"], "labels": {"metallicity": {"calibration": "T04"}}}
    known = Run(parent.path, {**parent.card, "survey": scaled})
    (tmp_path / "o3n2").mkdir()
    (tmp_path / "o3n2" / "images").symlink_to(darker.path / "images")
    catalog = darker.catalog.assign(oh_p50=darker.catalog["oh_p50"] - 0.25)
    catalog.loc[:58, "oh_p50"] = catalog["oh_p50"].clip(8.3, 8.8)
    catalog.loc[59, "oh_p50"] = 8.0  # beyond the conversion
    other = write_survey(tmp_path / "o3n2", catalog, {"source": "mock", "labels": {"oh_p50": {"calibration": "O3N2"}}})
    sentence = "o3n2 has metallicity on the scale O3N2, .* on T04: `galaxy-cnn train --scale T04` and `galaxy-cnn recalibrate --scale T04` convert labels"
    with pytest.raises(InputError, match=sentence): recalibrate(known, other, tmp_path / "out")
    with pytest.raises(InputError, match=sentence): train(other, tmp_path / "out", init=known, drop_bad=True, quiet=True)
    with pytest.raises(InputError, match="does not say on which scale"): recalibrate(known, darker, tmp_path / "out", scale="N2")
    child = recalibrate(known, other, tmp_path / "child", "offset", scale="T04")
    galaxies = child.survey()
    lost = "Labels outside the range of the conversion count as missing: 1 of oh_p50."
    assert len(galaxies) == 59 and child.recalibrated.endswith(lost)
    with pytest.raises(InputError, match=f"--drop-bad. {lost}"): train(other, tmp_path / "out", scale="T04", quiet=True)
    with pytest.raises(InputError, match=f"give more labels. {lost}"):
        recalibrate(known, other.select(np.arange(144) > 40), tmp_path / "out", scale="T04")
    as_given = catalog.set_index("objID")["oh_p50"][galaxies.catalog["objID"]]
    np.testing.assert_array_equal(galaxies.target("metallicity"), convert_oh(as_given, "O3N2", "T04"))
    assert child.scales["metallicity"]["calibration"] == "T04" and "--scale T04" in child.card["recalibration"]["command"]
    predict(child, darker.image_files[:5], tmp_path / "t.parquet")
    about = json.loads(pq.read_metadata(tmp_path / "t.parquet").metadata[LABELS_KEY.encode()])
    assert about["metallicity"]["calibration"] == "T04"


@pytest.mark.parametrize("server, catalog, named", [("SkyServer", None, True), ("SkyServer (mock)", None, False), ("", "own", False)])
def test_downloads_from_skyserver_name_the_scale_of_their_labels(server, catalog, named):
    settings = dict(base_url="https://skyserver.sdss.org", server=server, release="dr17", size=128, scale="r90", catalog=catalog,
                    cuts="z > 0", n=5)
    info = _info(settings, dict.fromkeys(("asked", "outcomes", "duplicates_dropped", "complete")))
    assert info.get("labels") == (SDSS_LABELS if named else None)
