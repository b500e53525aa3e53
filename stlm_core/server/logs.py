"""One JSON object a line on standard error: never an image, a file's name, a header or a secret."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

_LOGGER = logging.getLogger("stlm.server")


def log(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Write an event with its fields; what is None is left out."""
    _LOGGER.log(level, event, extra={"fields": fields})


class JsonFormatter(logging.Formatter):
    """``time`` (UTC), ``level``, ``event`` and the event's fields; of an exception the kind and the place."""

    def format(self, record: logging.LogRecord) -> str:
        """See the class."""
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        if record.name != _LOGGER.name:
            told["logger"] = record.name
        told |= {name: value for name, value in getattr(record, "fields", {}).items() if value is not None}
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            # The message of an exception may hold what a caller sent; kind and place are ours.
            told["exception"] = type(error).__name__
            told["at"] = [f"{frame.name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-5:]]
        return json.dumps(told, ensure_ascii=False, default=str)


def set_up_logs() -> None:
    """Send this server's and uvicorn's records to standard error as JSON; those of libraries from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    _LOGGER.setLevel(logging.INFO)
    for name, level in (("uvicorn", logging.WARNING), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers[:] = []
        logger.propagate = True
        logger.setLevel(level)
    # Its access log would repeat ours.
    logging.getLogger("uvicorn.access").disabled = True
