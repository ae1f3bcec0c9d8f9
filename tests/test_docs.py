"The documentation site: built from the stored notebooks, whole, without a network, and readable in a browser"
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parent.parent
pytest.importorskip("myst_nb", reason="the site needs pip install -e '.[docs]'")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("docs") / "site"
    done = subprocess.run([sys.executable, ROOT / "docs" / "build.py", out], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return out


class Page(HTMLParser):
    "Links, names of places and loaded files of a page"
    def __init__(self, file):
        super().__init__()
        self.links, self.places, self.loaded, self.formulas = [], {""}, [], 0
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.formulas += tag == "math"
        if attrs.get("id"): self.places.add(attrs["id"])
        if tag == "a" and attrs.get("href"): self.links.append(attrs["href"])
        if tag in ("script", "img", "iframe") and attrs.get("src"): self.loaded.append(attrs["src"])
        if tag == "link" and attrs.get("rel") in ("stylesheet", "preload", "icon"): self.loaded.append(attrs["href"])


@pytest.fixture(scope="module")
def pages(site): return {f: Page(f) for f in site.rglob("*.html") if "_static" not in f.parts}


def test_every_chapter_and_module_has_its_page(site):
    for notebook in (ROOT / "nbs").glob("*.ipynb"): assert (site / "nbs" / f"{notebook.stem}.html").is_file(), notebook
    for module in (ROOT / "galaxy_cnn").glob("[a-z]*.py"):
        if module.stem != "all": assert (site / "api" / f"{module.stem}.html").is_file(), module


def test_no_link_is_dead(site, pages):
    dead = []
    for file, page in pages.items():
        for link in page.links + page.loaded:
            if re.match(r"(https?|mailto|data):", link): continue
            path, _, place = link.partition("#")
            target = (file.parent / unquote(path.partition("?")[0])).resolve() if path else file
            if not target.exists(): dead.append((file.name, link))
            elif place and target in pages and unquote(place) not in pages[target].places: dead.append((file.name, link))
    assert not dead


def test_links_to_the_repository_lead_to_files_in_it(pages):
    found = [link for page in pages.values() for link in page.links if "/blob/main/" in link]
    assert found
    missing = {link for link in found if not (ROOT / link.partition("/blob/main/")[2].partition("#")[0]).exists()}
    assert not missing


def test_nothing_is_loaded_from_elsewhere(pages):
    assert not [(f.name, x) for f, page in pages.items() for x in page.loaded if re.match(r"(https?:)?//", x)]


def test_formulas_are_drawn_and_directives_are_not(site, pages):
    assert sum(page.formulas for page in pages.values()) > 40
    for file in (site / "nbs").glob("*.html"): assert not re.search(r"#\| ?(export|hide|default_exp)", file.read_text()), file


def test_api_shows_signatures_with_their_comments(site):
    text = re.sub(r"<[^>]+>", "", (site / "api" / "metrics.html").read_text())
    assert "def nmad(" in text and "# " in text.partition("def nmad(")[2][:300]


@pytest.mark.parametrize("width", [1400, 420])
def test_a_browser_reads_and_searches_it_without_a_network(site, pages, width):
    sync_api = pytest.importorskip("playwright.sync_api")
    browser_file = next((f for f in ("/usr/bin/chromium", "/usr/bin/chromium-browser") if Path(f).exists()), None)
    if not browser_file: pytest.skip("no chromium")
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=browser_file, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900})
        asked = []
        page.on("request", lambda r: asked.append(r.url))
        page.goto(max(pages, key=lambda f: pages[f].formulas).as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        boxes = [formula.bounding_box() for formula in page.locator("math").all()]
        assert all(box["width"] > 5 and box["height"] > 8 for box in boxes)
        assert max(box["width"] for box in boxes) > 40
        page.goto((site / "search.html").as_uri() + "?q=metallicity")
        page.wait_for_selector("#search-results li a")
        page.wait_for_function("document.querySelectorAll('#search-results li').length > 5")
        browser.close()
    assert not [url for url in asked if not url.startswith(("file:", "data:"))]
