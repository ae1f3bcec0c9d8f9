"""The page of a Run: what it asks for (nothing), what it does with hostile text, and a walk through it in a browser."""
import json
import os
import re
import shutil
import signal
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from galaxy_cnn import report as report_module
from galaxy_cnn.evaluate import evaluate
from galaxy_cnn.files import InputError, read_json, write_json
from galaxy_cnn.mzr import mzr
from galaxy_cnn.report import FIGURE_BYTES, MAX_TABLE_ROWS, report
from galaxy_cnn.run import read_run
from galaxy_cnn.train import train

BROWSERS = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
CHROMIUM = os.environ.get("GALAXY_CNN_BROWSER") or next(filter(None, BROWSERS), None)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"]
START, STEP, WALK = 60, 30, 120  # longest time of the browser's start, of one step in it, of one test with it [s]
PAPER = 718  # width of A4 between margins of 1 cm [px]
EVIL = """</script><script>boom()</script><img src=x onerror="boom()">'&"""


class Page(HTMLParser):
    "Elements and scripts of a page"
    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts = [], []
        self.feed(text)
    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "script": self.scripts.append("")
    def handle_data(self, text):
        if self.elements and self.elements[-1][0] == "script": self.scripts[-1] += text
    def all(self, tag): return [a for t, a in self.elements if t == tag]
    @property
    def galaxies(self): return {f["key"]: f["values"] for f in json.loads(self.scripts[0])["fields"]}


@pytest.fixture(scope="module")
def finished(mock_survey, tmp_path_factory):
    "A Run with metrics, figures and the relation"
    out = tmp_path_factory.mktemp("runs") / "run"
    run = train(mock_survey, out, arch="xresnet_tiny", epochs=1, folds=2, precision="fp32", quiet=True)
    evaluate(run, tta=False)
    mzr(run)
    return run


@pytest.fixture
def run(finished, tmp_path):
    "A copy of the Run that a test may change"
    return read_run(shutil.copytree(finished.path, tmp_path / "run"))


def change_table(run, change):
    file = run.path / "predictions.parquet"
    change(pd.read_parquet(file)).to_parquet(file, index=False)


def with_error_bars(table):
    "As predictions with calibrated errors look"
    pred = table["metallicity_pred"]
    flag = np.arange(len(table)) % 10 == 0
    return table.assign(metallicity_sigma=0.1, metallicity_lo90=pred - 0.17, metallicity_hi90=pred + 0.15, flag=flag)


def without_error_bars(table):
    return table.drop(columns=[c for c in table if re.search("_(sigma|lo90|hi90)", c) or c == "flag"])


def change_metrics(run, change):
    metrics = read_json(run.path / "metrics.json")
    change(metrics)
    write_json(run.path / "metrics.json", metrics)


def drop_intervals(metrics):
    "As metrics look where too few galaxies were held out"
    del metrics["targets"]["metallicity"]["intervals"], metrics["flagged"]
    metrics["notes"] = ["No error bars for metallicity: too few."]


def test_every_asset_is_used_and_comes_with_the_package():
    source = Path(report_module.__file__).read_text()
    assets = {f.name for f in Path(report_module.__file__).with_name("report_assets").iterdir()}
    assert assets == set(re.findall(r"\w+\.(?:html|css|js)\b", source)) - {"report.html"}
    packaged = (Path(report_module.__file__).parents[1] / "setup.py").read_text()
    assert '"report_assets/*"' in packaged


def test_the_page_asks_for_nothing(run):
    page = Page(report(run).read_text())
    for tag, attrs in page.elements:
        assert tag not in ("iframe", "object", "embed", "form", "base", "audio", "video")
        for name, value in attrs.items():
            assert not name.startswith("on") and name != "style"
            if name in ("src", "href", "srcset", "poster", "data"): assert value.startswith(("data:", "#")), value[:80]
    assert page.all("meta")[1]["content"].startswith("default-src 'none'; img-src data:;")
    assert not re.search(r"@import|url\(|https?://(?!www\.w3\.org/2000/svg)", report(run).read_text())


def test_text_of_a_survey_stays_text(run, mock_survey):
    run.card["survey"]["name"] = run.card["arch"] = EVIL
    write_json(run.path / "captions.json", {})
    write_json(run.path / "figures" / "captions.json", {"density.png": EVIL, "models": EVIL})
    metrics = read_json(run.path / "metrics.json")
    metrics["arch"], metrics["survey"] = EVIL, EVIL
    metrics["targets"]["metallicity"]["not_possible"] = {EVIL: EVIL}
    metrics["mzr"] = {"reason": EVIL}
    write_json(run.path / "metrics.json", metrics)
    change_table(run, lambda t: t.assign(split=t["split"] + EVIL))
    text = report(run).read_text()
    page = Page(text)
    assert len(page.all("script")) == 2 and "boom()" not in page.scripts[1]
    assert text.count("<script") == 2 and text.count("</script>") == 2
    assert not any(a.get("onerror") or a.get("src") == "x" for a in page.all("img"))
    assert page.galaxies["split"][0].endswith(EVIL)


def test_a_run_that_was_never_evaluated_is_evaluated_and_each_target_has_its_columns(mock_survey, tmp_path):
    targets = ("metallicity", "log_mass")
    run = train(mock_survey, tmp_path / "run", "xresnet_tiny", epochs=1, precision="fp32", targets=targets, quiet=True)
    text = report(run).read_text()
    assert (run.path / "metrics.json").is_file()
    assert "galaxy-cnn mzr run" in text and "test galaxies" in text
    found = Page(text).galaxies
    assert {"metallicity_residual", "log_mass_residual"} <= set(found) and "mass" not in found
    assert "0.2229" in text and "Stellar mass: " in text


def test_what_is_missing_is_named_with_the_command_that_makes_it(run):
    run.card["survey"]["path"] = "/nowhere"
    change_table(run, without_error_bars)
    change_metrics(run, drop_intervals)
    for figure in (run.path / "figures").glob("*.png"): figure.unlink()
    text = report(run).read_text()
    page = Page(text)
    assert "report run --survey SURVEY" in text and "galaxy-cnn evaluate run" in text
    assert "carry no error bars" in text and not page.all("img")
    assert "No error bars for metallicity: too few." in text and "flagged" not in text
    assert not {"sigma", "lo90", "hi90", "flag"} & set(page.galaxies)
    assert "galaxy-cnn explain run" in text and "galaxy-cnn experiments mock --out run/experiments" in text
    with pytest.raises(InputError, match="captions.json"):
        (run.path / "figures" / "a.png").write_bytes(b"")
        write_json(run.path / "figures" / "captions.json", [1])
        report(run)


def test_another_survey_is_refused(run, mock_survey, tmp_path):
    other = shutil.copytree(mock_survey.path, tmp_path / "other")
    assert report(run, other, tmp_path / "same.html").is_file()
    next((other / "images").glob("*.jpg")).write_bytes(b"")
    with pytest.raises(InputError, match="not the Survey"): report(run, other)


def test_error_bars_and_flags_reach_the_page(run):
    text, metrics = report(run).read_text(), read_json(run.path / "metrics.json")
    assert set(Page(text).galaxies) >= {"sigma", "lo90", "hi90", "flag"}
    for v in metrics["targets"]["metallicity"]["intervals"].values():
        value, lo, hi = (100 * v["coverage"][end] for end in ("value", "lo", "hi"))
        assert f"<td>{value:.1f} <small>({lo:.1f} to {hi:.1f})" in text
        assert f"<td>{v['mean_width']['value']:.3f} " in text and f"<td>{v['ratio_width']['value']:.3f} " in text
    flagged = metrics["flagged"]
    assert f"{flagged['flagged']} of {flagged['n']} galaxies" in text and 'alt="Calibration"' in text
    assert "farthest from the observation in units of their own standard error" in text
    assert "carry no error bars" not in text


def test_coverage_is_what_evaluate_found(run):
    def changed(metrics):
        metrics["targets"]["metallicity"]["intervals"]["0.9"]["coverage"]["value"] = 0.4321
        metrics["flagged"]["flagged"] = 1
    change_metrics(run, changed)
    text = report(run).read_text()
    n = read_json(run.path / "metrics.json")["flagged"]["n"]
    assert "<td>43.2 <small>(" in text and f"1 of {n} galaxies is flagged" in text


def test_the_unit_of_error_bars_is_that_of_the_target(run):
    run.card["targets"] = ["petroMag_r"]
    def of_magnitudes(table):
        table = table.rename(columns=lambda c: c.replace("metallicity_", "petroMag_r_"))
        return table.assign(petroMag_r_pred=table["petroMag_r"] + 0.1)
    change_table(run, of_magnitudes)
    def renamed(metrics): metrics["targets"]["petroMag_r"] = metrics["targets"].pop("metallicity")
    change_metrics(run, renamed)
    page = Page(text := report(run).read_text())
    units = {f["key"]: f["unit"] for f in json.loads(page.scripts[0])["fields"]}
    assert {units[key] for key in ("observed", "predicted", "residual", "sigma", "lo90", "hi90")} == {"mag"}
    assert "mean width [mag]" in text and "mag RMSE" in text and "dex RMSE" not in text


def test_a_gaussian_process_is_in_the_lead_sentence(run):
    assert "Gaussian process on what" not in report(run).read_text()
    alone = {"network_alone": 0.3, "process_alone": 0.2, "headline": 0.1}
    errors = {k: {"valid_rmse_metallicity": v} for k, v in alone.items()}
    run.card["gp"] = {"file": "gp.safetensors", "share": 0.5, **errors}
    text = report(run).read_text()
    process = "with a Gaussian process on what the pretrained network reads"
    assert f"2 networks (xresnet_tiny), each {process}, were trained" in text
    assert "the networks weigh 50 %" in text and "CNN and Gaussian process (xresnet_tiny)" in text


def grown(table, n):
    "The galaxies of a table over and over, `n` of them, each with an id of its own"
    table = pd.concat([table] * (n // len(table) + 1), ignore_index=True).iloc[:n]
    return table.assign(objID=table["objID"].to_numpy() + np.arange(n) * 2**20, split="fold0")


def test_the_page_stays_small(run):
    "20,000 galaxies with error bars and more figures than there is room for"
    change_table(run, lambda t: with_error_bars(grown(t, 20_000)))
    (run.path / "explain").mkdir()
    rng = np.random.default_rng(0)
    for i in range(12):
        noise = rng.integers(256, size=(700, 700, 3), dtype="uint8")
        Image.fromarray(noise).save(run.path / "explain" / f"{i}.png")
    text = report(run).read_text()
    page = Page(text)
    assert len(page.galaxies["objID"]) == 20_000 and "The table holds" not in text
    assert "too large for this page" in text and FIGURE_BYTES < len(text) < 8_000_000


def test_a_cut_table_says_so_and_keeps_the_galleries(run):
    change_table(run, lambda t: grown(t, MAX_TABLE_ROWS + 5000))
    text = report(run).read_text()
    page = Page(text)
    assert f"The table holds {MAX_TABLE_ROWS:,} of {MAX_TABLE_ROWS + 5000:,} galaxies" in text
    ids = page.galaxies["objID"]
    assert len(ids) == len(set(ids)) == MAX_TABLE_ROWS
    table = pd.read_parquet(run.path / "predictions.parquet")
    off = (table["metallicity_pred"] - table["oh_p50"]).abs().to_numpy()
    shown = [ids[int(a["data-row"])] for a in page.all("button") if "data-row" in a]
    assert off[table["objID"].astype(str) == shown[0]] == off.max()


def test_the_page_of_real_galaxies_says_real(real, tmp_path):
    survey = real / "sdss_sample"
    run = train(survey, tmp_path / "run", arch="xresnet_tiny", epochs=1, folds=2, precision="fp32", quiet=True)
    evaluate(run, tta=False)
    mzr(run)
    text = report(run).read_text()
    assert "mock sky" not in text and "simulated" not in text
    assert "real galaxies" in text and "no stellar masses" in text
    change_table(run, without_error_bars)
    assert "ridge regression on the picture" in report(run).read_text()


# In a browser ----------------------------------------------------------------------------------------------------

@contextmanager
def deadline(seconds, what):
    "Fail where something takes longer: playwright's own start and stop, `evaluate` and `close` have no timeout"
    def late(*_): raise TimeoutError(f"{what} took more than {seconds} s")
    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try: yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def start_browser(playwright, executable, seconds=START):
    "A browser; the test fails where it does not start in time"
    try:
        with deadline(seconds + STEP, "The start of the browser"):
            return playwright.chromium.launch(executable_path=executable, args=FLAGS, timeout=1000 * seconds)
    except Exception as error:
        pytest.fail(f"{executable} did not start within {seconds} s: {str(error)[:2000]}", pytrace=False)


@pytest.fixture(scope="module")
def playwright():
    "What drives the browser, or the reason why there is none"
    if not CHROMIUM: pytest.skip("no chromium here: `apt-get install chromium`, or name one in GALAXY_CNN_BROWSER")
    missing = "playwright is not installed: pip install -e '.[dev]'"
    driver = pytest.importorskip("playwright.sync_api", reason=missing).sync_playwright()
    try:
        with deadline(START, "The start of playwright's driver"): started = driver.start()
    except TimeoutError as error: pytest.fail(str(error), pytrace=False)
    yield started
    with deadline(STEP, "The end of playwright's driver"): started.stop()


@pytest.fixture(scope="module")
def browser(playwright):
    "One browser for all tests"
    browser = start_browser(playwright, CHROMIUM)
    yield browser
    with deadline(STEP, "The end of the browser"): browser.close()


@pytest.fixture(scope="module")
def hostile_page(finished, tmp_path_factory):
    "The page of a Run with error bars, in which text tries to be HTML"
    run = read_run(shutil.copytree(finished.path, tmp_path_factory.mktemp("pages") / "<img src=x onerror=boom()>"))
    change_table(run, lambda t: with_error_bars(t).assign(split=t["split"] + EVIL))
    write_json(run.path / "figures" / "captions.json", {"density.png": EVIL})
    return report(run)


@pytest.fixture(params=[(1400, "light"), (400, "dark")], ids=["wide", "narrow"])
def tab(browser, hostile_page, request):
    "The page in a window; whatever it asks for or complains about fails the test"
    width, scheme = request.param
    heard = []
    with deadline(STEP, "A new page"):
        tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab.set_default_timeout(1000 * STEP)
    tab.on("console", lambda m: heard.append(m.text))
    tab.on("pageerror", lambda e: heard.append(str(e)))
    tab.on("request", lambda r: heard.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
    with deadline(WALK, "A test in the browser"):
        tab.goto(hostile_page.as_uri())
        yield tab
    with deadline(STEP, "The end of a page"): tab.close()
    assert not heard


def overflow(tab): return tab.evaluate("document.documentElement.scrollWidth - window.innerWidth")


def column(tab, key):
    "Numbers of a column of the page of the table that is shown"
    find = "key => [...document.querySelectorAll('#headings th')].findIndex(h => h.dataset.key === key)"
    place = tab.evaluate(find, key)
    return [float(t.replace("−", "-")) for t in tab.locator(f"#rows td:nth-child({place + 1})").all_inner_texts()]


def test_a_browser_that_does_not_start_fails_the_test(playwright, tmp_path):
    (stuck := tmp_path / "stuck").write_text("#!/bin/sh\nexec sleep 30\n")
    stuck.chmod(0o755)
    with pytest.raises(pytest.fail.Exception, match="stuck did not start within 1 s"):
        start_browser(playwright, stuck, 1)


def test_a_step_that_does_not_end_fails_the_test(browser):
    with deadline(STEP, "A new page"): tab = browser.new_page()
    with pytest.raises(TimeoutError, match="A promise took more than 1 s"), deadline(1, "A promise"):
        tab.evaluate("() => new Promise(() => {})")
    with deadline(STEP, "The page after that"): assert tab.evaluate("1 + 1") == 2 and tab.close() is None


def test_the_page_fits_the_window(tab):
    assert overflow(tab) <= 0
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") in ("rgb(251, 250, 248)", "rgb(20, 22, 27)")
    assert tab.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")


def test_a_picture_opens_with_its_values_and_the_keyboard_walks_on(tab, hostile_page):
    galaxies = Page(hostile_page.read_text()).galaxies
    second = tab.locator(".tile").nth(1)
    row = int(second.get_attribute("data-row"))
    second.focus()
    tab.keyboard.press("Enter")
    view = tab.locator("dialog[open]")
    assert galaxies["objID"][row] in view.inner_text() and "2 of 12" in view.inner_text()
    values = dict(zip(view.locator("dt").all_inner_texts(), view.locator("dd").all_inner_texts()))
    assert values["observed 12 + log(O/H) [dex]"] == f"{galaxies['observed'][row]:.3f}"
    assert values["90 % interval to [dex]"] == f"{galaxies['hi90'][row]:.3f}"
    assert {"redshift", "stellar mass [log Msun]"} <= set(values)
    assert view.locator(".error .bar").count() == 1 and view.locator("img").count() == 1
    tab.keyboard.press("ArrowRight")
    assert "3 of 12" in view.inner_text() and galaxies["objID"][row] not in view.inner_text()
    for _ in range(3): tab.keyboard.press("ArrowLeft")
    assert "12 of 12" in view.inner_text() and overflow(tab) <= 0
    tab.keyboard.press("Escape")
    assert tab.locator("dialog[open]").count() == 0
    assert second.evaluate("b => b === document.activeElement"), "the keyboard is back where it was"


def test_a_figure_opens_large_and_its_caption_is_text(tab):
    tab.locator(".zoom").first.click()
    view = tab.locator("dialog[open]")
    assert "onerror" in view.inner_text() and view.locator("img").count() == 1
    tab.locator("#view-close").click()
    assert tab.locator("dialog[open]").count() == 0


def test_the_table_sorts_and_turns_pages(tab, hostile_page):
    galaxies = Page(hostile_page.read_text()).galaxies
    heading = tab.locator("#headings th[data-key=residual]")
    heading.locator("button").click()
    assert column(tab, "residual") == sorted(galaxies["residual"])[:25]
    assert heading.get_attribute("aria-sort") == "ascending"
    heading.locator("button").click()
    assert column(tab, "residual") == sorted(galaxies["residual"], reverse=True)[:25]
    assert heading.get_attribute("aria-sort") == "descending"
    tab.locator("#next").click()
    assert column(tab, "residual") == sorted(galaxies["residual"], reverse=True)[25:50]
    tab.locator("#headings th[data-key=objID] button").click()
    assert tab.locator("#rows td button").first.inner_text() == min(galaxies["objID"], key=int)


def test_the_table_is_searched(tab, hostile_page):
    galaxies = Page(hostile_page.read_text()).galaxies
    def search(text): tab.locator("#search").fill(text)
    search("residual>0.05 flag=yes")
    many = sum(r > 0.05 and f == "yes" for r, f in zip(galaxies["residual"], galaxies["flag"]))
    assert tab.locator("#count").inner_text() == f"{many} of {len(galaxies['flag'])} galaxies"
    assert all(r > 0.05 for r in column(tab, "residual"))
    search(galaxies["objID"][7])
    assert tab.locator("#rows tr").count() == 1
    tab.locator("#rows td button").click()
    assert galaxies["objID"][7] in tab.locator("dialog[open]").inner_text()
    tab.keyboard.press("Escape")
    search("nonsense>1")
    assert tab.locator("#count").inner_text() == "There is no column nonsense." and tab.locator("#rows tr").count() == 0
    search("")
    assert tab.locator("#rows tr").count() == 25


def test_the_provenance_opens(tab, finished):
    details = tab.locator("details")
    assert not details.locator("pre").first.is_visible()
    tab.locator("summary").focus()
    tab.keyboard.press("Enter")
    assert "galaxy-cnn train" in details.locator("pre").first.inner_text()
    assert finished.card["survey"]["fingerprint"] in details.inner_text()
    assert overflow(tab) <= 0
    tab.keyboard.press("Enter")
    assert not details.locator("pre").first.is_visible()


def test_it_prints(tab):
    tab.emulate_media(media="print")
    assert not tab.locator("nav").is_visible() and not tab.locator(".tools").is_visible()
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_everything_fits_the_paper(tab):
    tab.emulate_media(media="print")
    tab.set_viewport_size({"width": PAPER, "height": 1000})
    tab.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert overflow(tab) <= 0
    right = "name => Math.max(...[...document.querySelectorAll(name)].map(e => e.getBoundingClientRect().right))"
    for name in ("#table", ".coverage", ".models", "table", "figure", "pre", ".tiles"):
        assert 0 < tab.evaluate(right, name) <= PAPER, name
    assert tab.locator("#rows tr").count() == 25 and tab.locator("#table thead th").last.is_visible()
