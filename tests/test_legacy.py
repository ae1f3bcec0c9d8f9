"""The Legacy Surveys as a provider: the faults of its viewer over real sockets, kills, verify and repair, the way to predict."""
import json
import shutil
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from test_download import (
    FIELDS,
    QUICK,
    TRIES,
    Trouble,
    altered,
    busy_429,
    chunks_cut,
    drip,
    empty,
    html_200,
    html_503,
    reset,
    script,
    short,
    stall,
    text_jpeg,
    troubled,
    unmarked,
)

from galaxy_cnn import cli
from galaxy_cnn.download import FINAL, NOTHING_THERE, client_of, download
from galaxy_cnn.files import InputError
from galaxy_cnn.local_server import ServerReply, html_page
from galaxy_cnn.providers import LEGACY
from galaxy_cnn.record import read_record
from galaxy_cnn.second_sky import LocalLegacyServer
from galaxy_cnn.skyserver import Client
from galaxy_cnn.survey import read_survey, write_survey
from galaxy_cnn.verify import verify

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from skies import NoisePlanes, make_sky

N, SIZE = 6, 64


@pytest.fixture(scope="module")
def sky(tmp_path_factory): return make_sky(tmp_path_factory.mktemp("sky") / "sky", N, seed=3, south=True)


def viewer(sky, faults=None): return LocalLegacyServer(sky, pictures=NoisePlanes(sky), faults=faults)


def fetched(out, server, catalog, **options):
    "Download with quick manners: summary and record by objID"
    options = {"size": SIZE, "progress": False, **options}
    client = Client(server.url, LEGACY.release, QUICK)
    return download(out, provider="legacy", catalog=catalog, client=client, **options), read_record(out).set_index("objID")


def changed_planes(answer, change, **header):
    "The same answer with other planes, and other words in the header"
    with fits.open(BytesIO(answer.body)) as hdus: planes, old = change(hdus[0].data), hdus[0].header
    for name, value in header.items(): old[name] = value
    buffer = BytesIO()
    fits.PrimaryHDU(planes, old).writeto(buffer)
    return altered(answer, body=buffer.getvalue())


def no_layer(ask, answer, k): return ServerReply(200, b"no such layer", "text/html")
def disabled(ask, answer, k): return ServerReply(200, b"No cutouts enabled", "text/html")
def need_place(ask, answer, k): return ServerReply(400, b"Need ra,dec keywords", "text/html")
def error_500(ask, answer, k): return html_page("Server Error (500)", 500)
def bad_gateway(ask, answer, k): return html_page("502 Bad Gateway", 502)
def gateway_timeout(ask, answer, k): return html_page("504 Gateway Time-out", 504)
def other_bands(ask, answer, k): return changed_planes(answer, lambda planes: planes, BANDS="grz")
def fewer_bands(ask, answer, k): return changed_planes(answer, lambda planes: planes[:2], BANDS="gr")
def clamped(ask, answer, k): return changed_planes(answer, lambda planes: planes[:, :32, :32])
def no_data_in_i(ask, answer, k): return changed_planes(answer, lambda planes: planes * np.float32([[[1]], [[1]], [[0]]]))
def edge_of_survey(ask, answer, k): return changed_planes(answer, lambda planes: planes * (np.arange(SIZE) < 20).astype("f4"))
def whole_blocks_lost(ask, answer, k): return altered(answer, body=answer.body[:-2 * 2880])
def jpeg(ask, answer, k): return ServerReply(200, text_jpeg(SIZE), "image/jpeg")
def other_type(ask, answer, k): return altered(answer, kind="application/octet-stream")


FAULTS = [  # fault, outcome, requests if it stays
    (no_layer, "bad_request", 1),
    (disabled, "bad_request", 1),
    (need_place, "bad_request", 1),
    (error_500, "doubtful", 4),  # twice the planes, and twice the picture, which shows something
    (bad_gateway, "server_fault", TRIES),
    (html_503, "server_fault", TRIES),
    (gateway_timeout, "server_fault", TRIES),
    (busy_429, "throttled", TRIES),
    (html_200, "bad_image", TRIES),
    (other_type, "bad_image", TRIES),
    (other_bands, "wrong_bands", 1),
    (fewer_bands, "wrong_bands", 1),
    (clamped, "wrong_size", 1),
    (no_data_in_i, "blank", 2),
    (edge_of_survey, "blank", 2),
    (jpeg, "outside_footprint", 1),  # uniform gray: the viewer's word for nothing there
    (short, "unreachable", TRIES),
    (unmarked, "bad_image", TRIES),
    (chunks_cut, "unreachable", TRIES),
    (whole_blocks_lost, "bad_image", TRIES),
    (empty, "bad_image", TRIES),
    (stall, "timeout", TRIES),
    (drip, "timeout", TRIES),
    (reset, "unreachable", TRIES),
]
IDS = [fault.__name__ for fault, *_ in FAULTS]


@pytest.mark.parametrize(FIELDS[1:], FAULTS, ids=IDS)
def test_a_fault_that_stays(fault, outcome, requests, sky, tmp_path):
    victim = int(sky.catalog.objID[2])
    with viewer(sky, troubled(fault, 2)) as server:
        summary, record = fetched(tmp_path / "out", server, sky.path)
        again, _ = fetched(tmp_path / "out", server, sky.path)
    assert summary["outcomes"] == {"ok": N - 1, outcome: 1}
    assert summary["complete"] == (outcome in NOTHING_THERE)
    row = record.loc[victim]
    assert (row.outcome, row.tries, row.sha256) == (outcome, requests, "") and "fits-cutout?ra=" in row.url
    assert not (tmp_path / "out" / "images" / f"{victim}.fits").exists() and len(read_survey(tmp_path / "out")) == N - 1
    assert again["requests"] == (0 if outcome in FINAL else requests)


PASSING = [i for i, (_, _, requests) in enumerate(FAULTS) if requests > 1]


@pytest.mark.parametrize(FIELDS[1:], [FAULTS[i] for i in PASSING], ids=[IDS[i] for i in PASSING])
def test_a_fault_that_passes(fault, outcome, requests, sky, tmp_path):
    trouble = Trouble(lambda ask, answer, k: fault(ask, answer, k) if k == 1 else None)
    with viewer(sky, trouble) as server: summary, record = fetched(tmp_path / "out", server, sky.path)
    assert summary["outcomes"] == {"ok": N} and summary["complete"]
    assert (record.tries == 2).all() and set(trouble.asked.values()) == {2}
    assert verify(tmp_path / "out", progress=False).ok


def test_a_place_without_pictures_is_believed_when_the_picture_is_gray_too(sky, tmp_path):
    catalog = sky.catalog.copy()
    catalog.loc[1, "dec"] = -85.0  # nothing is there
    with viewer(sky) as server: summary, record = fetched(tmp_path / "out", server, catalog)
    assert summary["outcomes"] == {"ok": N - 1, "outside_footprint": 1} and summary["complete"]
    assert record.loc[int(catalog.objID[1])].tries == 3  # the planes twice, the picture once


def test_galaxies_without_an_i_band_are_not_asked_for(sky, tmp_path):
    catalog = sky.catalog.copy()
    catalog.loc[[0, 1], ["ra", "dec"]] = [[180.0, 40.0], [181.0, 33.0]]
    with viewer(sky) as server: summary, record = fetched(tmp_path / "out", server, catalog)
    assert summary["outcomes"] == {"ok": N - 2, "no_band": 2} and summary["complete"] and summary["requests"] == N - 2
    assert any(note.startswith("2 galaxies were not asked for") and "g, r and z only" in note for note in summary["notes"])
    assert (record.tries[record.outcome == "no_band"] == 0).all()


def test_what_is_written_down(sky, tmp_path):
    with viewer(sky) as server: fetched(tmp_path / "out", server, sky.path)
    survey, record = read_survey(tmp_path / "out"), read_record(tmp_path / "out")
    about = {"bands": "gri", "flux_pixel": 0.262, "zeropoint": 22.5, "licence": "CC BY 4.0", "release": "dr10"}
    assert about.items() <= survey.info.items() and "Perimeter" in survey.info["credit"] and "render" in survey.info["next"]
    assert all("bands=gri" in url and "layer=ls-dr10-south" in url and f"size={SIZE}" in url for url in record.url)
    scales = record.set_index("objID").url.str.extract(r"pixscale=([\d.]+)")[0].astype(float)
    r90 = survey.catalog.set_index("objID").petroR90_r
    assert np.allclose(scales * SIZE / r90.loc[scales.index], 2 / 0.396, rtol=1e-4)  # the field of the training
    assert survey.suffix == ".fits" and set(record.sha256.str.len()) == {64}


def test_manners():
    with client_of(LEGACY, connections=8) as client: assert client.manners.connections == 4
    assert "galaxy_cnn/" in client.session.headers["User-Agent"] and "+http" in client.session.headers["User-Agent"]


def test_one_survey_has_one_provider(sky, tmp_path):
    with viewer(sky) as server:
        fetched(tmp_path / "out", server, sky.path)
        with pytest.raises(InputError, match="provider is 'legacy' there and 'sdss' here"):
            download(tmp_path / "out", catalog=sky.path, base_url=server.url, size=SIZE, progress=False)
        again, _ = fetched(tmp_path / "out", server, sky.path)
        assert again["requests"] == 0 and again["complete"]
        with pytest.raises(InputError, match="64 to 512 px"): fetched(tmp_path / "b", server, sky.path, size=1024)


def test_verify_finds_and_repair_heals(sky, tmp_path):
    out = tmp_path / "out"
    with viewer(sky) as server:
        fetched(out, server, sky.path)
        files = sorted((out / "images").iterdir())
        bodies = {f.name: f.read_bytes() for f in files}
        files[0].unlink()
        files[1].write_bytes(bodies[files[1].name][:-2880])
        body = bytearray(bodies[files[2].name])
        body[6000] ^= 1
        files[2].write_bytes(body)
        found = verify(out, progress=False)
        assert sorted(f.state for f in found.findings) == ["damaged", "damaged", "missing"]
        healed = verify(out, repair=True, progress=False, client=Client(server.url, LEGACY.release, QUICK))
        assert healed.ok and healed.requests == 3
        assert {f.name: f.read_bytes() for f in (out / "images").iterdir()} == bodies
        (out / "downloads.sqlite").write_bytes(b"SQLite format 3\0 and then nothing")
        rebuilt = verify(out, repair=True, progress=False, client=Client(server.url, LEGACY.release, QUICK))
    assert rebuilt.ok and rebuilt.requests == 0 and (read_record(out).outcome == "ok").all()


def test_killed_at_any_instant_and_resumed(tmp_path):
    total = script("kill_download.py", tmp_path, "--from", "legacy")["total"]
    assert total["complete"] == total["verified"] == total["identical"] == 4
    assert total["fetched_again"] == total["fetched_twice_after"] == total["wrong_at_kill"] == 0


def call(capsys, *words):
    "Exit code and what was said"
    try: cli.app(args=[str(w) for w in words], standalone_mode=False)
    except Exception as error: return cli.exit_code(error), str(error)
    return 0, capsys.readouterr().out


def test_the_whole_way_on_the_command_line(tmp_path, few, mock_run, capsys):
    catalog = few.catalog.head(22).copy()
    catalog["dec"] = catalog["dec"].clip(upper=30.0)
    sky = tmp_path / "sky"
    (sky / "images").mkdir(parents=True)
    for i in catalog.objID: shutil.copy(few.image_path(i), sky / "images")
    write_survey(sky, catalog, few.info | {"seed": 1})
    planes, rendered, table = tmp_path / "planes", tmp_path / "rendered", tmp_path / "table.csv"
    assert call(capsys, "download", "--from", "legacy", "--out", planes)[0] == 2  # a catalog is needed
    with LocalLegacyServer(read_survey(sky)) as server:
        words = "download", "--from", "legacy", "--catalog", sky, "--base-url", server.url, "--out", planes
        code, said = call(capsys, *words)
    assert code == 0 and "22 galaxies asked for: 22 ok" in said
    assert call(capsys, "verify", planes)[0] == 0
    code, said = call(capsys, "predict", mock_run.path, planes, "--out", table)
    assert code in (1, 2) and "galaxy-cnn render" in said
    code, said = call(capsys, "render", planes, "--out", rendered)
    assert code == 0 and "22 cutouts" in said and "survey's median" in said
    assert call(capsys, "predict", mock_run.path, rendered, "--accept-shift", "--out", table)[0] == 0
    assert len(pd.read_csv(table)) == 22
    info = json.loads((rendered / "survey.json").read_text())
    assert info["source"] == "mock" and "Perimeter" in info["credit"]
