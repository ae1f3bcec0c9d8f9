"""A Survey as its owner has it: tables of every program, codes for missing values, folders in folders, columns with our names, a full disk."""
import re
import resource
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import QTable, Table
from fastcore.test import test_fail as raises
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from galaxy_cnn.catalogs import check_ids, read_catalog
from galaxy_cnn.evaluate import evaluate
from galaxy_cnn.files import Incomplete, InputError
from galaxy_cnn.images import read_image
from galaxy_cnn.mzr import mzr
from galaxy_cnn.predict import predict
from galaxy_cnn.report import report
from galaxy_cnn.splits import same_galaxies
from galaxy_cnn.survey import Survey, impossible_values, pack, read_survey, validate, write_survey
from galaxy_cnn.train import _load_labeled, train

IDS = 1237648704043942146 + np.arange(20) * 65537 * 3
OH = np.random.default_rng(5).normal(8.9, 0.2, 20).round(4)
TINY = dict(arch="xresnet_tiny", epochs=1, init="none", folds=2, device="cpu", quiet=True)


def read(folder): return read_catalog(folder)[0]


def table(**columns): return pd.DataFrame({"objID": IDS, "oh_p50": OH, **columns})


def copied(few, folder, **columns):
    "A copy of a Survey, with other columns"
    shutil.copytree(few.path / "images", folder / "images", ignore=lambda _, names: set(names) - {f"{i}.jpg" for i in few.catalog.objID})
    return write_survey(folder, few.catalog.assign(**columns), few.info)


# --- tables

def test_several_numbers_in_a_cell_stay_together(tmp_path):
    flux, cube = np.arange(100.0).reshape(20, 5), np.arange(240.0).reshape(20, 3, 4)
    for kind in ("fits", "votable", "ascii.ecsv"):
        folder = tmp_path / kind
        folder.mkdir()
        ending = {"fits": "fits", "votable": "vot"}.get(kind, "ecsv")
        Table({"objID": IDS[:, None] if kind == "fits" else IDS, "oh_p50": OH, "flux": flux, "cube": cube}).write(folder / f"catalog.{ending}", format=kind)
        found = read(folder)
        assert found["objID"].tolist() == IDS.tolist() and np.array_equal(np.stack(found["flux"]), flux)
        assert np.array_equal(np.stack(found["cube"]), cube.reshape(20, 12))
        assert np.array_equal(np.stack(pd.read_parquet(pack(folder))["flux"]), flux)
        raises(lambda: read_survey(folder).target("flux"), contains="flux is array", exc=InputError)


@pytest.mark.parametrize("unit, factor", [("hourangle", 15), ("rad", 180 / np.pi), ("deg", 1)])
@pytest.mark.parametrize("kind, ending", [("votable", "vot"), ("ascii.ecsv", "ecsv")])
def test_coordinates_in_any_unit_are_degrees(unit, factor, kind, ending, tmp_path):
    QTable({"objID": IDS, "RA": np.linspace(0.1, 3, 20) * u.Unit(unit), "DEC": np.linspace(-1, 1, 20) * u.deg}).write(tmp_path / f"catalog.{ending}", format=kind)
    np.testing.assert_allclose(read(tmp_path)["ra"], np.linspace(0.1, 3, 20) * factor)


def test_the_table_with_ids_is_read_and_two_such_are_refused(tmp_path):
    other, galaxies = fits.table_to_hdu(Table({"quality": [1, 2]})), fits.table_to_hdu(Table({"objID": IDS}))
    fits.HDUList([fits.PrimaryHDU(), other, galaxies]).writeto(tmp_path / "catalog.fits")
    assert read(tmp_path)["objID"].tolist() == IDS.tolist()
    fits.HDUList([fits.PrimaryHDU(), galaxies.copy(), galaxies.copy()]).writeto(tmp_path / "catalog.fits", overwrite=True)
    raises(lambda: read(tmp_path), contains="2 of its tables have a column objID", exc=InputError)


ARROW = {
    "large_string": lambda ids: ids.cast(pa.large_string()), "string_view": lambda ids: ids.cast(pa.string_view()),
    "dictionary": lambda ids: ids.dictionary_encode(), "decimal": lambda ids: ids.cast(pa.decimal128(25, 2)),
    "uint64": lambda ids: ids.cast(pa.uint64()), "binary": lambda ids: ids.cast(pa.binary()),
}


@pytest.mark.parametrize("kind", ARROW)
def test_ids_of_polars_and_duckdb_are_exact(kind, tmp_path):
    ids = ARROW[kind](pa.array([str(i) for i in IDS]))
    pq.write_table(pa.table({"OBJID": ids, "oh_p50": OH}), tmp_path / "catalog.parquet", compression="zstd")
    assert read(tmp_path)["objID"].tolist() == IDS.tolist()


@pytest.mark.parametrize("text, words", [
    ("objID\n1 237 648 704 043 942 146\n", "separators"), ("objID\nSDSS J1\n", "every row needs its id"), ("objID\n-9999\n", "missing one"),
    ("objID,OBJID\n1,2\n", "more than one column objID (objID, OBJID)"), ("objid,OBJID\n1,2\n", "more than one column objID"),
    ("objID,RA,DEC\n1,10:00:00,1:0:0\n2,10:00:01,1:0:0\n3,?,1:0:0\n", "row 3: ra is '?'"),
    ("objID\n1\0\n", "is zero"), ("objID,oh_p50\n1,8,7\n", "save the table again"),
])
def test_what_is_wrong_is_named(text, words, tmp_path):
    (tmp_path / "catalog.csv").write_text(text)
    if words.startswith("more than one column objID (objID"): assert list(read(tmp_path)) == ["objID", "OBJID"]
    else: raises(lambda: read(tmp_path), contains=words, exc=InputError)


@pytest.mark.parametrize("text", [
    "# select objID, oh_p50 from mine\nobjID,oh_p50\n7,8.5\n", "# %ECSV 1.0\n# - {name: objID, datatype: int64}\nobjID oh_p50\n7 8.5\n",
    "objID,oh_p50\r7,8.5\r", "objID,oh_p50\n7.0,8.5\n", "# made on Monday\n# objID oh_p50\n7 8.5\n",
])
def test_comments_old_ends_of_lines_and_small_floats_are_read(text, tmp_path):
    (tmp_path / "catalog.csv").write_bytes(text.encode())
    assert read(tmp_path)[["objID", "oh_p50"]].values.tolist() == [[7, 8.5]]


@pytest.mark.parametrize("ra, dec", [("TARGET_RA", "TARGET_DEC"), ("ra_1", "dec_1"), ("_RA", "_DE"), ("ALPHAWIN_J2000", "DELTAWIN_J2000"), ("RA_ICRS", "DE_ICRS")])
def test_coordinates_under_more_names(ra, dec, tmp_path):
    table(**{ra: np.linspace(-170, 170, 20), dec: 1.5}).to_csv(tmp_path / "catalog.csv", index=False)
    np.testing.assert_allclose(read(tmp_path)["ra"], np.linspace(-170, 170, 20) % 360)


def test_columns_that_are_no_coordinates_stay_what_they_are(tmp_path):
    table(pmra=1.0, pmdec=2.0, ra_err=0.1, dec_err=0.1, rad=3.0, decade=1.0).to_csv(tmp_path / "catalog.csv", index=False)
    assert not {"ra", "dec"} & set(read(tmp_path))


def test_a_folder_is_no_catalog_and_a_table_beside_it_is_named(few, tmp_path, capsys):
    (tmp_path / "catalog.parquet").mkdir()
    raises(lambda: read(tmp_path), contains="catalog.parquet is a folder: save it as catalog.csv", exc=FileNotFoundError)
    sky = copied(few, tmp_path / "sky")
    (tmp_path / "sky" / "catalog.xlsx").touch()
    train(sky, tmp_path / "run", **{**TINY, "quiet": False}, calibrate=False)
    assert "holds catalog.xlsx, too, which is not read: catalog.parquet is." in capsys.readouterr().out


# --- the property

KINDS = {
    "int64": lambda ids: np.array(ids, "int64"), "text": lambda ids: [str(i) for i in ids], "blanks": lambda ids: [f" {i} " for i in ids],
    "float": lambda ids: np.array(ids, "float64"), "exponent": lambda ids: [f"{i:.14E}" for i in ids], "apostrophe": lambda ids: [f"'{i}" for i in ids],
    "first missing": lambda ids: pd.array([None, *ids[1:]], dtype="Int64"), "spreadsheet": lambda ids: [float(f"{i:.14e}") for i in ids],
}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 2**62), min_size=3, max_size=6, unique=True), st.sampled_from(sorted(KINDS)),
       st.sampled_from(["csv", "parquet", "fits", "vot", "ecsv"]), st.sampled_from(["objID", "OBJID", "objid"]),
       st.lists(st.sampled_from([8.5, np.nan, -9999.0, -99.9, 1e20]), min_size=6, max_size=6))
def test_every_format_keeps_ids_and_labels_or_says_one_sentence(tmp_path, ids, kind, ending, name, labels):
    for old in tmp_path.iterdir(): old.unlink()
    made = pd.DataFrame({name: KINDS[kind](ids), "oh_p50": labels[:len(ids)]})
    file = tmp_path / f"catalog.{ending}"
    if ending == "csv": made.to_csv(file, index=False)
    elif ending == "parquet": made.to_parquet(file)
    else: Table.from_pandas(made).write(file, format={"fits": "fits", "vot": "votable", "ecsv": "ascii.ecsv"}[ending])
    try: found = read(tmp_path)
    except InputError as e:
        assert "\n" not in str(e)
        assert kind not in ("int64", "text", "blanks") or "is a multiple" in str(e) or "digits" in str(e) or "JavaScript" in str(e)
        return
    assert found["objID"].tolist() == ids
    assert np.array_equal(found["oh_p50"], np.array(labels[:len(ids)], "float32"), equal_nan=True)


# --- values that no galaxy has

@pytest.mark.parametrize("codes", [[-99.0, -999.0], [-99.0, 99.0], [-77.0] * 3 + [-99.9], [999999.0], [-1.0, 1e20], [0.0]])
@pytest.mark.parametrize("column", ["Zgas", "lgm_tot_p50"])
def test_all_codes_of_a_column_are_found_at_once(column, codes):
    good = np.random.default_rng(0).normal(9.5, 0.3, 200)
    values = np.r_[good, codes]
    wrong = np.any([rows for _, rows in impossible_values(column, values)], axis=0)
    assert np.flatnonzero(wrong).tolist() == list(range(200, len(values)))


def test_honest_columns_raise_no_alarm():
    rng = np.random.default_rng(0)
    for values in (rng.poisson(5, 300), rng.normal(0, 1, 300), rng.exponential(1, 300), rng.normal(0, 1, 300).round(1), np.r_[np.zeros(50), rng.uniform(0, 9, 300)],
                   rng.standard_cauchy(300), rng.integers(-20, 120, 300)):
        assert list(impossible_values("thing", values.astype(float))) == []


# --- pictures

def test_pictures_in_sub_folders_are_read(few, tmp_path):
    sky = copied(few, tmp_path / "sky")
    images, ids = sky.path / "images", few.catalog.objID.tolist()
    want = read_image(images / f"{ids[1]}.jpg")
    for k, place in enumerate(("plate 266/a", "plate 267", "plate 268")):
        (images / place).mkdir(parents=True)
        (images / f"{ids[k]}.jpg").rename(images / place / f"{ids[k]}{('.jpg', '.JPG', '.jpeg')[k]}")
    (images / "plate 267" / f"._{ids[0]}.jpg").touch()
    sky = read_survey(sky.path)
    assert validate(sky) == [] and str(sky.image_path(ids[1])) == sky.image_files[1] == str(images / "plate 267" / f"{ids[1]}.JPG")
    assert np.array_equal(read_image(sky.image_files[1]), want)
    assert _load_labeled(sky, ("metallicity",))[1].shape[0] == len(few)
    shutil.copy(sky.image_files[1], images / "plate 266" / f"{ids[1]}.jpg")
    raises(lambda: read_survey(sky.path).image_files, contains=f"are both called {ids[1]}: keep one", exc=InputError)


def test_pictures_prove_ids_in_sub_folders_too(tmp_path):
    rounded = [int(float(i)) for i in IDS]
    raises(lambda: check_ids(rounded, tmp_path / "catalog.csv"), contains="multiple of 256", exc=InputError)
    (tmp_path / "images" / "a").mkdir(parents=True)
    for i in rounded: (tmp_path / "images" / "a" / f"{i}.png").touch()
    check_ids(rounded, tmp_path / "catalog.csv")


def test_ids_that_differ_in_dr7s_firstfield_are_one_galaxy():
    ids = [588015508746076304, 588015508746076304 + 2**28, 588015508746076305, 5, 5 + 2**28]
    assert same_galaxies(pd.DataFrame({"objID": ids})) == [ids[:2]]


# --- trainings

def test_a_full_disk_is_one_sentence_and_the_training_goes_on_later(few, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(Incomplete) as e: train(few, tmp_path / "run", **TINY, calibrate=False)
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "could not be written (File too large). No epoch was completed" in str(e.value) and "\n" not in str(e.value)
    assert len(train(few, tmp_path / "run", **TINY, calibrate=False, resume=True).networks) == 2


def test_too_few_cells_for_the_folds_are_found_before_the_first_step(few, tmp_path):
    field = copied(few, tmp_path / "sky", ra=149.0 + 3 * (np.arange(96) % 6) + np.arange(96) / 100, dec=2.2)
    options = {**TINY, "folds": 5}
    with pytest.raises(InputError) as e: train(field, tmp_path / "run", **options)
    assert "in 8 cells of the sky: `train --folds 4` or `train --split-by random`." in str(e.value) and not (tmp_path / "run").exists()
    for name, remedy in (("folds", {"folds": 4}), ("random", {"split_by": "random"})):
        train(field, tmp_path / name, **{**options, **remedy}, calibrate=False)
    same = replace(field, catalog=field.catalog.assign(oh_p50=8.7))
    raises(lambda: train(same, tmp_path / "same", **TINY), contains="have the same metallicity", exc=InputError)


ODD = "12+log(O/H) [dex] λ 5007.txt"


def test_columns_with_our_names_and_targets_of_any_name_go_the_whole_way(few, tmp_path):
    "train, evaluate, mzr, report, predict and explain of one Survey"
    names = dict(split="train", image="a.jpg", file="b", flag=1, fold=2, path="c", network=0, index=5, metallicity_pred=8.0, n=1, true=3.0)
    sky = copied(few, tmp_path / "a sky (é)", **names, **{ODD: few.catalog["oh_p50"] + 0.1})
    run = train(sky.path, tmp_path / "a run, é", targets=("metallicity", ODD), **TINY)
    assert set(evaluate(run)["targets"]) == {"metallicity", ODD}
    found = pd.read_parquet(run.path / "predictions.parquet")
    assert found.columns.is_unique and set(found["split"]) <= {"fold0", "fold1", "buffer"} and (found["catalog_split"] == "train").all()
    assert "fixed_mass" in mzr(run) or "reason" in mzr(run)
    assert report(run).stat().st_size > 10_000
    assert predict(run, sky.path, tmp_path / "t é.csv")["n"] == 96
    assert {f"{ODD}_pred", "metallicity_pred", "objID"} <= set(pd.read_csv(tmp_path / "t é.csv"))
    pytest.importorskip("captum")
    from galaxy_cnn.explain import explain
    explain(run, None, tmp_path / "explained", 12, target=ODD, draws=1)
    assert not re.search("Traceback", str(sorted(tmp_path.rglob("*"))))


# --- nothing that was right is refused

def test_a_casjobs_export_is_accepted(tmp_path):
    head = "#Table1\nobjid,specObjID,ra,dec,Z,oh_p50,lgm_tot_p50\n"
    rows = "".join(f"{i},{299489677444933632 + k}, {150 + k / 10},{2 - k / 10},0.08,{z},10.{k}\n" for k, (i, z) in enumerate(zip(IDS, OH)))
    (tmp_path / "catalog.csv").write_text(head + rows)
    sky = read_survey(tmp_path)
    assert sky.catalog["objID"].tolist() == IDS.tolist() and sky.catalog["specObjID"].dtype == "uint64" and sky.has("ra", "dec")
    assert validate(sky, ("metallicity", "log_mass"), images=False) == []


def test_the_mock_and_the_real_samples_are_accepted(mock_survey, real):
    assert validate(read_survey(mock_survey.path), ("metallicity", "log_mass", "log_sfr"), images=False) == []
    assert validate(read_survey(real / "sdss_sample"), images=False) == [] and len(read_survey(real / "sdss_spirals")) == 2000
    assert isinstance(read_survey(real / "sdss_spirals"), Survey)
