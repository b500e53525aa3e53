"""The bare onnxruntime call and then the server, in one process: what a request costs beyond the network's time.

`python bare_then_serve.py MODEL SECONDS OUT IMAGE... -- STLM-SERVE-OPTIONS...` writes to OUT a JSON object: images a
second of the bare call on arrays, and with decoding, by number of threads that call it; then it is `stlm serve`.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from stlm_core.cli import main as stlm
from stlm_core.data.images import decode_image
from stlm_core.runtime.model import DetectorSession
from stlm_core.server.settings import Limits


def rate(work: Callable[[int], object], threads: int, seconds: float) -> float:
    """How often ``work`` is done in a second by so many threads."""
    counts = [0] * threads
    end = time.perf_counter() + seconds

    def run(own: int) -> None:
        while time.perf_counter() < end:
            work(own + counts[own])
            counts[own] += 1

    running = [threading.Thread(target=run, args=(own,)) for own in range(threads)]
    began = time.perf_counter()
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return sum(counts) / (time.perf_counter() - began)


def main() -> None:
    """See the module."""
    at = sys.argv.index("--")
    model, seconds, out, *paths = sys.argv[1:at]
    limits = Limits()
    contents = [Path(path).read_bytes() for path in paths]
    arrays = [decode_image(Path("image"), content)[None] for content in contents]
    session = DetectorSession(Path(model), threads=limits.threads)
    for array in arrays[:3]:
        session.predict(array)

    def bare(index: int) -> object:
        return session.predict(arrays[index % len(arrays)])

    def with_decoding(index: int) -> object:
        return session.predict(decode_image(Path("image"), contents[index % len(contents)])[None])

    found = {}
    for threads in range(1, limits.workers + 1):
        found[threads] = {
            "bare": rate(bare, threads, float(seconds)),
            "with_decoding": rate(with_decoding, threads, float(seconds)),
        }
    Path(out).write_text(json.dumps(found))
    sys.argv = ["stlm", "serve", *sys.argv[at + 1 :]]
    stlm()


if __name__ == "__main__":
    main()
