"A Run for people without this package: the file alone answers as the Run does"
import json
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("onnxscript", reason="export needs pip install 'galaxy_cnn[export]'")

from galaxy_cnn import export as export_module
from galaxy_cnn.cli import app
from galaxy_cnn.export import STRANGER, export, export_onnx, onnx_table
from galaxy_cnn.files import Incomplete, InputError
from galaxy_cnn.images import read_images
from galaxy_cnn.run import Run, read_run
from galaxy_cnn.survey import image_sources
from galaxy_cnn.uncertainty import ErrorModel


@pytest.fixture(scope="module")
def exported(small_run, tmp_path_factory):
    "A Run in both forms, made in a process of one thread, where the package's Mish takes its shortcut"
    out = tmp_path_factory.mktemp("export")
    code = "import sys, torch; torch.set_num_threads(1); from galaxy_cnn.export import export; export(*sys.argv[1:])"
    subprocess.run([sys.executable, "-c", code, small_run.path, out / "shared/own.onnx", out / "shared"], check=True, timeout=500)
    return out


def test_the_file_answers_at_every_batch_size_as_the_run_does(small_run, exported, mock_survey):
    images = read_images(image_sources(mock_survey)[:40])
    expected = small_run.predict(images).to_table(small_run.targets, ErrorModel.load(small_run.path))
    for n in (1, 3, 40):
        found = onnx_table(exported / "shared/own.onnx", images[:n])
        assert list(found) == [f"metallicity_{part}" for part in ("pred", "sigma", "lo90", "hi90")]
        difference = np.abs(found - expected[found.columns][:n]).max()
        assert difference["metallicity_pred"] < 5e-6 and difference.max() < 1e-4


def test_a_stranger_has_neither_torch_nor_this_package(small_run, exported, mock_survey, tmp_path):
    forbid = "import sys; sys.modules.update(torch=None, fastai=None, galaxy_cnn=None, pandas=None)\n"
    program = tmp_path / "stranger.py"
    program.write_text(forbid + STRANGER)
    files = image_sources(mock_survey)[:2]
    done = subprocess.run([sys.executable, program, exported / "shared/own.onnx", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == ["file", *map(str, files)] and len(STRANGER.splitlines()) <= 20
    assert np.allclose([float(row[1]) for row in rows[1:]], small_run.predict(read_images(files)).mean[:, 0], atol=2e-4)


def test_the_folder_is_a_run_and_reads_as_a_model_card(small_run, exported, mock_survey):
    yaml = pytest.importorskip("yaml")
    shared = read_run(exported / "shared")
    images = read_images(image_sources(mock_survey)[:4])
    assert np.array_equal(shared.predict(images).mean, small_run.predict(images).mean)
    assert ErrorModel.load(shared.path).calibrations.keys() == {"metallicity"}
    head, text = (exported / "shared/README.md").read_text().split("---\n")[1:]
    head = yaml.safe_load(head)
    assert head["license"] == "apache-2.0"
    metric = head["model-index"][0]["results"][0]["metrics"][0]
    assert metric["value"] == small_run.card["headline"]["valid_rmse_metallicity"]
    assert "must not be used" in text and "mock sky" in text
    written = "".join(f.read_text() for f in (exported / "shared").glob("*.*") if f.suffix in (".json", ".md", ".py"))
    assert str(small_run.path.parent) not in written and str(mock_survey.path.parent) not in written
    assert (exported / "shared/model.onnx").read_bytes() == (exported / "shared/own.onnx").read_bytes()
    config = json.loads((exported / "shared/config.json").read_text())
    assert all((exported / "shared" / file).is_file() for file in config["weights"])


def test_a_file_that_answers_otherwise_is_not_written(small_run, tmp_path, monkeypatch):
    write = export_module._write_onnx

    def wrong(predictor, width, file):
        predictor.networks[0].units.mean.add_(0.01)
        write(predictor, width, file)

    monkeypatch.setattr(export_module, "_write_onnx", wrong)
    with pytest.raises(Incomplete, match="was not written: its answers differ from the Run's by 0.0"):
        export_onnx(small_run, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_says_what_to_do(small_run, exported, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="--onnx FILE, --folder FOLDER"): export(small_run)
    with pytest.raises(InputError, match="must end in .onnx"): export(small_run, onnx=tmp_path / "model")
    with pytest.raises(InputError, match="name a new folder"): export(small_run, folder=exported / "shared")
    with_gp = Run(small_run.path, {**small_run.card, "gp": {}})
    with_gp.gp = {"share": 0.5}
    for folder in (None, tmp_path / "shared"):
        with pytest.raises(InputError, match="Gaussian process.*--init none"): export(with_gp, tmp_path / "m.onnx", folder)
    with monkeypatch.context() as at_once:
        at_once.setattr(export_module, "_write_onnx", None)
        with pytest.raises(InputError, match="name a new folder"): export(small_run, tmp_path / "m.onnx", exported / "shared")
    monkeypatch.setattr(export_module, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'galaxy_cnn\[export\]'"): export(small_run, onnx=tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_width_and_kind_of_the_pictures_are_the_runs_own(small_run):
    survey = {**small_run.card["survey"], "path": "/nowhere", "size": 160}
    run = Run(small_run.path, {**small_run.card, "survey": survey})
    assert export_module._pictures_to_compare(run).shape == (32, 160, 160, 3)
    assert "5.05 petroR90_r wide, 160 x 160 px" in export_module._model_card(run, None)
    survey.pop("size")
    assert export_module._pictures_to_compare(run).shape == (32, 128, 128, 3), "cards of before"


def test_a_model_card_speaks_of_what_its_run_predicts(small_run):
    of_mass = {**small_run.card, "targets": ["lgm_tot_p50"], "headline": {"valid_rmse_lgm_tot_p50": 0.1}}
    gas, mass = (export_module._model_card(Run(small_run.path, card), None) for card in (small_run.card, of_mass))
    assert "# metallicity from pictures of galaxies" in gas and "of star-forming galaxies" in gas and "star formation" in gas
    assert "# lgm_tot_p50 from pictures of galaxies" in mass and "metallicity" not in mass and "star" not in mass


def test_it_is_a_command(): assert "export" in {c.callback.__name__ for c in app.registered_commands}
