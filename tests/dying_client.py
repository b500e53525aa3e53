"""Commands that die at their n-th write to MLflow, before or after the server has done it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from stlm_core.integrations import registry_lock
from stlm_core.integrations.mlflow_client import Tracking, open_tracking


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the code under test may catch it and tidy up."""


def _raise() -> NoReturn:
    raise Killed


class DiesAtWrite:
    """An MLflow client for so many writes; ``after``: the server has done the last one, only the answer is lost."""

    WRITES = ("create_", "log_", "set_", "delete_", "finalize_")

    def __init__(self, client: Any, counter: list[int], *, after: bool, die: Callable[[], Any]) -> None:
        self._client, self._left, self._after, self._die = client, counter, after, die

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if not name.startswith(self.WRITES):
            return method

        def write(*args: Any, **kwargs: Any) -> Any:
            self._left[0] -= 1
            if self._left[0] == 0 and not self._after:
                self._die()
            result = method(*args, **kwargs)
            if self._left[0] == 0:
                self._die()
            return result

        return write


def die_at_write(
    patch: pytest.MonkeyPatch, module: str, writes: int, *, after: bool = False, die: Callable[[], Any] = _raise
) -> list[int]:
    """Let the command of ``stlm_core.steps.<module>`` die; the list's one number is how many writes are left to it."""
    left = [writes]

    @contextlib.contextmanager
    def dying(root: Path, *address: str) -> Iterator[Tracking]:
        with open_tracking(root, *address) as opened:
            client: Any = DiesAtWrite(opened.client, left, after=after, die=die)
            yield Tracking(client, opened.store, opened.artifact_root)

    patch.setattr(f"stlm_core.steps.{module}.open_tracking", dying)
    return left


def known_to_be_dead(patch: pytest.MonkeyPatch) -> None:
    """Whoever left something of a lock is gone, as a killed process would be; its stand-in is this process."""
    patch.setattr(registry_lock, "_is_dead", lambda entry: True)
