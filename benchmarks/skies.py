"""Skies for tests and benchmarks of the download: a catalog from the mock sky, pictures of nothing, a server process.

    python benchmarks/skies.py SURVEY [--as legacy] [--latency 0.1] [--log FILE]    serves a Survey until it is killed
"""
import subprocess
import sys
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from harness import option_parser
from PIL import Image

from galaxy_cnn.catalogs import COLUMNS
from galaxy_cnn.local_server import ImageService
from galaxy_cnn.mock_catalog import draw_catalog
from galaxy_cnn.second_sky import PlaneService, serve_as
from galaxy_cnn.survey import read_survey, write_survey

DISTINCT = 64  # pictures drawn; each file has its galaxy's id in a comment, so that all files differ


def noise_jpeg(rng, size=128) -> bytes:
    "A JPEG of about 2 kB that is no galaxy: a blob on noise"
    y, x = np.mgrid[-1:1:size * 1j, -1:1:size * 1j]
    distance = x**2 + y**2 * rng.uniform(1, 3)
    blob = 180 * np.exp(-distance / rng.uniform(0.02, 0.1))
    color = rng.uniform(0.6, 1, 3)
    image = 25 + blob[..., None] * color + rng.normal(0, 4, (size, size, 1))
    image, buffer = np.clip(image, 0, 255).astype("uint8"), BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=75)
    return buffer.getvalue()


def signed(jpeg, text) -> bytes:
    "The same picture with a comment in its header"
    comment = str(text).encode()
    size = (len(comment) + 2).to_bytes(2, "big")
    return jpeg[:2] + b"\xff\xfe" + size + comment + jpeg[2:]


class NoisePlanes(PlaneService):
    "Planes of noise for the galaxies of any Survey with positions, in place of galaxies that take time to draw"
    def __init__(self, survey): ImageService.__init__(self, survey, survey.catalog["ra"], survey.catalog["dec"])

    def draw(self, row, scale, size): return np.random.default_rng(row).normal(0, 1, (3, size, size)).astype("float32")


def make_sky(path, n, seed=0, size=128, south=False):
    "A Survey of n galaxies: the mock sky's catalog, cheap pictures, quick enough for 100,000; south: none far north"
    path, rng = Path(path), np.random.default_rng(seed)
    catalog = draw_catalog(n, seed=seed)
    catalog = catalog[[c for c in catalog if c in COLUMNS]]
    if south: catalog["dec"] = catalog["dec"].clip(upper=30)
    pictures = [noise_jpeg(rng, size) for _ in range(min(n, DISTINCT))]
    (path / "images").mkdir(parents=True)
    for i, objID in enumerate(catalog["objID"]):
        (path / "images" / f"{objID}.jpg").write_bytes(signed(pictures[i % DISTINCT], objID))
    note = "noise, not galaxies: for tests of the download"
    return write_survey(path, catalog, {"source": "mock", "size": size, "note": note})


@contextmanager
def served(survey, latency=0.0, log=None, provider="sdss"):
    "The URL of a server over a Survey, in a process of its own"
    command = [sys.executable, __file__, str(survey), "--latency", str(latency), "--as", provider]
    if log: command += ["--log", str(log)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try: yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


def since(log, position, sky):
    "Cutouts (objIDs) and the number of queries asked for since a position in a server's log"
    kinds = [line.split()[1:3] for line in Path(log).read_text()[position:].splitlines()]
    ids = sky.catalog["objID"].tolist()
    cutouts = [ids[int(i)] for kind, i in kinds if kind == "cutout"]
    return cutouts, sum(kind == "query" for kind, _ in kinds)


def same_images(out, sky):
    "Whether a download holds the very bytes of a sky's pictures"
    def same(i): return (out / "images" / f"{i}.jpg").read_bytes() == sky.image_path(i).read_bytes()
    return all(same(i) for i in sky.catalog["objID"])


def main(args):
    survey, options = read_survey(args.survey), {"latency": args.latency, "log": args.log}
    options |= {"pictures": NoisePlanes(survey)} if args.provider == "legacy" else {"queries": 10**6}
    server = serve_as(survey, args.provider, **options)
    print(server.url, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    parser = option_parser(__doc__)
    parser.add_argument("survey")
    parser.add_argument("--as", dest="provider", default="sdss", help="sdss or legacy, which sends planes of noise")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before every answer")
    parser.add_argument("--log", help="a file that gets one line per request")
    main(parser.parse_args())
