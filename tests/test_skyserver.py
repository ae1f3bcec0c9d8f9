"""The protocol, both ends: the local server as other clients see it, and the table parser fed with anything at all."""
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galaxy_cnn.images import decode
from galaxy_cnn.local_server import SqlService, emulate_query_rules, serve
from galaxy_cnn.providers import CutoutRequest, cutout_scale
from galaxy_cnn.skyserver import (
    Client,
    Limiter,
    QueryRefused,
    RequestPolicy,
    RequestRefused,
    TableError,
    clean_sql,
    format_header,
    format_rows,
    get_cutout,
    get_table,
    parse_table,
)
from galaxy_cnn.survey import Survey, read_survey

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from skies import make_sky


@pytest.fixture(scope="module")
def sky(tmp_path_factory): return make_sky(tmp_path_factory.mktemp("sky") / "sky", 30)


@pytest.fixture(scope="module")
def server(sky):
    with serve(sky, queries=10**6) as server: yield server


def key_of(survey, row):
    "The path of the stored cutout of one galaxy"
    galaxy = survey.catalog.iloc[row]
    scale = float(cutout_scale("r90", galaxy.petroR90_r, survey.size))
    return CutoutRequest(galaxy.ra, galaxy.dec, scale, survey.size).key


# ---- other clients

def test_five_lines_of_urllib_get_the_stored_bytes(sky, server):
    for row in range(len(sky)):
        with urlopen(f"{server.url}/{key_of(sky, row)}") as answer:
            assert answer.headers["Content-Type"] == "image/jpeg"
            assert answer.read() == Path(sky.image_files[row]).read_bytes()


def test_curl_gets_the_stored_bytes_and_the_table(sky, server, tmp_path):
    if shutil.which("curl") is None: pytest.skip("curl is not installed")
    for row in range(5):
        command = ["curl", "-sSf", "-o", tmp_path / "x.jpg", f"{server.url}/{key_of(sky, row)}"]
        subprocess.run(command, check=True, timeout=20)
        assert (tmp_path / "x.jpg").read_bytes() == Path(sky.image_files[row]).read_bytes()
    url = f"{server.url}/dr17/SkyServerWS/SearchTools/SqlSearch"
    query = "cmd=SELECT TOP 2 objID, ra FROM Galaxy ORDER BY objID"
    command = ["curl", "-sSfG", "--data-urlencode", query, "-d", "format=csv", url]
    out = subprocess.run(command, check=True, capture_output=True, timeout=20).stdout
    assert out.startswith(b"#Table1\nobjID,ra\n")
    assert parse_table(out).objID.tolist() == sorted(sky.catalog.objID)[:2]


@pytest.mark.parametrize("path", [
    "dr17/SkyServerWS/ImgCutout/getjpeg",
    "dr18/SkyserverWS/ImgCutout/getJpeg",
    "DR12/skyserverws/imgcutout/GETJPEG",
])
def test_paths_in_any_case_and_of_any_release(sky, server, path):
    query = key_of(sky, 3).partition("?")[2]
    assert urlopen(f"{server.url}/{path}?{query}").read() == Path(sky.image_files[3]).read_bytes()


# ---- the server's own shapes

def answer_of(url):
    "Status, reason, body: of errors too"
    try:
        with urlopen(url) as r: return r.status, r.reason, r.read()
    except HTTPError as e: return e.code, e.reason, e.read()


def sql(server, query, **more):
    "Answer to a query"
    parameters = urlencode({"cmd": query, **more})
    return answer_of(f"{server.url}/dr17/SkyServerWS/SearchTools/SqlSearch?{parameters}")


def test_sizes_are_clamped_in_silence(sky, server):
    path = key_of(sky, 0).replace("width=128", "width=8").replace("height=128", "height=5000")
    assert decode(answer_of(f"{server.url}/{path}")[2]).shape == (2048, 64, 3)


def test_outside_the_footprint_is_a_404_with_a_black_jpeg(server):
    status, reason, body = answer_of(f"{server.url}/{CutoutRequest(10.0, 89.5, 0.4).key}")
    assert status == 404 and "outside the SDSS footprint" in reason
    assert (decode(body) < 30).all(-1).mean() > 0.8


@pytest.mark.parametrize("query", [
    "ra=x&dec=0", "dec=0", "ra=0&dec=91", "ra=nan&dec=0", "ra=0&dec=0&scale=x", "ra=0&dec=0&width=1.5"])
def test_bad_parameters_are_400_json(server, query):
    status, _, body = answer_of(f"{server.url}/dr17/SkyServerWS/ImgCutout/getjpeg?{query}")
    assert status == 400 and json.loads(body)["ErrorType"] == "BadRequest"


def test_json_is_the_default_and_has_bare_ids(sky, server):
    status, _, body = sql(server, "SELECT TOP 1 objID, specObjID FROM Galaxy ORDER BY objID")
    assert status == 200 and f'"objID": {sky.catalog.objID.min()}' in body.decode()


@pytest.mark.parametrize(("query", "status", "words"), [
    ("SELECT * INTO mydb.x FROM Galaxy", 500, "permission"),
    ("SELECT TOP 5 ra FROM Galaxy ORDER BY ra OFFSET 5 ROWS", 500, "OFFSET"),
    ("SELECT ra FROM Galaxy; DROP TABLE Galaxy", 500, "Incorrect syntax near '#'"),
    ("SELECT ra FROM Galaxy SELECT 1", 500, "Incorrect syntax"),
    ("SELECT color FROM Galaxy", 500, "Invalid column name 'color'"),
    ("SELECT ra FROM Stars", 500, "Invalid object name 'Stars'"),
    ("UPDATE Galaxy SET ra = 0", 200, "error: must be a select statement"),
    ("SELECT TOP 500001 ra FROM Galaxy", 200, "error: limit is"),
    ("SELECT " + "ra, " * 4000 + "dec FROM Galaxy", 414, "Too Long"),
])
def test_refusals_have_the_service_s_shapes(server, query, status, words):
    got, _, body = sql(server, query, format="csv")
    assert got == status and words in body.decode()
    if status == 200: assert body.startswith(b"#Table1\nerror_message\n")
    if status == 500: assert json.loads(body)["ErrorCode"] == 500


def test_a_comment_ends_at_a_caret_for_the_server_and_is_gone_from_our_queries(sky, server):
    query = "SELECT TOP 3 ra -- position^, dec\nFROM Galaxy"
    assert sql(server, query, format="csv")[2].startswith(b"#Table1\nra,dec\n")      # the server sees a second column
    assert "--" not in clean_sql(query) and list(get_table(Client(server.url), query).columns) == ["ra"]


def test_the_catalog_cannot_be_changed(sky):
    tables = SqlService(sky.catalog)
    with pytest.raises(Exception, match="readonly"): tables.base.execute("DELETE FROM catalog")


def test_keys_beyond_2_to_the_63_are_compared_as_numbers():
    keys = np.array([3, 2**63 - 1, 2**63, 2**64 - 1], dtype="uint64")
    tables = SqlService(pd.DataFrame({"objID": range(4), "specObjID": keys}))
    def count(where): return tables.run(f"SELECT COUNT(*) AS n FROM SpecObj AS S WHERE {where}")[1][0][0]
    for key in keys.tolist(): assert count(f"S.specObjID > {key}") == (keys > key).sum()
    assert count(f"S.specObjID BETWEEN {2**63} AND {2**64 - 1}") == 2


def test_a_survey_without_positions_is_given_some(real):
    survey = read_survey(real / "sdss_sample")
    with serve(survey, queries=10**6) as server:
        assert any("synthetic position" in n for n in server.notes)
        places = get_table(Client(server.url), "SELECT TOP 400 objID, ra, dec FROM Galaxy ORDER BY objID")
        for objID, ra, dec in places.head(20).itertuples(index=False):
            picture = get_cutout(Client(server.url), CutoutRequest(ra, dec, 0.4))
            assert picture.body == survey.image_path(objID).read_bytes()


# ---- manners

def test_the_limiter_holds_for_threads_too():
    from concurrent.futures import ThreadPoolExecutor
    from time import monotonic
    limiter = Limiter(5, 0.2)
    starts = []
    def work(_):
        limiter.wait()
        starts.append(monotonic())
    with ThreadPoolExecutor(8) as pool: list(pool.map(work, range(20)))
    starts = np.sort(starts)
    assert (starts[5:] - starts[:-5] >= 0.19).all()


def test_the_user_agent_says_who_asks(sky):
    seen = []
    with serve(sky, faults=lambda ask, answer: seen.append(ask.headers["User-Agent"])) as server:
        get_cutout(Client(server.url), CutoutRequest(1, 2, 0.3))
    assert seen[0].startswith("galaxy_cnn/") and "http" in seen[0]


def test_a_rate_is_kept(sky):
    from time import monotonic
    with serve(sky) as server:
        client = Client(server.url, manners=RequestPolicy(rate=50))
        began = monotonic()
        for _ in range(11): get_cutout(client, CutoutRequest(1, 2, 0.3))
    assert monotonic() - began >= 10 / 50


# ---- properties of the table parser

LARGE = st.floats(-2.0**99, 2.0**99, width=32)
SMALL = st.floats(-2.0**-13, 2.0**-13, width=32)
REAL = st.one_of(st.none(), st.just(-9999.0), LARGE, SMALL)
INT64 = st.integers(-2**63, 2**63 - 1)
UINT64 = st.integers(0, 2**64 - 1)
CLASS = st.one_of(st.none(), st.integers(-1, 5))
ROW = st.tuples(INT64, UINT64, st.floats(0, 360), REAL, CLASS)
NAMES = ["objID", "specObjID", "ra", "oh_p50", "bptclass"]


def written(rows): return format_header(NAMES) + format_rows(NAMES, rows)


def same(value, got):
    "Whether a real number came through as far as 7 digits carry it; NaN for NULL"
    return math.isnan(got) if value is None else got == np.float32(f"{value:.7G}")


@settings(max_examples=150, deadline=None)
@given(st.lists(ROW, max_size=20))
def test_what_is_written_is_read_back(rows):
    table = parse_table(written(rows))
    assert table.objID.tolist() == [r[0] for r in rows]
    assert table.specObjID.tolist() == [r[1] for r in rows]
    assert table.ra.tolist() == [float(f"{r[2]:.15G}") for r in rows]
    assert all(same(r[3], got) for r, got in zip(rows, table.oh_p50))
    assert all(same(r[4], float(got)) for r, got in zip(rows, table.bptclass))


@settings(max_examples=200, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=8), st.data())
def test_a_table_cut_anywhere_is_refused_or_is_whole_rows(rows, data):
    text = written(rows)
    cut = data.draw(st.integers(0, len(text) - 1))
    try: table = parse_table(text[:cut])
    except TableError: return
    assert text[:cut].endswith(b"\n") and table.objID.tolist() == [r[0] for r in rows[:len(table)]]


@settings(max_examples=200, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=4), st.data())
def test_a_table_with_one_byte_changed_never_raises_anything_else(rows, data):
    text = bytearray(written(rows))
    text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    try: parse_table(bytes(text))
    except TableError: pass


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_anything_else_is_no_table(junk):
    for body in (junk, b"#Table1\n" + junk, b"#Table1\nobjID,ra\n" + junk):
        try: parse_table(body)
        except TableError: pass


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(-2**63, 2**64 - 1)), min_size=1, max_size=10))
def test_integers_of_unknown_columns_stay_exact(values):
    numbers = [v for v in values if v is not None]
    # no type holds both negative numbers and those beyond int64
    if min(numbers, default=0) < 0: values = [v if v is None else min(v, 2**63 - 1) for v in values]
    fields = ["" if v is None else str(v) for v in values]
    rows = "".join(f"1,{text}\n" for text in fields)
    table = parse_table(f"#Table1\nobjID,n\n{rows}".encode())
    assert [None if pd.isna(v) else int(v) for v in table.n.astype(object)] == values


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_the_query_rules_let_one_select_through_or_nothing(text):
    try: query = emulate_query_rules(f"SELECT ra FROM Galaxy {text}")
    except RequestRefused: return
    assert ";" not in query and query.lower().count(" select ") == 0 or "(" in query


def test_refused_queries_are_not_sent_or_not_repeated(server):
    client = Client(server.url)
    for query in ("DELETE FROM Galaxy", "SELECT 1; SELECT 2", "SELECT " + "ra, " * 3000 + "dec FROM Galaxy",
                  "SELECT ra INTO mydb.x FROM Galaxy"):
        with pytest.raises(ValueError): get_table(client, query)
    assert client.requests == 0
    for query in ("SELECT TOP 600000 ra FROM Galaxy", "SELECT color FROM Galaxy"):
        with pytest.raises(QueryRefused): get_table(client, query)
    assert client.requests == 2


def test_the_sample_of_spirals_is_served_at_its_own_scale(real):
    survey = read_survey(real / "sdss_spirals")
    with serve(survey) as server:
        galaxy = survey.catalog.iloc[100]
        query = f"ra={galaxy.ra}&dec={galaxy.dec}&scale=0.2&width=120&height=120&opt="
        url = f"{server.url}/dr12/SkyServerWS/ImgCutout/getjpeg?{query}"
        assert urlopen(url).read() == survey.image_path(int(galaxy.objID)).read_bytes()
        assert isinstance(server.survey, Survey)


# ---- the field's own clients: astroquery itself, SciServer's module and the paper's script by what they send

def near(galaxy, arcsec): return galaxy.ra + arcsec / 3600 / np.cos(np.radians(galaxy.dec)), galaxy.dec


@pytest.fixture
def sdss(server, tmp_path, monkeypatch):
    "astroquery's SDSS, pointed at the local server, without its cache"
    pytest.importorskip("astroquery", reason="astroquery is not installed: pip install astroquery")
    from astroquery import sdss
    from astroquery.sdss import field_names
    monkeypatch.setattr(field_names, "_cached_table_fields", {})
    with sdss.conf.set_temp("skyserver_baseurl", server.url):
        yield lambda name, *args, **options: getattr(sdss.SDSS, name)(*args, cache=False, **options)


def test_astroquery_asks_a_query(sky, sdss):
    found = sdss("query_sql", "select top 10 z, ra, dec, bestObjID from specObj where class = 'galaxy' and zWarning = 0")
    stored = sky.catalog.set_index("objID").loc[list(found["bestObjID"])]
    assert len(found) == 10 and np.allclose(found["z"], stored.z, rtol=1e-6) and np.allclose(found["ra"], stored.ra)
    found = sdss("query_sql", "SELECT p.objID, s.specObjID FROM PhotoObj AS p JOIN SpecObj AS s ON s.bestObjID = p.objID")
    stored = sky.catalog.set_index("objID").specObjID
    assert dict(zip(found["objID"].tolist(), found["specObjID"].tolist())) == stored.to_dict()


def test_astroquery_asks_for_a_region(sky, sdss):
    from astropy import units as u
    from astropy.coordinates import SkyCoord
    galaxy = sky.catalog.iloc[7]
    place = SkyCoord(*near(galaxy, 3), unit="deg")
    for options in {"radius": 10 * u.arcsec}, {"width": 20 * u.arcsec, "height": 20 * u.arcsec}:
        found = sdss("query_region", place, **options)
        assert found["objID"].tolist() == [sky.catalog.objID[7]]
    fields = ["objID", "modelMag_r", "z"]
    found = sdss("query_region", place, radius=10 * u.arcsec, fields=fields, spectro=True)
    assert np.isclose(found["modelMag_r"][0], galaxy.modelMag_r, atol=1e-4)
    assert sdss("query_region", SkyCoord(place.ra, -place.dec), radius=10 * u.arcsec) is None
    several = SkyCoord(sky.catalog.ra[:5], sky.catalog.dec[:5], unit="deg")
    found = sdss("query_crossid", several, photoobj_fields=["objID", "run", "camcol"])
    assert found["objID"].tolist() == sky.catalog.objID[:5].tolist()
    assert found["camcol"].tolist() == [i >> 29 & 7 for i in sky.catalog.objID[:5]]


SCISERVER = {"TaskName": "SciScript-Python.SkyServer.test", "format": "csv"}  # what its module adds to each request


def table_of(server, path, **params):
    "A table as SciServer's module reads it"
    url = f"{server.url}/DR16/SkyServerWS/SearchTools/{path}?{urlencode(params | SCISERVER)}"
    return pd.read_csv(urlopen(url), comment="#", index_col=None)


@pytest.mark.parametrize("query", [
    "select top 1 specobjid, ra, dec from specobj order by specobjid",
    "SELECT TOP 100 p.objID, p.ra, p.dec, p.r FROM fGetObjFromRectEq(0,-90,360,90) n, PhotoPrimary p WHERE n.objID=p.objID",
    "SELECT TOP 10 p.objid, p.ra, p.dec, p.u, p.g, p.r, p.i, p.z, p.run, p.rerun, p.camcol, p.field, s.specobjid, s.class, "
    "s.z as redshift, s.plate, s.mjd, s.fiberid FROM PhotoObj AS p JOIN SpecObj AS s ON s.bestobjid = p.objid "
    "WHERE p.u BETWEEN 0 AND 29.6 AND g BETWEEN 0 AND 29.6",
    "select top 5 objID, specObjID, ra, dec, z, modelMag_g - modelMag_r as color, petroMag_r, extinction_r from SpecPhoto "
    "where class = 'GALAXY' and zWarning = 0 and z between 0.01 and 0.3",
    "SELECT TOP 3 G.objID, G.extinction_g, G.dered_r, S.velDisp FROM BESTDR16..Galaxy AS G, dbo.SpecObjAll AS S "
    "WHERE G.objID = S.bestObjID AND isnull(S.velDisp, 0) = 0",
])
def test_queries_of_sciservers_documentation(query, sky, server):
    found = table_of(server, "SqlSearch", cmd=query)
    assert len(found) >= 1 and not found.iloc[:, 0].isna().any()


def test_sciservers_searches_by_position(sky, server):
    galaxy = sky.catalog.iloc[3]
    ra, dec = near(galaxy, 5)
    asked = {"coordType": "equatorial", "whichPhotometry": "optical", "limit": "10"}
    found = table_of(server, "RadialSearch", ra=ra, dec=dec, radius=0.1, **asked)
    assert found.objid.tolist() == [galaxy.objID] and np.isclose(found.r[0], galaxy.modelMag_r, atol=1e-4)
    box = {"min_ra": ra - 0.01, "max_ra": ra + 0.01, "min_dec": dec - 0.01, "max_dec": dec + 0.01}
    assert galaxy.objID in table_of(server, "RectangularSearch", **box, **asked).objid.tolist()
    everything = {"min_ra": 0, "max_ra": 360, "min_dec": -90, "max_dec": 90}
    assert len(table_of(server, "RectangularSearch", **everything, **asked)) == 10
    assert len(table_of(server, "RectangularSearch", **everything, **asked | {"limit": "0"})) == len(sky)
    with pytest.raises(HTTPError): table_of(server, "RadialSearch", ra=1, dec=2, radius=1, coordType="galactic")


def test_sciservers_cutout(sky, server):
    galaxy = sky.catalog.iloc[3]
    asked = {"ra": galaxy.ra, "dec": galaxy.dec, "scale": 0.4, "width": 512, "height": 512, "opt": "OG", "query": "S"}
    for release in "/DR13", "":
        image = decode(urlopen(f"{server.url}{release}/SkyServerWS/ImgCutout/getjpeg?{urlencode(asked | SCISERVER)}").read())
        assert image.shape == (512, 512, 3)


PAPER = """SELECT TOP 100
  --- names and positions, as Wu & Boada (2019) asked for them in CasJobs
  G.objID, GSI.specObjID, G.ra, G.dec, S.z, S.zErr, S.velDisp, S.velDispErr,
  G.modelMag_u, modelMagErr_u, G.modelMag_g, modelMagErr_g, G.modelMag_z, modelMagErr_z, G.petroR50_r, G.petroR90_r,
  --- lines
  GSL.nii_6584_flux, GSL.h_alpha_flux_err, GSL.h_delta_flux, GSL.h_delta_flux_err, GSX.d4000, GSX.d4000_err,
  GSE.bptclass, GSE.oh_p50, GSE.lgm_tot_p50, GSE.sfr_tot_p50
  {into}
FROM SpecObj as S
  JOIN Galaxy as G ON G.ObjID = S.bestObjID
  JOIN GalSpecLine as GSL ON GSL.specObjID = S.specObjID
  JOIN GalSpecInfo AS GSI ON GSI.specObjID = S.specObjID
  JOIN GalSpecIndx AS GSX ON GSX.specObjID = S.specObjID
  JOIN GalSpecExtra AS GSE ON GSE.specObjID = S.specObjID
WHERE (G.petroMag_r > 10 AND G.petroMag_r < 18) AND (G.modelMag_u-G.modelMag_r) > 0
  AND (modelMag_u > 10 AND modelMag_u < 25) AND S.rChi2 < 2 AND (S.zErr > 0 AND S.zErr < 0.01)
  --- the sample
  AND S.z > 0.02 AND GSE.oh_p50 != -9999
"""


def test_the_paper_s_query_and_its_loop(sky, server):
    found = pd.read_csv(urlopen(f"{server.url}/dr14/SkyServerWS/SearchTools/SqlSearch?"
                                f"{urlencode({'cmd': PAPER.format(into=''), 'format': 'csv'})}"), comment="#")
    assert len(found) > 20 and found.velDisp.isna().all() and found.d4000_err.isna().all()
    stored = sky.catalog.set_index("objID")
    for galaxy in found.itertuples():
        # the loop: 2 / 0.396 = 5.05 times R90 wide, another spelling of the path, 128 px
        scale = 2 * galaxy.petroR90_r / 0.396 / 128
        path = f"/dr14/SkyserverWS/ImgCutout/getjpeg?ra={galaxy.ra}&dec={galaxy.dec}&scale={scale}&width=128&height=128"
        assert urlopen(server.url + path).read() == sky.image_path(galaxy.objID).read_bytes()
        assert np.isclose(galaxy.oh_p50, stored.oh_p50[galaxy.objID], rtol=1e-6)


def test_into_mydb_is_refused_in_a_sentence(server):
    query = PAPER.format(into="INTO mydb.SDSSspecgals")
    status, _, body = answer_of(f"{server.url}/dr14/SkyServerWS/SearchTools/SqlSearch?{urlencode({'cmd': query})}")
    assert status == 500 and "INTO is for CasJobs, leave it out." in json.loads(body)["ErrorMessage"]
    with pytest.raises(ValueError, match="writes a table in CasJobs alone: send it without that"): clean_sql(query)
    assert len(get_table(Client(server.url), PAPER.format(into=""))) > 20                # the remedy
