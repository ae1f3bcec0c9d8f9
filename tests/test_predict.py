"Tables made in parts: the same as in one piece, whatever is killed; never of two models"
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from galaxy_cnn.files import Incomplete, InputError, read_json, write_json
from galaxy_cnn.predict import TablePredictor, find_images, predict, write_parts
from galaxy_cnn.run import read_run
from galaxy_cnn.survey import PackedCutouts, pack

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))


@pytest.fixture(scope="module")
def pictures(mock_survey, tmp_path_factory):
    "Paths of 120 pictures, two of which cannot be used"
    folder = tmp_path_factory.mktemp("bad")
    for name in ("torn.jpg", "empty.jpg"): (folder / name).write_bytes(b"")
    files = mock_survey.image_files[:118]
    return [*files[:20], str(folder / "torn.jpg"), *files[20:], str(folder / "empty.jpg")]


def test_killed_at_random_it_goes_on_and_ends_with_the_table_of_an_undisturbed_run(small_run, mock_survey, tmp_path):
    from kill_predict import PROCESSES, one_round, started
    PROCESSES.set_forkserver_preload(["galaxy_cnn.predict"])
    started(small_run.path, mock_survey.path, tmp_path / "table.parquet", 24).join()
    expected = pd.read_parquet(tmp_path / "table.parquet")
    assert len(expected) == 240 and [f.name for f in tmp_path.iterdir()] == ["table.parquet"]
    rng, kept = np.random.default_rng(0), 0
    for k in range(3):
        out = tmp_path / f"round{k}/table.parquet"
        out.parent.mkdir()
        delay = rng.uniform(0, 0.3)
        found = one_round(small_run.path, mock_survey.path, out, 24, 1 + 3 * k, delay, expected, True)
        kept += found["finished_parts"]
        assert found["identical"] and found["computed_again"] == 0 and not found["left_behind"], found
        assert found.get("other_option_refused", True)
    assert kept


@pytest.mark.parametrize("name", ["table.csv", "table.parquet"])
def test_a_table_of_parts_is_that_of_one_piece_and_a_bad_picture_costs_its_row(name, small_run, pictures, tmp_path):
    said, tables = [], []
    for folder, part in ((tmp_path / "one", 1000), (tmp_path / "parts", 50)):
        folder.mkdir()
        with pytest.raises(Incomplete, match="118 galaxies; 2 of 120 files") as error:
            predict(small_run, pictures, folder / name, tta=False, part=part)
        said.append(str(error.value).replace(str(folder), ""))
        assert sorted(f.name for f in folder.iterdir()) == sorted([name, "table.errors.csv"])
        read = pd.read_csv if name.endswith("csv") else pd.read_parquet
        tables.append((read(folder / name), pd.read_csv(folder / "table.errors.csv")))
    assert said[0] == said[1]
    for one, parts in zip(*tables): pd.testing.assert_frame_equal(one, parts, atol=1e-6, rtol=0)


def test_parts_of_another_model_are_refused_and_left_alone(small_run, pictures, tmp_path):
    out, folder = tmp_path / "table.csv", tmp_path / "table.csv.parts"
    write_parts(TablePredictor(small_run, tta=False), pictures[:60], folder, size=50)
    kept = {f: f.stat().st_mtime_ns for f in folder.iterdir()}
    with pytest.raises(InputError, match="another model, version or other options.*name another output"):
        predict(small_run, pictures, out, part=50)
    assert {f: f.stat().st_mtime_ns for f in folder.iterdir()} == kept and not out.exists()
    with pytest.raises(Incomplete): predict(small_run, pictures, out, tta=False, part=50)
    assert len(pd.read_csv(out)) == 118 and not folder.exists()


def test_parts_of_a_recalibrated_run_are_those_of_another_model(small_run, pictures, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(small_run.path, run)
    write_parts(TablePredictor(read_run(run), tta=False), pictures[:60], tmp_path / "t.csv.parts", size=50)
    write_json(run / "calibration.json", {**read_json(run / "calibration.json"), "notes": ["another"]})
    with pytest.raises(InputError, match="another model"): predict(run, pictures, tmp_path / "t.csv", tta=False, part=50)


def test_packed_surveys_named_in_a_list_are_not_read_before_they_are_asked_for(few, tmp_path):
    shutil.copytree(few.path, tmp_path / "sky", symlinks=True)
    pack(tmp_path / "sky")
    files, _ = find_images([few.image_files[5], tmp_path / "sky", tmp_path / "sky"])
    packed = files.parts[1]
    assert isinstance(packed, PackedCutouts) and packed.held == (None, None)
    names = [Path(f).name for f in few.image_files]
    assert [Path(f).name for f in files] == [names[5], *names, *names]
    assert [Path(f).name for f in files[95:99]] == [*names[94:96], *names[:2]]
    assert files[1].data == Path(few.image_files[0]).read_bytes()
