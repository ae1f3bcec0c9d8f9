"""Run notebooks top to bottom in a Jupyter kernel, each from its own folder; cells flagged slow, cuda or net are left out."""
import argparse
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FLAGGED = re.compile(r"^#\|\s*(slow|cuda|net|eval:\s*false)\b", re.M)


def run(path):
    "Execute one notebook; return its error, or None"
    notebook = nbformat.read(path, 4)
    notebook.cells = [c for c in notebook.cells if c.cell_type != "code" or not FLAGGED.search(c.source)]
    started = time.perf_counter()
    try:
        NotebookClient(notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
        error = None
    except CellExecutionError as e: error = str(e)
    print(f"{path.name}: {'failed' if error else 'ran'} in {time.perf_counter() - started:.0f} s", flush=True)
    return error


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    with ThreadPoolExecutor(args.workers) as pool: errors = [e for e in pool.map(run, args.notebooks) if e]
    print(f"{len(args.notebooks) - len(errors)} passed, {len(errors)} failed")
    sys.exit("\n".join(errors) or 0)
