"""Callers of an inspection server, in a process of their own: each sends its next image when it has its answer.

`python callers.py URL LINE CALLERS SECONDS OUT IMAGE...` writes to OUT a line for each request: when it was sent
(seconds since 1970), how long it took (seconds), status, version. Status 0: no answer came. SECONDS of `-`: until
standard input ends.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

Answer = tuple[float, float, int, str]


def call(address: str, line: str, images: list[bytes], first: int, end: threading.Event, answers: list[Answer]) -> None:
    """One caller, on one connection that is kept."""
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    index = first
    while not end.is_set():
        content = images[index % len(images)]
        index += 1
        sent = time.time()
        began = time.perf_counter()
        try:
            connection.request("POST", f"/v1/lines/{line}/inspect", body=content, headers={"Content-Type": "image/png"})
            response = connection.getresponse()
            told = json.loads(response.read())
            status, version = response.status, str(told.get("version", ""))
        except (OSError, http.client.HTTPException, ValueError):
            connection.close()
            status, version = 0, ""
        answers.append((sent, time.perf_counter() - began, status, version))
    connection.close()


def main() -> None:
    """See the module."""
    url, line, callers, seconds, out, *paths = sys.argv[1:]
    images = [Path(path).read_bytes() for path in paths]
    answers: list[list[Answer]] = [[] for _ in range(int(callers))]
    end = threading.Event()
    threads = [
        threading.Thread(target=call, args=(url, line, images, index, end, own)) for index, own in enumerate(answers)
    ]
    for thread in threads:
        thread.start()
    if seconds == "-":
        sys.stdin.read()
    else:
        time.sleep(float(seconds))
    end.set()
    for thread in threads:
        thread.join()
    found = sorted(answer for own in answers for answer in own)
    Path(out).write_text("\n".join(json.dumps(answer) for answer in found))


if __name__ == "__main__":
    main()
