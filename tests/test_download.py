"""Downloads that go wrong: the 17 faults of the real service over real sockets, kills, corruptions, and the record."""
import dataclasses
import json
import random
import shutil
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from astropy.table import Table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from galaxy_cnn import cli, local_server, skyserver
from galaxy_cnn import download as download_module
from galaxy_cnn.catalogs import keep_best
from galaxy_cnn.download import FINAL, check_part, download
from galaxy_cnn.files import Incomplete, InputError
from galaxy_cnn.local_server import ServerReply, html_page, serve
from galaxy_cnn.providers import OUTCOMES, CutoutRequest, cutout_scale, text_tile
from galaxy_cnn.record import DAMAGED, SUPERSEDED, Part, Record, RecordRow, get_parts, read_record, store_part
from galaxy_cnn.skyserver import Client, QueryRefused, RequestPolicy, ServerFault, get_cutout, get_table
from galaxy_cnn.survey import read_survey, write_survey, write_survey_parts
from galaxy_cnn.verify import verify

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
from skies import make_sky

TRIES = 3  # of one request
N = 6  # galaxies of the sky that is downloaded under faults


@pytest.fixture(scope="module")
def sky(tmp_path_factory): return make_sky(tmp_path_factory.mktemp("sky") / "sky", N, seed=3)


class Clock:
    "Time that only sleeping moves"
    def __init__(self): self.now, self.slept, self.lock = 0.0, [], threading.Lock()
    def __call__(self): return self.now
    def sleep(self, seconds):
        with self.lock: self.now, self.slept = self.now + seconds, [*self.slept, seconds]


class Trouble:
    "A faults hook: `fault(ask, answer, k)` for the k-th request (from 1) of each question; counts them"
    def __init__(self, fault, kind="cutout"):
        self.fault, self.kind = fault, kind
        self.asked, self.lock = Counter(), threading.Lock()

    def __call__(self, ask, answer):
        if ask.kind != self.kind: return None
        question = ask.index if ask.kind == "cutout" else ask.params["cmd"]
        with self.lock:
            self.asked[question] += 1
            k = self.asked[question]
        return self.fault(ask, answer, k)


def troubled(fault, *rows):
    "Trouble with the galaxies of some rows only"
    return Trouble(lambda ask, answer, k: fault(ask, answer, k) if ask.index in rows else None)


QUICK = RequestPolicy(
    connections=2, tries=TRIES, pause=0.001, read=0.3, deadline=0.35, query_deadline=5, give_up=1000, queries=10**6)


def fetched(out, server, **options):
    "Download with quick manners: summary and record by objID"
    options = {"cuts": "none", "progress": False, **options}
    client = options.pop("client", None) or Client(server.url, manners=QUICK)
    return download(out, client=client, **options), read_record(out).set_index("objID")


def check_pictures(out, sky):
    "Every picture is the server's, byte for byte"
    for i in sky.catalog.objID: assert (out / "images" / f"{i}.jpg").read_bytes() == sky.image_path(i).read_bytes()


def altered(answer, **changes): return dataclasses.replace(answer, **changes)


# ---- faults 1-6, 11-13, 17: what can happen to a cutout. One galaxy (row 2) is troubled; the others must not notice.

OUTSIDE = "Requested (ra, dec) is outside the SDSS footprint"
DRAWN = "Internal error: the image could not be drawn"


def black(ask, answer, k): return altered(answer, body=text_tile(128, 128, " "))
def text(ask, answer, k): return altered(answer, body=text_tile(128, 128, DRAWN))
def outside(ask, answer, k): return ServerReply(404, text_tile(128, 128), "image/jpeg", OUTSIDE)
def error_500(ask, answer, k): return ServerReply(500, answer.body, "image/jpeg")
def json_500(ask, answer, k): return local_server._error(500, "InternalServerError", "Timeout expired")
def json_400(ask, answer, k): return local_server._error(400, "BadRequest", "ra must be in [0,360]")
def html_503(ask, answer, k): return html_page("Service Unavailable")
def html_200(ask, answer, k): return html_page("Skyserver Error", 200)
def short(ask, answer, k): return altered(answer, keep=len(answer.body) // 2)
def unmarked(ask, answer, k): return altered(answer, mode="close", keep=len(answer.body) // 2)
def chunks_cut(ask, answer, k): return altered(answer, mode="chunked", keep=len(answer.body) // 2)
def empty(ask, answer, k): return altered(answer, body=b"")
def clamped(ask, answer, k): return altered(answer, body=text_jpeg(64))
def stall(ask, answer, k): return altered(answer, stall=0.5)
def drip(ask, answer, k): return altered(answer, drip=0.02)
def reset(ask, answer, k): return altered(answer, keep=100, reset=True)
def busy_429(ask, answer, k): return html_page("Too Many Requests", 429)


def text_jpeg(size):
    "A bright JPEG of another size"
    from io import BytesIO

    from PIL import Image
    buffer = BytesIO()
    Image.new("RGB", (size, size), "gray").save(buffer, "JPEG")
    return buffer.getvalue()


FAULTS = [  # number of the fault in the list of what the real service does, fault, outcome, requests if it stays
    (1, outside, "outside_footprint", 1),
    (2, black, "blank", 2),
    (2, text, "blank", 2),
    (3, error_500, "server_fault", TRIES),
    (3, json_500, "server_fault", TRIES),
    (4, json_400, "bad_request", 1),
    (5, html_503, "server_fault", TRIES),
    (6, html_200, "bad_image", TRIES),
    (11, short, "unreachable", TRIES),
    (11, unmarked, "bad_image", TRIES),
    (11, chunks_cut, "unreachable", TRIES),
    (11, empty, "bad_image", TRIES),
    (12, clamped, "wrong_size", 1),
    (13, stall, "timeout", TRIES),
    (13, drip, "timeout", TRIES),
    (13, reset, "unreachable", TRIES),
    (17, busy_429, "throttled", TRIES),
]
IDS = [f"{number}-{fault.__name__}" for number, fault, *_ in FAULTS]
FIELDS = "number", "fault", "outcome", "requests"


@pytest.mark.parametrize(FIELDS, FAULTS, ids=IDS)
def test_a_fault_that_stays(number, fault, outcome, requests, sky, tmp_path):
    trouble = troubled(fault, 2)
    victim = int(sky.catalog.objID[2])
    with serve(sky, faults=trouble) as server:
        summary, record = fetched(tmp_path / "out", server)
        again, _ = fetched(tmp_path / "out", server)
    assert summary["outcomes"] == {"ok": N - 1, outcome: 1}
    assert summary["complete"] == (outcome in ("outside_footprint", "blank"))
    row = record.loc[victim]
    assert (row.outcome, row.tries, row.sha256) == (outcome, requests, "") and "getjpeg?ra=" in row.url
    assert not (tmp_path / "out" / "images" / f"{victim}.jpg").exists() and len(read_survey(tmp_path / "out")) == N - 1
    # what is final is not asked again, the rest is
    assert again["requests"] == (0 if outcome in FINAL else requests)
    assert trouble.asked == {**dict.fromkeys(range(N), 1), 2: requests if outcome in FINAL else 2 * requests}


PASSING = [i for i, (_, _, _, requests) in enumerate(FAULTS) if requests > 1]


@pytest.mark.parametrize(FIELDS, [FAULTS[i] for i in PASSING], ids=[IDS[i] for i in PASSING])
def test_a_fault_that_passes(number, fault, outcome, requests, sky, tmp_path):
    trouble = Trouble(lambda ask, answer, k: fault(ask, answer, k) if k == 1 else None)
    with serve(sky, faults=trouble) as server: summary, record = fetched(tmp_path / "out", server)
    assert summary["outcomes"] == {"ok": N} and summary["complete"]
    assert (record.tries == 2).all() and set(trouble.asked.values()) == {2}
    check_pictures(tmp_path / "out", sky)


def soon(): return format_datetime(datetime.now(timezone.utc) + timedelta(seconds=30), usegmt=True)


@pytest.mark.parametrize("value", ["30", soon, None])
@pytest.mark.parametrize("status", [503, 429])
def test_5_retry_after_is_honored(value, status, sky):
    value = value() if callable(value) else value
    headers = {"Retry-After": value} if value else {}
    clock = Clock()
    def fault(ask, answer, k): return altered(html_page("Busy", status), headers=headers) if k == 1 else None
    with serve(sky, faults=Trouble(fault)) as server:
        client = Client(server.url, clock=clock, sleep=clock.sleep, rng=random.Random(0))
        galaxy = sky.catalog.iloc[0]
        scale = float(cutout_scale("r90", galaxy.petroR90_r))
        picture = get_cutout(client, CutoutRequest(galaxy.ra, galaxy.dec, scale))
    assert (picture.outcome, picture.tries) == ("ok", 2)
    assert 28 <= clock.now <= 30 if value else 0.5 <= clock.now <= 1


def test_5_retry_after_holds_back_every_connection(sky):
    from time import monotonic
    starts, lock = [], threading.Lock()
    def fault(ask, answer, k):
        with lock: starts.append(monotonic())
        return altered(html_page("Busy", 429), headers={"Retry-After": "1"}) if len(starts) == 1 else None
    with serve(sky, faults=Trouble(fault)) as server:
        client = Client(server.url)
        requests = [CutoutRequest(1.0, 2.0, 0.3 + i / 10) for i in range(4)]
        threads = [threading.Thread(target=get_cutout, args=(client, r)) for r in requests]
        threads[0].start()
        while not client._held > 0: pass
        for thread in threads[1:]: thread.start()
        for thread in threads: thread.join(10)
    assert min(starts[1:]) - starts[0] >= 0.95


def test_5_pauses_grow_and_have_jitter(sky):
    clock = Clock()
    with serve(sky, faults=Trouble(html_503)) as server:
        policy = RequestPolicy(tries=6)
        client = Client(server.url, clock=clock, sleep=clock.sleep, rng=random.Random(1), manners=policy)
        assert get_cutout(client, CutoutRequest(1.0, 2.0, 0.3)).tries == 6
    factors = [s / 2**k for k, s in enumerate(clock.slept)]
    assert len(factors) == len(set(factors)) == 5 and all(0.5 <= f <= 1 for f in factors)


def test_12_what_would_be_clamped_is_not_sent(sky, tmp_path):
    with serve(sky) as server:
        for options in ({"size": 32}, {"size": 4096}, {"scale": 0.001}, {"scale": "wide"}, {"n": 0}):
            with pytest.raises(InputError): fetched(tmp_path / "out", server, **options)
    assert not (tmp_path / "out").exists()


def test_a_galaxy_without_a_radius_is_recorded_and_not_sent(sky, tmp_path):
    catalog = sky.catalog.copy()
    catalog.loc[1, "petroR90_r"] = -9999
    with serve(sky) as server: summary, record = fetched(tmp_path / "out", server, catalog=catalog)
    assert summary["outcomes"] == {"ok": N - 1, "no_scale": 1} and summary["requests"] == N - 1
    assert record.tries[int(catalog.objID[1])] == 0


# ---- faults 6-10, 14-16: what can happen to a table

def first_part(change):
    "A fault of the first answer that is a part of the catalog: what `change` makes of its body"
    def fault(ask, answer, k): return change(answer) if "TOP" in ask.params["cmd"] and k == 1 else None
    return fault


def first_answer(reply):
    "A fault of the first answer to each query: another reply"
    return lambda ask, answer, k: reply if k == 1 else None


def last_row_gone(answer): return altered(answer, body=answer.body[:answer.body[:-1].rindex(b"\n") + 1])


def two_rows_swapped(answer):
    lines = answer.body.split(b"\n")
    return altered(answer, body=b"\n".join(lines[i] for i in (0, 1, 3, 2, 4, 5, 6, 7, 8)))


BROKEN_TABLES = {  # fault, and how many queries the download then sends
    "10-cut_in_row": (first_part(lambda answer: altered(answer, body=answer.body[:-30])), 3),
    "10-cut_between": (first_part(last_row_gone), 3),
    "10-chunk_cut": (first_part(lambda answer: altered(answer, keep=len(answer.body) - 30)), 3),
    "6-html": (first_answer(html_page("Skyserver Error", 200)), 4),
    "5-503": (first_answer(html_page("Service Unavailable")), 4),
    "500-timeout": (first_answer(local_server._error(500, "InternalServerError", "Execution Timeout Expired.")), 4),
    "order": (first_part(two_rows_swapped), 3),
}


@pytest.mark.parametrize(("fault", "queries"), BROKEN_TABLES.values(), ids=BROKEN_TABLES)
def test_a_broken_table_is_asked_for_again(fault, queries, sky, tmp_path):
    trouble = Trouble(fault, "query")
    with serve(sky, faults=trouble, queries=10**6) as server: summary, record = fetched(tmp_path / "out", server)
    assert summary["complete"] and len(record) == N and sum(trouble.asked.values()) == queries
    assert read_survey(tmp_path / "out").catalog.objID.tolist() == sky.catalog.sort_values("specObjID").objID.tolist()


def test_10_a_table_that_stays_short_is_never_taken(sky, tmp_path):
    def always(ask, answer, k): return last_row_gone(answer) if "TOP" in ask.params["cmd"] else None
    with serve(sky, faults=Trouble(always, "query"), queries=10**6) as server:
        with pytest.raises(ServerFault, match=f"{N - 1} rows, although COUNT says {N}"):
            fetched(tmp_path / "out", server)
        assert not list((tmp_path / "out").rglob("*.parquet"))
        server.faults = None
        assert fetched(tmp_path / "out", server)[0]["complete"]  # and the same folder is none the worse for it


def test_7_a_refusal_is_told_at_once(sky, tmp_path):
    body = b"#Table1\nerror_message\nerror: must be a select statement: x\n"
    trouble = Trouble(lambda ask, answer, k: ServerReply(200, body, "text/plain", mode="chunked"), "query")
    with serve(sky, faults=trouble) as server, pytest.raises(QueryRefused, match="must be a select"):
        fetched(tmp_path / "out", server)
    assert sum(trouble.asked.values()) == 1


def test_8_throttled_after_60_a_minute_and_recovered(sky):
    clock = Clock()
    with serve(sky, clock=clock) as server:
        hasty = Client(server.url, clock=clock, sleep=clock.sleep, manners=RequestPolicy(queries=10**6))
        for _ in range(65): assert get_table(hasty, "SELECT COUNT(*) AS n FROM Galaxy").n[0] == N
        assert hasty.requests == 66 and 60 <= clock.now < 61                       # it was refused, and waited
    clock = Clock()
    with serve(sky, clock=clock) as server:
        polite = Client(server.url, clock=clock, sleep=clock.sleep)
        for _ in range(130): get_table(polite, "SELECT COUNT(*) AS n FROM Galaxy")
        assert polite.requests == 130 and clock.now > 120                    # it never was


def test_9_rows_cut_at_the_limit(sky, monkeypatch, tmp_path):
    monkeypatch.setattr(skyserver, "MAX_QUERY_ROWS", 4)
    with serve(sky, max_rows=4, queries=10**6) as server:
        client = Client(server.url, manners=QUICK)
        with pytest.raises(ServerFault, match="exactly 4 rows"): get_table(client, "SELECT objID FROM Galaxy")
        assert len(get_table(client, "SELECT TOP 4 objID FROM Galaxy")) == 4
        with pytest.raises(QueryRefused, match="limit is"): fetched(tmp_path / "out", server)


def test_14_zero_rows(sky, tmp_path):
    with serve(sky, queries=10**6) as server:
        with pytest.raises(InputError, match="No galaxy passes"): fetched(tmp_path / "none", server, cuts="S.z > 9")
    for body in (b"#Table1\nn\n0\n", b"No objects have been found\n"):
        trouble = Trouble(lambda ask, answer, k, body=body: altered(answer, body=body), "query")
        with serve(sky, faults=trouble, queries=10**6) as server:
            with pytest.raises(InputError, match="No galaxy passes"): fetched(tmp_path / str(len(body)), server)


def test_14_null_missing_and_exponents_reach_the_catalog(sky, tmp_path):
    catalog = sky.catalog.copy()
    catalog.loc[0, ["h_alpha_flux", "oh_p16", "d4000"]] = [np.nan, -9999, -4.898809e-05]
    with serve(sky, catalog=catalog) as server: fetched(tmp_path / "out", server)
    row = read_survey(tmp_path / "out").catalog.set_index("objID").loc[catalog.objID[0]]
    assert np.isnan(row.h_alpha_flux) and row.oh_p16 == -9999 and row.d4000 == np.float32(-4.898809e-05)


def test_15_ids_are_exact_and_of_two_spectra_the_better_is_kept(sky, tmp_path):
    catalog = pd.concat([sky.catalog, sky.catalog.head(2)], ignore_index=True)
    catalog["specObjID"] = np.array([2**63 + 5 * i for i in range(N)] + [7, 2**64 - 1], dtype="uint64")
    # the first galaxy has a second spectrum that is better, the second one that is worse
    catalog["zErr"] = np.array([2e-5] * N + [1e-5, 3e-5], dtype="float32")
    with serve(sky, catalog=catalog) as server: summary, record = fetched(tmp_path / "out", server)
    survey = read_survey(tmp_path / "out")
    assert summary["duplicates_dropped"] == survey.info["duplicates_dropped"] == 2 and len(record) == len(survey) == N
    kept = dict(zip(survey.catalog.objID.tolist(), survey.catalog.specObjID.tolist()))
    assert kept == dict(zip(catalog.objID.tolist()[:N], [7] + [2**63 + 5 * i for i in range(1, N)]))


def test_16_queries_that_the_service_would_twist_are_not_sent(sky, tmp_path):
    with serve(sky) as server:
        for cuts in ("S.z > 0; DROP TABLE x", "S.z > 0 OR " * 1000 + "S.z > 0"):
            with pytest.raises(InputError): fetched(tmp_path / "out", server, cuts=cuts)
        with pytest.raises(QueryRefused): fetched(tmp_path / "other", server, cuts="S.z > 0 ORDER BY S.z OFFSET 5 ROWS")
        summary, _ = fetched(tmp_path / "comment", server, cuts="S.z > 0 -- all of them^, 1 = 0\n")
        assert summary["outcomes"] == {"ok": N}


# ---- fault 17: outages, redirects, kills

def test_17_an_outage_stops_the_run_and_nothing_is_asked_twice(tmp_path):
    sky = make_sky(tmp_path / "sky", 60, seed=5)
    def outage(ask, answer, k): return html_503(ask, answer, k) if sum(trouble.asked.values()) > 20 else None
    trouble = Trouble(outage)
    policy = dataclasses.replace(QUICK, give_up=6)
    with serve(sky, faults=trouble, queries=10**6) as server:
        summary, record = fetched(tmp_path / "out", server, client=Client(server.url, manners=policy))
        good = record[record.outcome == "ok"]
        assert not summary["complete"] and "times in a row" in summary["reason"]
        assert len(good) == 20 and len(record) < 35
        before = trouble.asked.copy()
        trouble.fault = lambda *_: None
        summary, after = fetched(tmp_path / "out", server, client=Client(server.url, manners=policy))
    assert summary["complete"] and len(after) == 60
    ids = sky.catalog.objID.tolist()
    assert all(trouble.asked[ids.index(i)] == before[ids.index(i)] for i in good.index)


def test_17_a_redirect_in_another_case_and_to_https(sky, tmp_path, monkeypatch):
    if shutil.which("openssl") is None: pytest.skip("openssl is not installed: no certificate to test with")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", key, "-out", cert]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names, *files]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    secure = serve(sky, queries=10**6)
    secure._server.socket = context.wrap_socket(secure._server.socket, server_side=True)
    target = secure.url.replace("http:", "https:")
    def redirect(ask, answer):
        query = ask.headers["_target"].partition("?")[2]
        location = f"{target}{ask.path.replace('SkyServerWS', 'skyserverws')}?{query}"
        return ServerReply(301, b"", "text/html", headers={"Location": location})
    plain = serve(sky)
    understand = plain.understand
    def with_target(path, headers, body=b""):
        return dataclasses.replace(understand(path, headers, body), headers={**headers, "_target": path})
    plain.understand = with_target
    plain.faults = redirect
    with secure, plain:
        client = Client(plain.url, manners=QUICK)
        with pytest.raises(ServerFault, match="TLS"): fetched(tmp_path / "untrusted", plain, client=client)
        assert client.requests == 1                                          # a bad certificate does not get better
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(cert))
        trusting = Client(plain.url, manners=QUICK)
        summary, record = fetched(tmp_path / "out", plain, client=trusting)
    assert summary["complete"]
    assert record.url.str.startswith("https://").all() and record.url.str.contains("/skyserverws/").all()


def test_17_ctrl_c_keeps_what_came_and_the_next_run_goes_on(heeding, tmp_path):
    import _thread
    sky = make_sky(tmp_path / "sky", 60, seed=6)
    pending = [True]
    def interrupt(ask, answer, k):
        if sum(trouble.asked.values()) < 30: return
        if pending and pending.pop(): _thread.interrupt_main()
        # the rest is slow, so that the interrupt arrives before the end on a busy machine
        time.sleep(1.0)
    trouble = Trouble(interrupt)
    with serve(sky, faults=trouble, queries=10**6) as server:
        summary, record = fetched(tmp_path / "out", server)
        trouble.fault = lambda *_: None
        assert not summary["complete"] and "interrupted" in summary["reason"]
        assert 10 < len(record) < 60 and (record.outcome == "ok").all()
        states = {f.state for f in verify(tmp_path / "out", progress=False).findings}
        # a file may be there before its row, or under its temporary name
        assert "missing" in states and "damaged" not in states
        again, _ = fetched(tmp_path / "out", server)
    assert again["complete"] and again["requests"] == 60 - len(record)


def script(name, tmp_path, *arguments):
    "The small form of a benchmark: its JSON"
    out = tmp_path / "result.json"
    command = [sys.executable, ROOT / "benchmarks" / name, "--small", "--out", out, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(out.read_text())


def test_17_killed_at_any_instant_and_resumed(tmp_path):
    total = script("kill_download.py", tmp_path)["total"]
    assert total["complete"] == total["verified"] == total["identical"] == 4
    assert total["fetched_again"] == total["fetched_twice_after"] == total["wrong_at_kill"] == 0


# ---- verify and repair

def test_random_corruptions_are_found_and_healed(tmp_path):
    result = script("corrupt_survey.py", tmp_path)
    total = result["total"]
    assert total["missed"] == 0 and total["corruptions"] == 60
    assert total["rounds_healed"] == total["rounds_with_identical_images"] == total["rounds"] == 12
    assert total["rounds_with_exactly_the_bad_and_unproven_requested"] == 12 and total["images_left_without_proof"] < 40
    assert "file of yours" in result["cannot_heal"]["part of a catalog of one's own"]
    assert "20 cutouts are taken as they are" in result["cannot_heal"]["record and SHA256SUMS lost"][0]


def test_sha256sum_agrees(sky, tmp_path):
    if shutil.which("sha256sum") is None: pytest.skip("sha256sum is not installed")
    with serve(sky) as server: fetched(tmp_path / "out", server)
    command = ["sha256sum", "-c", "--quiet", "SHA256SUMS"]
    def check(): return subprocess.run(command, cwd=tmp_path / "out", capture_output=True).returncode
    assert check() == 0
    file = next((tmp_path / "out" / "images").iterdir())
    file.write_bytes(file.read_bytes() + b"\0")
    assert check() == 1 and [f.what for f in verify(tmp_path / "out", progress=False).findings] == ["cutout"]


def test_a_stray_file_is_told_and_left_alone(sky, tmp_path):
    with serve(sky) as server: fetched(tmp_path / "out", server)
    stray = tmp_path / "out" / "images" / "5.jpg"
    stray.write_bytes(b"?")
    check = verify(tmp_path / "out", repair=True, progress=False)
    assert check.ok and [f.state for f in check.findings] == ["stray"] and stray.exists()


@pytest.mark.parametrize("fault", [error_500, json_400, clamped, empty])
def test_repair_asks_again_for_what_failed(fault, sky, tmp_path):
    with serve(sky, faults=troubled(fault, 1)) as server:
        fetched(tmp_path / "out", server)
        assert [f.state for f in verify(tmp_path / "out", progress=False).findings] == ["missing"]
        server.faults = None
        healed = verify(tmp_path / "out", repair=True, progress=False)
    assert healed.ok and healed.requests == 1 and len(read_survey(tmp_path / "out")) == N


def test_repair_does_not_ask_for_what_is_not_there(sky, tmp_path):
    with serve(sky, faults=troubled(outside, 1)) as server:
        fetched(tmp_path / "out", server)
        assert verify(tmp_path / "out", repair=True, progress=False).findings == []
        (tmp_path / "out" / "images" / f"{sky.catalog.objID[2]}.jpg").unlink()
        healed = verify(tmp_path / "out", repair=True, progress=False)
    assert healed.ok and healed.requests == 1


def test_a_part_of_one_s_own_catalog_is_a_whole_survey(sky, tmp_path):
    with serve(sky) as server:
        assert fetched(tmp_path / "out", server, catalog=sky.catalog, n=2)[0]["asked"] == 2
        assert verify(tmp_path / "out", progress=False).findings == []
        assert fetched(tmp_path / "out", server, catalog=sky.catalog)[0]["requests"] == N - 2


# ---- one Survey, one way of asking

def test_a_second_download_must_agree_with_the_first_and_may_grow(sky, tmp_path):
    with serve(sky, queries=10**6) as server:
        assert fetched(tmp_path / "out", server, n=2)[0]["outcomes"] == {"ok": 2}
        for options in ({"size": 64}, {"scale": 0.3}, {"cuts": "S.z > 0.05"}, {"catalog": sky.catalog}):
            with pytest.raises(InputError, match="downloaded in another way"):
                fetched(tmp_path / "out", server, **options)
        other = Client(server.url, release="dr18", manners=QUICK)
        with pytest.raises(InputError, match="release"): fetched(tmp_path / "out", server, client=other)
        assert verify(tmp_path / "out", progress=False).findings == []       # a refusal changes nothing
        assert fetched(tmp_path / "out", server, n=4)[0]["requests"] == 3    # one query, two cutouts
        assert fetched(tmp_path / "out", server, n=1)[0]["asked"] == 4       # it never shrinks
    with pytest.raises(InputError, match="without a record"): download(sky.path, progress=False)


@pytest.mark.parametrize("wrong", [{"cuts": "S.z > 0.0.5"}, {"cuts": "S.z > 0.05", "release": "dr99"}])
def test_a_first_try_that_brought_nothing_binds_nothing(wrong, sky, tmp_path):
    def unknown(ask, answer): return html_page("Not Found", 404) if "dr99" in ask.path else None
    with serve(sky, faults=unknown, queries=10**6) as server:
        def ask(**options): return download(tmp_path / "out", base_url=server.url, progress=False, **options)
        with pytest.raises(QueryRefused): ask(n=2, **wrong)
        assert ask(cuts="none")["outcomes"] == {"ok": N}  # all of them: the number of the first try is forgotten, too
        with pytest.raises(InputError, match="downloaded in another way"): ask(cuts="S.z > 0.05")
    assert verify(tmp_path / "out", progress=False).findings == []


def test_what_other_programs_hide_in_the_folder_stays(sky, tmp_path):
    theirs = [".pre-commit-config.yaml", ".env-local", "SHA256SUMS"]
    for name in theirs: (tmp_path / name).write_text("not ours")
    (tmp_path / ".Trash-1000").mkdir()
    with serve(sky) as server: assert fetched(tmp_path, server)[0]["complete"]
    assert (tmp_path / ".Trash-1000").is_dir()
    for folder, name in zip((tmp_path, tmp_path, tmp_path / "before_repair"), theirs):
        assert (folder / name).read_text() == "not ours"


@pytest.mark.parametrize("fault", [json_400, clamped])
def test_what_was_refused_for_good_names_the_way_to_ask_again(fault, sky, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["download", "--out", str(out), "--cuts", "none", "--base-url"]
    def reason(server):
        with pytest.raises(Incomplete) as error: cli.app(args=[*command, server.url], standalone_mode=False)
        return str(error.value)
    with serve(sky, faults=troubled(fault, 1), queries=10**6) as server:
        for _ in range(2):
            said = reason(server)
            assert f"1 galaxies refused for good; `galaxy-cnn verify {out} --repair` asks for them again." in said
            assert "same command" not in said
        server.faults = None
        cli.app(args=["verify", str(out), "--repair"], standalone_mode=False)
        cli.app(args=[*command, server.url], standalone_mode=False)
    assert "0 requests" in capsys.readouterr().out.splitlines()[-1]


def test_a_full_disk_is_no_damage_and_the_download_goes_on_later(sky, tmp_path, monkeypatch):
    out, put = tmp_path / "out", Record.put
    def on_a_full_disk(record, rows):
        record.execute("PRAGMA max_page_count = 1")  # no more pages than there are
        put(record, [dataclasses.replace(row, detail="x" * 9999) for row in rows])
    with serve(sky) as server:
        monkeypatch.setattr(Record, "put", on_a_full_disk)
        with pytest.raises(OSError, match="No space left on device: .*downloads.sqlite") as error: fetched(out, server)
        assert cli.exit_code(error.value) == 1 and any((out / "images").iterdir())
        monkeypatch.undo()
        assert fetched(out, server)[0]["outcomes"] == {"ok": N}


def test_the_scale_of_the_labels_comes_with_the_catalog(sky, tmp_path):
    labels = {"oh_p50": {"calibration": "N2"}}
    write_survey(tmp_path / "mine", sky.catalog, {"labels": labels})
    with serve(sky) as server:
        fetched(tmp_path / "out", server, catalog=tmp_path / "mine")
        assert read_survey(tmp_path / "out").info["labels"] == labels
        fetched(tmp_path / "out", server, catalog=sky.catalog)
        (tmp_path / "out" / "survey.json").unlink()
        assert verify(tmp_path / "out", repair=True, progress=False).ok  # the record remembers it
        assert read_survey(tmp_path / "out").info["labels"] == labels
        fetched(tmp_path / "plain", server, catalog=sky.catalog)
    assert "labels" not in read_survey(tmp_path / "plain").info


def test_a_survey_in_use_is_not_touched(sky, tmp_path):
    with serve(sky) as server:
        fetched(tmp_path / "out", server, n=1)
        with Record(tmp_path / "out" / "downloads.sqlite") as record:
            record.begin()
            with pytest.raises(InputError, match="in use"): fetched(tmp_path / "out", server)


# ---- a Survey that was not downloaded

@pytest.mark.parametrize("ending", [".ecsv", ".fits"])
def test_verify_reads_a_survey_of_any_format_as_training_does(ending, sky, tmp_path):
    "PNG in a sub-folder and TIFF, whose names only the catalog's ids tell from strays"
    own, objIDs = tmp_path / "own", sky.catalog.objID.tolist()
    (own / "images" / "first").mkdir(parents=True)
    files = [own / "images" / ("first" if i % 2 else "") / f"{objID}{'.png' if i % 2 else '.tif'}" for i, objID in enumerate(objIDs)]
    for objID, file in zip(objIDs, files): Image.open(sky.image_path(objID)).save(file)
    Table.from_pandas(sky.catalog[["objID", "ra", "dec", "z", "oh_p50"]]).write(own / f"catalog{ending}")
    check = verify(own, progress=False)
    assert check.ok and check.findings == [] and check.checked["cutout"] == N
    files[0].write_bytes(files[0].read_bytes()[:500])
    files[1].unlink()
    (own / "images" / "7.png").write_bytes(b"?")
    found = {(f.state, f.name) for f in verify(own, progress=False).findings}
    assert found == {("damaged", str(objIDs[0])), ("missing", str(objIDs[1])), ("stray", "7.png")}
    with pytest.raises(Incomplete) as error: cli.app(args=["verify", str(own)], standalone_mode=False)
    assert str(error.value) == f"{own} is not whole: see the table."  # a repair would refuse


# ---- the record, as such

OUTCOME = st.sampled_from(list(OUTCOMES) + [DAMAGED])
ROW = st.builds(
    RecordRow,
    objID=st.integers(-2**63, 2**63 - 1) | st.integers(1, 3),
    request=st.sampled_from(["a?size=128", "a?size=64", "b?size=128"]),
    outcome=OUTCOME,
    tries=st.integers(0, 5),
    status=st.integers(0, 599),
    bytes=st.integers(0, 10**6),
    sha256=st.text("0123456789abcdef", max_size=8),
    detail=st.text(max_size=5),
)
ROWS = st.lists(ROW, max_size=6)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ROWS, max_size=5))
def test_the_record_is_what_was_put_in(batches):
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        model = {}
        for batch in batches:
            with Record(Path(folder) / "r.sqlite") as record:                # closed and opened again between batches
                record.begin()
                record.put(batch)
            for row in batch:
                old = model.get((row.objID, row.request))
                model[row.objID, row.request] = dataclasses.replace(row, tries=row.tries + (old.tries if old else 0))
                for (objID, request), other in model.items():
                    another = objID == row.objID and request != row.request
                    if another and (row.outcome == "ok" or other.outcome != "ok"):
                        model[objID, request] = dataclasses.replace(other, outcome=SUPERSEDED)
        with Record(Path(folder) / "r.sqlite") as record:
            assert {(r.objID, r.request): r for r in record.rows()} == model
            ids = sorted({k[0] for k in model})
            assert record.outcomes(ids) == {k: r.outcome for k, r in model.items()}
            # never two pictures of one galaxy
            assert all(sum(r.outcome == "ok" for r in record.rows("objID = ?", (i,))) <= 1 for i in ids)
            assert sum(record.counts().values()) == sum(r.outcome != SUPERSEDED for r in model.values())


ERROR = st.floats(-1, 1, width=32) | st.just(float("nan"))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), ERROR), min_size=1, max_size=12))
def test_one_row_for_each_object_and_none_better(pairs):
    table = pd.DataFrame({"objID": [i for i, _ in pairs], "specObjID": np.arange(len(pairs)) + 10})
    table["zErr"] = np.array([error for _, error in pairs], "float32")
    kept = table.iloc[keep_best(table)]
    assert sorted(kept.objID) == sorted(set(table.objID))
    for _, row in kept.iterrows():
        rivals = table[(table.objID == row.objID) & (table.zErr > 0)]
        assert rivals.empty or row.zErr == rivals.zErr.min()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 2**64 - 1), unique=True, min_size=1, max_size=8), st.integers(0, 2**64 - 1))
def test_a_part_is_proven_only_in_full_and_in_order(keys, after):
    table = pd.DataFrame({"specObjID": np.array(sorted(keys), dtype="uint64")})
    assert (check_part(table, after, len(table)) == "") == (min(keys) > after)
    assert check_part(table, 0, len(table) + 1) and check_part(table.iloc[:-1], 0, len(table))


def test_parts_keep_keys_beyond_2_to_the_63(tmp_path):
    keys = [0, 2**63 - 1, 2**63, 2**64 - 1]
    with Record(tmp_path / "r.sqlite") as record:
        for number, after in enumerate(keys): store_part(record, Part(number, after, 1, f"{number}", "", ""))
        assert [p.after for p in get_parts(record)] == keys


# ---- the catalog in parts is the catalog as a whole

def as_a_whole(path, catalog, info):
    "What write_survey makes of a catalog: the table that is read, the columns' types in the file, survey.json"
    write_survey(path, catalog, info)
    file = path / "catalog.parquet"
    return pd.read_parquet(file), pq.read_schema(file), json.loads((path / "survey.json").read_text())


@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_a_catalog_written_in_parts_is_the_same(step, tmp_path):
    catalog = pd.DataFrame({
        "objID": 2**60 + np.array([9, 3, 5, 1, 7, 2]),
        "specObjID": np.array([2**64 - 1, 1, 2, 3, 4, 5], "uint64"),
        "ra": np.arange(6, dtype="float32"),
        "bptclass": [1, 2, -1, 3, np.nan, 1],
        "d4000": [1, np.nan, -9999, 2, 3, 1e-30],
        "note": ["a", None, None, "", "5", "x"],
        "count": pd.array([1, 0, 2**60 + 1, -5, 2, 3], "Int64"),
        "bar": [True, False, True, True, False, False],
    })
    table, schema, info = as_a_whole(tmp_path / "whole", catalog, {"source": "test"})
    write_survey_parts(tmp_path / "parts", lambda: (catalog[i:i + step] for i in range(0, 6, step)), {"source": "test"})
    pd.testing.assert_frame_equal(read_survey(tmp_path / "parts").catalog, table)
    assert pq.read_schema(tmp_path / "parts" / "catalog.parquet").equals(schema)
    assert json.loads((tmp_path / "parts" / "survey.json").read_text()) == info


def test_a_downloaded_catalog_is_what_write_survey_makes_of_its_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(download_module, "PART_ROWS", 7)
    monkeypatch.setattr(download_module, "_BLOCK_ROWS", 3)
    sky = make_sky(tmp_path / "sky", 30, seed=5)
    later = sky.catalog.specObjID.max() + np.arange(1, 5, dtype="uint64")
    again = sky.catalog.tail(4).assign(specObjID=later, zErr=np.float32(1e-6))
    catalog = pd.concat([sky.catalog, again], ignore_index=True)
    catalog["bptclass"] = catalog["bptclass"].astype("float32").mask(catalog.index == 11)   # NULL, in one part of five
    with serve(sky, catalog=catalog, faults=troubled(outside, 0, 20), queries=10**6) as server:
        fetched(tmp_path / "out", server, n=33)
    survey, record = read_survey(tmp_path / "out"), read_record(tmp_path / "out")
    files = sorted((tmp_path / "out" / "catalog_parts").iterdir())
    parts = pd.concat([pd.read_parquet(f) for f in files], ignore_index=True)
    assert len(parts) == 33 and len(survey) == 28 and survey.info["duplicates_dropped"] == 3
    best = parts.iloc[keep_best(parts)]
    best = best[best.objID.isin(record.objID[record.outcome == "ok"])]
    table, schema, info = as_a_whole(tmp_path / "whole", best, survey.info)
    pd.testing.assert_frame_equal(survey.catalog, table)
    assert pq.read_schema(tmp_path / "out" / "catalog.parquet").equals(schema) and info == survey.info


# ---- real galaxies

def test_real_spirals_served_and_downloaded(real, tmp_path):
    spirals = read_survey(real / "sdss_spirals")
    fourth = spirals.select(np.arange(2000) % 4 == 0)
    with serve(spirals, queries=10**6) as server:
        asked = {"catalog": fourth.catalog, "scale": 0.2, "size": 120}
        summary = download(tmp_path / "out", base_url=server.url, progress=False, **asked)
    assert summary["complete"] and summary["outcomes"] == {"ok": 500} and summary["requests"] == 500
    assert read_record(tmp_path / "out").tries.eq(1).all() and verify(tmp_path / "out", progress=False).findings == []
    check_pictures(tmp_path / "out", fourth)
    assert read_survey(tmp_path / "out").info["source"] == "local server"


def test_real_spirals_by_query_too(real, tmp_path):
    spirals = read_survey(real / "sdss_spirals")
    with serve(spirals, queries=10**6) as server:
        asked = {"n": 50, "cuts": "none", "scale": 0.2, "size": 120}
        summary = download(tmp_path / "out", base_url=server.url, progress=False, **asked)
    assert summary["outcomes"] == {"ok": 50}
    ours = read_survey(tmp_path / "out").catalog.set_index("objID")
    theirs = spirals.catalog.set_index("objID").loc[ours.index]
    assert np.allclose(ours[["ra", "dec"]], theirs[["ra", "dec"]], atol=1e-9)


def test_a_survey_can_be_written_again_from_what_was_downloaded(sky, tmp_path):
    with serve(sky) as server: fetched(tmp_path / "out", server)
    survey = read_survey(tmp_path / "out")
    again = write_survey(tmp_path / "copy", survey.catalog, survey.info)
    assert again.info["catalog_hash"] == survey.info["catalog_hash"]


# ---- a fair sample

def test_a_fair_sample_is_exact_grows_and_is_always_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(download_module, "PART_ROWS", 7)
    sky = make_sky(tmp_path / "sky", 30, seed=5)
    second = sky.catalog.tail(3).assign(specObjID=np.arange(2**63 + 1, 2**63 + 4, dtype="uint64"), zErr=np.float32(1e-6))
    catalog = pd.concat([second, sky.catalog], ignore_index=True)      # three objects with two spectra, keys beyond int64
    keys = skyserver.row_keys(catalog, sample=True)
    order = catalog.objID.iloc[keys.argsort()].tolist()
    with serve(sky, catalog=catalog, queries=10**6) as server:
        for out, n in ("a", 10), ("a", 25), ("b", 25), ("c", 99):
            summary = download(tmp_path / out, sample=n, base_url=server.url, cuts="none", progress=False)
            assert summary["complete"] and set(read_survey(tmp_path / out).catalog.objID) == set(order[:n])
        one, other = (read_survey(tmp_path / name).catalog for name in "ab")
        pd.testing.assert_frame_equal(one, other)
        (tmp_path / "a" / "catalog_parts" / "00001.parquet").unlink()
        (tmp_path / "b" / "downloads.sqlite").unlink()
        (tmp_path / "b" / "catalog_parts" / "00001.parquet").unlink()
        for name in "ab":
            assert verify(tmp_path / name, repair=True, progress=False).ok
            pd.testing.assert_frame_equal(read_survey(tmp_path / name).catalog, one)
        with pytest.raises(InputError, match="sample is True there and False here"):
            download(tmp_path / "a", base_url=server.url, cuts="none", progress=False)
        download(tmp_path / "own", sample=8, base_url=server.url, catalog=sky.catalog, progress=False)
        assert set(read_survey(tmp_path / "own").catalog.objID) <= set(order[:12])


def test_an_older_download_goes_on_with_its_own_query(sky, tmp_path, monkeypatch):
    queries = []
    def note(ask, answer): queries.append(ask.params["cmd"]) if ask.kind == "query" else None
    with serve(sky, faults=note, queries=10**6) as server:
        fetched(tmp_path / "new", server, n=2)
        assert "extinction_r / 2.751 AS ebv" in queries[-1] and "E.lgm_tot_p16" in queries[-1]
        with monkeypatch.context() as old:
            old.setattr(download_module, "COLUMNS", skyserver.FIRST_COLUMNS)
            fetched(tmp_path / "out", server, n=2)
        with Record(tmp_path / "out" / "downloads.sqlite") as record:       # as earlier versions left it
            record.base.execute("DELETE FROM settings WHERE name IN ('columns', 'sample')")
        fetched(tmp_path / "out", server, n=4)
    assert "S.specObjID > " in queries[-1] and "ebv" not in queries[-1] and "lgm_tot_p16" not in queries[-1] and "E.sfr_tot_p50" in queries[-1]
    assert len(read_survey(tmp_path / "out")) == 4


def test_reddening_and_percentiles_come_with_the_catalog(sky, tmp_path):
    more = sky.catalog.assign(ebv=np.float32(0.03), lgm_tot_p16=sky.catalog.lgm_tot_p50 - 0.1)
    with serve(sky, catalog=more) as server: fetched(tmp_path / "out", server)
    ours = read_survey(tmp_path / "out").catalog
    assert np.allclose(ours.ebv, 0.03, rtol=1e-6) and np.allclose(ours.lgm_tot_p50 - ours.lgm_tot_p16, 0.1, atol=1e-5)


# ---- positions and catalogs of one's own

@pytest.mark.parametrize("names", [("ra", "dec"), ("RA", "DEC"), ("_RAJ2000", "_DEJ2000")])
def test_negative_right_ascensions_are_wrapped(names, sky, tmp_path):
    own = sky.catalog[["objID", "ra", "dec", "petroR90_r"]].copy()
    own["ra"] = own.ra - 360 * (own.index % 2)
    own.columns = ["objID", *names, "petroR90_r"]
    with serve(sky) as server:
        summary, _ = fetched(tmp_path / "out", server, catalog=own)
    assert summary["complete"] and summary["outcomes"] == {"ok": N}
    assert np.allclose(read_survey(tmp_path / "out").catalog.ra.sort_values(), sky.catalog.ra.sort_values())


def test_a_refusal_of_what_was_sent_wrongly_is_not_final(sky, tmp_path, monkeypatch):
    own = sky.catalog[["objID", "ra", "dec", "petroR90_r"]].assign(ra=sky.catalog.ra - 360)
    def as_before(cutout):
        place = f"ra={cutout.ra!r}&dec={cutout.dec!r}&scale={cutout.scale:.6f}&width=128&height=128"
        return f"dr17/SkyServerWS/ImgCutout/getjpeg?{place}"
    with serve(sky) as server:
        with monkeypatch.context() as old:                                   # an earlier version, which sent it as it was
            old.setattr(CutoutRequest, "key", property(as_before))
            old.setattr(download_module, "with_coordinates", lambda table: table)
            assert fetched(tmp_path / "out", server, catalog=own)[0]["outcomes"] == {"bad_request": N}
        summary, _ = fetched(tmp_path / "out", server, catalog=own)
        assert summary["complete"] and summary["outcomes"] == {"ok": N}
        assert fetched(tmp_path / "out", server, catalog=own)[0]["requests"] == 0
    assert verify(tmp_path / "out", progress=False).ok


def test_a_catalog_of_one_s_own_may_grow_and_gain_columns_but_not_shrink(sky, tmp_path):
    whole = sky.catalog[["objID", "ra", "dec", "petroR90_r"]]
    with serve(sky) as server:
        def ask(own): return fetched(tmp_path / "out", server, catalog=own)[0]
        assert ask(whole.iloc[:3])["requests"] == 3
        assert ask(whole)["requests"] == N - 3
        assert ask(whole.assign(mine=1.5))["requests"] == 0
        assert read_survey(tmp_path / "out").target("mine").tolist() == [1.5] * N
        with pytest.raises(InputError, match="lacks 2 of the galaxies"): ask(whole.iloc[2:])
    assert verify(tmp_path / "out", progress=False).findings == []


# ---- labels of one's own, and what a person wrote

def extend(out):
    "What everybody does next: a column into the downloaded catalog"
    catalog = pd.read_parquet(out / "catalog.parquet")
    catalog.assign(mine=np.arange(len(catalog)) / 7).to_parquet(out / "catalog.parquet", index=False)
    return (out / "catalog.parquet").read_bytes()


@pytest.mark.parametrize("how", ["repair", "download", "repair without sums", "download killed before"])
def test_labels_in_a_downloaded_catalog_are_kept(how, sky, tmp_path):
    out = tmp_path / "out"
    with serve(sky, queries=10**6) as server:
        fetched(out, server, n=4)
        written = extend(out)
        if how != "repair" and how != "download": (out / "SHA256SUMS").unlink()
        with pytest.raises(InputError, match=r"verify .* --repair` restores it, and moves columns of yours"): read_survey(out)
        if how.startswith("repair"): said = verify(out, repair=True, progress=False).messages
        else: said = fetched(out, server)[0]["notes"]
        assert "mine of catalog.parquet did not come from the server: now in labels_from_catalog.parquet." in said
        assert (out / "before_repair" / "catalog.parquet").read_bytes() == written
        values = read_survey(out).target("mine")
        assert np.array_equal(values[:4], np.arange(4) / 7) and np.isnan(values[4:]).all()
        check = verify(out, progress=False)
        assert check.findings == [] and check.checked["labels"] == 1
        assert "mine" not in pd.read_parquet(out / "catalog.parquet")
        # once more: nothing is overwritten, and equal values are no contradiction
        again = extend(out)
        assert verify(out, repair=True, progress=False).ok
        assert (out / "before_repair" / "catalog.parquet").read_bytes() == written
        assert (out / "before_repair" / "catalog.parquet.1").read_bytes() == again
        assert np.array_equal(read_survey(out).target("mine")[:4], np.arange(4) / 7)


def test_every_file_that_a_repair_replaces_is_kept(sky, tmp_path):
    out = tmp_path / "out"
    with serve(sky) as server:
        fetched(out, server)
        files = [sorted((out / "images").iterdir())[2], out / "survey.json", out / "catalog.parquet",
                 out / "catalog_parts" / "00000.parquet", out / "downloads.sqlite"]
        for file in files:
            changed = file.read_bytes() + b" "
            if file.name == "downloads.sqlite": changed = b"?" * 4096
            file.write_bytes(changed)
            assert verify(out, repair=True, progress=False).ok, file
            assert (out / "before_repair" / file.relative_to(out)).read_bytes() == changed
            assert verify(out, progress=False).findings == []


# ---- what a message advises, works

def test_every_remedy_works(sky, tmp_path):
    own = sky.catalog[["objID", "ra", "dec"]]
    out = tmp_path / "out"
    with serve(sky, queries=10**6) as server:
        def ask(**options): return download(**{"out": out, "base_url": server.url, "progress": False} | options)
        def refused(words, **options):
            with pytest.raises(InputError, match=words): ask(**options)
        refused("give --scale in arcsec/px", catalog=own)
        assert ask(catalog=own, scale=0.396)["complete"]
        refused("choose another folder with --out", cuts="none", scale=0.396)
        assert ask(cuts="none", scale=0.396, out=tmp_path / "other")["complete"]
        refused("Try `galaxy-cnn download --cuts none`", cuts="S.z > 9", out=tmp_path / "third")
        assert ask(cuts="none", out=tmp_path / "third")["complete"]  # where it advised that: nothing came before
        # a damaged part of one's own catalog: give it again
        part = out / "catalog_parts" / "00000.parquet"
        part.write_bytes(part.read_bytes()[:-9])
        with pytest.raises(InputError, match="give it again, with `galaxy-cnn download --out .* --catalog FOLDER`"):
            verify(out, repair=True, progress=False)
        own.to_csv(tmp_path / "catalog.csv", index=False)
        assert ask(catalog=tmp_path, scale=0.396)["complete"] and verify(out, progress=False).findings == []
        # a damaged record: repair rebuilds it
        (out / "downloads.sqlite").write_bytes(b"not a database, but long enough to look like one" * 99)
        refused("verify .* --repair` rebuilds it", catalog=own, scale=0.396)
        assert verify(out, repair=True, progress=False).ok and ask(catalog=own, scale=0.396)["requests"] == 0
        (out / "downloads.sqlite").unlink()
        refused("then `verify --repair`", catalog=own, scale=0.396)
        assert verify(out, repair=True, progress=False).ok and ask(catalog=own, scale=0.396)["requests"] == 0
        refused("correct them or leave them out", catalog=own.assign(dec=np.where(own.index == 1, 95, own.dec)), scale=0.396)
        # labels that clash: another name
        (out / "labels.csv").write_text(f"objID,dec\n{own.objID[0]},1\n")
        check = verify(out, progress=False)
        assert not check.ok and "give it another name" in check.findings[0].message
        (out / "labels.csv").write_text(f"objID,dec_mine\n{own.objID[0]},1\n")
        assert verify(out, progress=False).ok and read_survey(out).has("dec_mine")
