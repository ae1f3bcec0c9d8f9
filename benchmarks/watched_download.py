"""How much memory a download takes in a process that has just started and holds nothing else; part of download.py.

    python benchmarks/watched_download.py OUT URL     prints the number of cutouts and the resident memory [MB] as JSON
"""
import json
import sys
import threading
import time
from pathlib import Path

from galaxy_cnn import download


class Watch:
    "Resident memory of this process [MB]: now, and the most that a thread has seen"
    def __init__(self):
        self.most = self.now()
        threading.Thread(target=self.look, daemon=True).start()

    def now(self): return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

    def look(self):
        while True:
            self.most = max(self.most, self.now())
            time.sleep(0.02)


def main(out, url):
    watch, fetch = Watch(), download.fetch_cutouts
    seen = {"at_start_MB": watch.now()}
    def fetch_watched(*args, **kwargs):
        before = watch.most
        seen["before_the_first_cutout_MB"] = watch.most = watch.now()
        reason = fetch(*args, **kwargs)
        seen["peak_until_the_last_cutout_MB"] = watch.most
        watch.most = max(watch.most, before)
        return reason
    download.fetch_cutouts = fetch_watched
    began = time.monotonic()
    done = download.download(out, base_url=url, cuts="none", progress=False)
    seen |= {"peak_MB": watch.most, "seconds": time.monotonic() - began}
    assert done["complete"], done
    print(json.dumps({"n": done["outcomes"]["ok"], "found": {k: round(v, 1) for k, v in seen.items()}}))


if __name__ == "__main__": main(*sys.argv[1:])
