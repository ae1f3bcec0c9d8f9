"Predictions over a HATS catalog: never mixed, never twice, whole or absent, whatever is killed"
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

pytest.importorskip("lsdb", reason="HATS catalogs need pip install 'galaxy_cnn[scale]'")

from galaxy_cnn import scale
from galaxy_cnn.files import Incomplete, InputError, read_json, write_json
from galaxy_cnn.predict import prediction_fingerprint
from galaxy_cnn.run import read_run
from galaxy_cnn.scale import (
    _cluster,
    _devices,
    hats_to_survey,
    predict_frame,
    predict_hats,
    predict_partition,
    survey_to_hats,
)
from galaxy_cnn.survey import write_survey
from galaxy_cnn.uncertainty import ErrorModel


@pytest.fixture(scope="module")
def hats(mock_survey, tmp_path_factory):
    out = tmp_path_factory.mktemp("hats") / "hats"
    made = survey_to_hats(mock_survey, out, partition_mb=0.08)
    assert made["partitions"] >= 6
    return out


def partitions(catalog): return sorted(Path(catalog).glob("dataset/*/*/Npix*.parquet"))


def table(catalog): return pd.concat([pd.read_parquet(f) for f in partitions(catalog)]).sort_values("objID", ignore_index=True)


def predict_here(run, hats, out, fingerprint):
    "Every partition, in this process"
    found = [predict_partition(f, out / f.relative_to(hats), str(run.path), fingerprint) for f in partitions(hats)]
    return sum(f["computed"] for f in found)


def test_a_survey_keeps_every_value(mock_survey, hats):
    found = table(hats)
    expected = mock_survey.catalog.sort_values("objID", ignore_index=True)
    assert found["objID"].dtype == "int64" and found["specObjID"].dtype == "uint64"
    pd.testing.assert_frame_equal(found[list(expected)], expected)
    assert all(data == Path(mock_survey.image_path(i)).read_bytes() for i, data in zip(found["objID"], found["image"]))
    for file in partitions(hats): assert pq.read_schema(file).names[0] == "_healpix_29"


def test_killed_at_random_it_goes_on_and_equals_predict(small_run, hats, mock_survey, tmp_path):
    "The whole process group is killed, three times; what was finished is not touched again"
    out, args = tmp_path / "out", [str(small_run.path), str(hats)]
    code = ("import sys\nfrom galaxy_cnn.scale import predict_hats\n"
            "if __name__ == '__main__': print(predict_hats(*sys.argv[1:], workers=1)['computed'])")
    program = tmp_path / "program.py"
    program.write_text(code)
    finished, kills = {}, 0
    rng = np.random.default_rng(0)
    while True:
        process = subprocess.Popen([sys.executable, program, *args, out], start_new_session=True, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        if kills < 3:
            started, first = time.time(), len(partitions(out))
            while len(partitions(out)) == first and process.poll() is None and time.time() - started < 120: time.sleep(0.05)
            time.sleep(rng.uniform(0, 0.8))
            if process.poll() is None: os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            now = {f: f.stat().st_mtime_ns for f in partitions(out)}
            assert all(now[f] == t for f, t in finished.items()), "a finished partition was computed again"
            for f in now: pq.read_table(f)
            finished = now
            if len(now) < len(partitions(hats)): continue
        process.communicate(timeout=300)
        break
    last = predict_hats(small_run.path, hats, out, workers=1)
    assert all(f.stat().st_mtime_ns == t for f, t in finished.items())
    assert last["n"] == len(mock_survey) and last["computed"] <= len(partitions(hats)) - len(finished)
    found, order = table(out), np.argsort(mock_survey.catalog["objID"].to_numpy())
    expected = small_run.predict(mock_survey).to_table(small_run.targets, ErrorModel.load(small_run.path)).iloc[order].reset_index(drop=True)
    assert np.abs(found["metallicity_pred"] - expected["metallicity_pred"]).max() < 1e-6
    assert np.abs(found["metallicity_hi90"] - expected["metallicity_hi90"]).max() < 1e-5
    assert not list(out.rglob(".*")), "leftovers of a killed writer"


def test_the_command_says_its_sentence_and_nothing_of_its_libraries(small_run, hats, mock_survey, tmp_path):
    options = ["--out", tmp_path / "out", "--workers", "1", "--accept-shift"]
    command = [sys.executable, "-m", "galaxy_cnn", "predict", small_run.path, hats, *options]
    env = {key: value for key, value in os.environ.items() if key != "PYTHONWARNINGS"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"{len(mock_survey)} galaxies in {len(partitions(hats))} partitions" in done.stdout and "Warning" not in done.stderr


def test_two_models_are_never_mixed(small_run, hats, tmp_path):
    out, other = tmp_path / "out", tmp_path / "other"
    fingerprint = prediction_fingerprint(small_run.path)
    assert predict_here(small_run, hats, out, fingerprint) == len(partitions(hats))
    assert predict_here(small_run, hats, out, fingerprint) == 0
    shutil.copytree(small_run.path, other)
    write_json(other / "calibration.json", {**read_json(other / "calibration.json"), "notes": ["changed"]})
    changed = prediction_fingerprint(other)
    assert changed != fingerprint
    assert predict_here(read_run(other), hats, out, changed) == len(partitions(hats)), "files of another model were kept"
    with pytest.raises(InputError, match="another model, version or precision"):
        predict_frame(pd.DataFrame({"image": []}), str(other), fingerprint)


def test_a_finished_catalog_of_another_model_is_refused(small_run, hats, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    write_json(out / "galaxy_cnn.json", {"fingerprint": "0" * 64, "catalog": str(hats)})
    with pytest.raises(InputError, match="predictions of another model.*name another folder"):
        predict_hats(small_run.path, hats, out)
    assert [f.name for f in out.iterdir()] == ["galaxy_cnn.json"]


def test_a_changed_partition_is_computed_again(small_run, hats, tmp_path):
    source, out = tmp_path / "hats", tmp_path / "out"
    shutil.copytree(hats, source)
    fingerprint = prediction_fingerprint(small_run.path)
    predict_here(small_run, source, out, fingerprint)
    file = partitions(source)[0]
    data = pq.read_table(file)
    pq.write_table(data.slice(1), file)
    assert predict_here(small_run, source, out, fingerprint) == 1
    assert len(table(out)) == len(table(hats)) - 1


def test_a_bad_picture_costs_its_row(small_run, hats, tmp_path):
    file = tmp_path / "part.parquet"
    data = pd.read_parquet(partitions(hats)[0])
    data.loc[0, "image"] = b"\xff\xd8 not a picture"
    data.loc[1, "image"] = None
    data.to_parquet(file, index=False)
    found = predict_partition(file, tmp_path / "out.parquet", str(small_run.path), prediction_fingerprint(small_run.path), rows=3)
    assert found == {"n": len(data), "errors": 2, "computed": True}
    answers = pd.read_parquet(tmp_path / "out.parquet")
    assert (answers["objID"] == data["objID"]).all() and answers["metallicity_pred"].isna().sum() == 2
    assert answers["error"][1] == "no picture" and "JPEG" in answers["error"][0] and not answers["error"][2:].any()


def test_galaxies_in_a_wrong_cell_are_refused(small_run, hats, tmp_path):
    data = pd.read_parquet(partitions(hats)[0])
    data.assign(ra=(data["ra"] + 1) % 360).to_parquet(tmp_path / "part.parquet", index=False)
    with pytest.raises(InputError, match="_healpix_29 is not that of their ra and dec"):
        predict_partition(tmp_path / "part.parquet", tmp_path / "out.parquet", str(small_run.path), prediction_fingerprint(small_run.path))
    assert not (tmp_path / "out.parquet").exists()


def test_galaxies_that_are_nowhere_are_named(small_run, few, hats, tmp_path):
    lost = few.catalog.assign(dec=few.catalog["dec"].where(few.catalog.index != 7, np.nan))
    with pytest.raises(InputError, match=f"1 galaxies whose ra and dec .deg. are no position.*objID {lost['objID'][7]}"):
        survey_to_hats(replace(few, catalog=lost), tmp_path / "hats")
    assert not (tmp_path / "hats").exists()
    data = pd.read_parquet(partitions(hats)[0])
    data.assign(ra=data["ra"].where(data.index != 2)).to_parquet(tmp_path / "part.parquet", index=False)
    with pytest.raises(InputError, match=f"no position.*objID {data['objID'][2]}"):
        predict_partition(tmp_path / "part.parquet", tmp_path / "out.parquet", str(small_run.path), prediction_fingerprint(small_run.path))


@pytest.fixture
def here(monkeypatch):
    "Dask's worker is a thread of this process"
    from distributed import Client
    def engine(*_): return Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None)
    monkeypatch.setattr(scale, "_engine", engine)


def test_a_column_that_all_partitions_lack_is_wrong_input(small_run, hats, tmp_path, here):
    shutil.copytree(hats, tmp_path / "theirs")
    for file in partitions(tmp_path / "theirs"): pq.write_table(pq.read_table(file).drop_columns("image"), file)
    with pytest.raises(InputError, match="has no column image: needed are"): predict_hats(small_run.path, tmp_path / "theirs", tmp_path / "out")
    with pytest.raises(InputError, match="has no column image: needed are objID, image"): hats_to_survey(tmp_path / "theirs", tmp_path / "back")
    assert not (tmp_path / "back").exists()
    for file in partitions(tmp_path / "theirs"): file.write_bytes(b"PAR1")
    with pytest.raises(InputError, match="no Parquet file, or not a whole one"): hats_to_survey(tmp_path / "theirs", tmp_path / "back")


def test_every_worker_takes_the_batch_that_is_asked_for(small_run, hats, tmp_path, here, monkeypatch):
    asked, loaded = set(), scale._loaded
    monkeypatch.setattr(scale, "_loaded", lambda *args: asked.add(args[2:]) or loaded(*args))
    done = predict_hats(small_run.path, hats, tmp_path / "out", tta=False, bs=7)
    assert asked == {(False, 7)} and done["errors"] == 0


def with_bands_reversed(data):
    "PNG of a picture whose channels are in reverse order"
    file = io.BytesIO()
    Image.fromarray(np.array(Image.open(io.BytesIO(data)))[..., ::-1]).save(file, "PNG")
    return file.getvalue()


def test_what_is_left_undone_is_said_and_so_is_another_population_by_a_call_that_goes_on(small_run, hats, tmp_path):
    source, out = tmp_path / "hats", tmp_path / "out"
    shutil.copytree(hats, source)
    for file in partitions(source):
        data = pd.read_parquet(file)
        data.assign(image=[with_bands_reversed(d) for d in data["image"]]).to_parquet(file, index=False)
    broken = partitions(source)[1]
    whole = broken.read_bytes()
    broken.write_bytes(whole[:500])
    with pytest.raises(Incomplete, match=f"1 of {len(partitions(hats))} partitions"):
        predict_hats(small_run.path, source, out, workers=1)
    times = {f: f.stat().st_mtime_ns for f in partitions(out)}
    assert len(times) == len(partitions(hats)) - 1
    assert not (out / "partition_info.csv").exists(), "an unfinished catalog must not look like one"
    broken.write_bytes(whole)
    with pytest.raises(Incomplete, match="240 galaxies.*no sample of the population.*reverse order.*--accept-shift"):
        predict_hats(small_run.path, source, out, workers=1)
    assert all(f.stat().st_mtime_ns == t for f, t in times.items()), "a finished partition was computed again"
    assert len(table(out)) == 240 and "reverse order" in (out / "hats.properties").read_text()


def test_without_the_extra_there_is_one_sentence(monkeypatch, mock_survey, tmp_path):
    monkeypatch.setattr("galaxy_cnn.scale.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'galaxy_cnn\[scale\]'"): survey_to_hats(mock_survey, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_missing_ids_empty_columns_and_a_column_called_image_come_back_as_they_were(few, tmp_path):
    n, sky = len(few), tmp_path / "sky"
    rows = np.arange(n)
    ids = pd.array(2**63 + 2 * rows.astype("uint64") + 1, dtype="UInt64")
    ids[::3] = pd.NA
    notes = pd.array([None] * (n - 1) + ["the only one"], dtype="str")
    own = {"specObjID": ids, "parent": pd.array(-2**62 - rows, dtype="Int64"), "note": notes, "image": "mine"}
    sky.mkdir()
    (sky / "images").symlink_to(few.path / "images")
    said = {"credit": 'D\u00fcrer, "Melencolia I" #1!', "url": "https://a.b/?c=d", "folder": "C\\:d\\=e\n"}
    survey = write_survey(sky, few.catalog.assign(**own), few.info | said)
    assert survey_to_hats(survey, tmp_path / "hats", 0.05)["partitions"] >= 4
    assert len({str(pq.read_schema(f).remove_metadata()) for f in partitions(tmp_path / "hats")}) == 1
    back = hats_to_survey(tmp_path / "hats", tmp_path / "back")
    assert {key: back.info[key] for key in said} == said
    found = back.catalog.sort_values("objID", ignore_index=True)
    expected = survey.catalog.rename(columns={"image": "catalog_image"}).sort_values("objID", ignore_index=True)
    pd.testing.assert_frame_equal(found, expected)


def test_a_survey_cut_short_is_finished_and_never_mixed_with_another(hats, mock_survey, tmp_path, monkeypatch):
    out = tmp_path / "back"
    def stop(path, parts, info): raise KeyboardInterrupt
    monkeypatch.setattr("galaxy_cnn.scale.write_survey_parts", stop)
    with pytest.raises(KeyboardInterrupt): hats_to_survey(hats, out)
    monkeypatch.undo()
    kept, gone, *_ = sorted((out / "images").iterdir())
    gone.rename(out / "images" / f".{gone.stem}-half_one.partial.jpg")
    before = kept.stat().st_mtime_ns
    shutil.copytree(hats, tmp_path / "other")
    with pytest.raises(InputError, match="another HATS catalog: name another folder"): hats_to_survey(tmp_path / "other", out)
    back = hats_to_survey(hats, out)
    assert kept.stat().st_mtime_ns == before and gone.is_file() and not list(out.rglob(".*-*"))
    assert len(back) == len(mock_survey) and not (out / "galaxy_cnn.json").exists()


@pytest.mark.parametrize("groups", [64, 10_000])
def test_a_large_partition_is_not_held_in_memory(tmp_path, groups):
    from galaxy_cnn.scale import _stream
    file, picture = tmp_path / "part.parquet", np.random.default_rng(0).bytes(4096)
    table = pa.table({"objID": np.arange(10_000), "image": pa.array([picture] * 10_000, pa.binary())})
    pq.write_table(table, file, row_group_size=groups, use_dictionary=False, compression="none")
    del table
    before, most, n = pa.total_allocated_bytes(), 0, 0
    for batch in _stream(file, 64, ["objID", "image"]):
        most, n = max(most, pa.total_allocated_bytes() - before), n + len(batch)
    assert n == 10_000 and most < file.stat().st_size / 5


def test_a_partition_without_rows_gives_one(small_run, hats, tmp_path):
    pq.write_table(pq.read_table(partitions(hats)[0]).slice(0, 0), tmp_path / "part.parquet")
    fingerprint = prediction_fingerprint(small_run.path)
    found = predict_partition(tmp_path / "part.parquet", tmp_path / "out.parquet", str(small_run.path), fingerprint)
    assert found == {"n": 0, "errors": 0, "computed": True}
    assert "metallicity_pred" in pd.read_parquet(tmp_path / "out.parquet")


def test_a_collection_that_lsdb_wrote_gives_the_same_predictions_and_none_for_its_margin(small_run, hats, mock_survey, tmp_path):
    import lsdb
    frame = table(hats)[["objID", "ra", "dec", "image"]].head(60)
    catalog = lsdb.from_dataframe(frame, partition_rows=30, margin_threshold=7200)
    catalog.write_catalog(tmp_path / "theirs", catalog_name="galaxies", progress_bar=False)
    theirs, margin = partitions(tmp_path / "theirs" / "galaxies"), tmp_path.glob("theirs/*/dataset/*/*/Npix*")
    assert len(list(margin)) > len(theirs), "there must be a margin to leave out"
    done = predict_hats(small_run.path, tmp_path / "theirs", tmp_path / "out", workers=1)
    found = table(tmp_path / "out")
    expected = small_run.predict([mock_survey.image_path(i) for i in found["objID"]]).mean[:, 0]
    assert done["n"] == len(found) == 60 and np.abs(found["metallicity_pred"] - expected).max() < 1e-6


def test_a_worker_that_is_killed_again_while_it_starts_comes_back():
    from galaxy_cnn.scale import _engine
    def workers():
        server, = [p for p in psutil.Process().children() if "forkserver" in " ".join(p.cmdline())]
        return [p for p in server.children() if p.status() != psutil.STATUS_ZOMBIE]
    with _engine(None, 1) as client:
        first = psutil.Process(client.submit(os.getpid).result())
        tasks = [client.submit(time.sleep, 0.1, pure=False) for _ in range(10)]
        before = workers()
        first.kill()
        until = time.monotonic() + 60
        while not (new := [p for p in workers() if p not in before]) and time.monotonic() < until: time.sleep(0.05)
        time.sleep(1)
        new[0].kill()
        for task in tasks: task.result(timeout=90)


@pytest.mark.parametrize("named, n, found", [
    (None, 2, ["0", "1"]), ("3,GPU-5e1f", 2, ["3", "GPU-5e1f"]), ("-1", 0, []), ("", 0, []), ("2,-1,1", 1, ["2"])])
def test_devices_are_those_that_cuda_has(monkeypatch, named, n, found):
    monkeypatch.setattr("torch.cuda.device_count", lambda: n)
    if named is None: monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else: monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert _devices() == found


def test_a_worker_that_ends_while_it_starts_is_a_sentence():
    import dask
    with dask.config.set({"distributed.worker.preload": ["no_such_module"]}):
        with pytest.raises(Incomplete, match="A worker ended while it started .*: the same command begins anew"): _cluster([], 1)


def test_each_worker_sees_a_gpu_of_its_own():
    from distributed import Client
    with _cluster(["3", "GPU-5e1f"]) as cluster, Client(cluster) as client:
        assert sorted(client.run(os.getenv, "CUDA_VISIBLE_DEVICES").values()) == ["3", "GPU-5e1f"]
