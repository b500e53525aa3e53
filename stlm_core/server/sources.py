"""Where champions come from: MLflow's registry, or a single file on the machine."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from stlm_core.errors import StlmError, UserError
from stlm_core.files import sha256_bytes
from stlm_core.integrations.mlflow_client import Tracking, open_tracking
from stlm_core.integrations.mlflow_registry import CHAMPION, Registry
from stlm_core.runtime.model import DetectorSession
from stlm_core.server.champion import Candidate

SIGNATURE_SUFFIX = ".sig"
SHA256_TAG, SIGNATURE_TAG = "onnx_sha256", "onnx_signature"
_SHOWN_TAGS = ("image_auroc", "aupro_30", "recall_at_budget", "promoted_at", "promoted_by", "code_version")
_PREFIX = "stlm-"
LINE_NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,62}[a-z0-9])?")
"""As in ``stlm_core.config``, which needs a YAML parser that an edge box may not have."""


@dataclass(frozen=True)
class Offer:
    """A candidate, and how to get its bytes."""

    candidate: Candidate
    content: Callable[[], bytes]


class Opened(Protocol):
    """A source that answers, for a while."""

    def lines(self) -> list[str]:
        """The lines that have something to offer now; what a server of all lines serves."""

    def offer(self, line: str) -> Offer | None:
        """What should be in service; None if nothing is named."""


class Source(Protocol):
    """A place that says what should be in service.

    ``name`` is fit for logs. Used by one thread only: opening MLflow changes the process's environment meanwhile.
    """

    name: str

    def opened(self) -> AbstractContextManager[Opened]:
        """Connect.

        Raises:
            StlmError: nothing answers there.
        """


class RegistrySource:
    """The alias ``champion`` in MLflow's registry, as ``MLFLOW_TRACKING_URI`` or the project in ``root`` says."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = "the registry"

    @contextmanager
    def opened(self) -> Iterator[Opened]:
        """Connect; see :class:`Source`."""
        with open_tracking(self.root) as tracking:
            self.name = tracking.store
            yield _OpenRegistry(tracking)


class _OpenRegistry:
    def __init__(self, tracking: Tracking) -> None:
        self._tracking = tracking

    def lines(self) -> list[str]:
        lines: list[str] = []
        token: str | None = None
        while True:
            page = self._tracking.client.search_registered_models(
                filter_string=f"name LIKE '{_PREFIX}%'", max_results=100, page_token=token
            )
            names = [model.name.removeprefix(_PREFIX) for model in page if CHAMPION in model.aliases]
            lines += [name for name in names if LINE_NAME.fullmatch(name)]
            token = page.token
            if not token:
                return sorted(lines)

    def offer(self, line: str) -> Offer | None:
        registry = Registry(self._tracking, line)
        version = registry.at(CHAMPION)
        if version is None:
            return None
        if SHA256_TAG not in version.tags:
            raise StlmError(f"{registry.name} version {version.number}: has no tag `{SHA256_TAG}`; register it again")
        candidate = Candidate(
            line=line,
            version=str(version.number),
            sha256=version.tags[SHA256_TAG],
            signature=version.tags.get(SIGNATURE_TAG),
            source=self._tracking.store,
            tags={name: version.tags[name] for name in _SHOWN_TAGS if name in version.tags},
        )

        def content() -> bytes:
            with tempfile.TemporaryDirectory(prefix="stlm-champion-") as folder:
                return registry.model_file(version, Path(folder)).read_bytes()

        return Offer(candidate, content)


class FileSource:
    """One ``model.onnx`` on disk; replaced there, it is taken into service like a new champion.

    A signature is looked for in a file beside it, named like it with ``.sig`` at the end.

    Args:
        line: the line that the file must be of; None for whichever it says.

    Raises:
        UserError: the file is not a detector.
    """

    def __init__(self, path: Path, line: str | None) -> None:
        self.path = path
        self.name = path.name
        self.line = line or DetectorSession(path, threads=1).line
        self._seen: tuple[tuple[int, int, int], str] | None = None

    @contextmanager
    def opened(self) -> Iterator[Opened]:
        """Nothing to open."""
        yield self

    def lines(self) -> list[str]:
        """The file's line."""
        return [self.line]

    def offer(self, line: str) -> Offer | None:
        """The file as it is now; it is read again only where it has changed."""
        try:
            status = self.path.stat()
            mark = (status.st_ino, status.st_size, status.st_mtime_ns)
            if self._seen is None or self._seen[0] != mark:
                self._seen = mark, sha256_bytes(self.path.read_bytes())
            sha256 = self._seen[1]
            beside = self.path.with_name(self.path.name + SIGNATURE_SUFFIX)
            signature = beside.read_text(encoding="ascii").strip() if beside.is_file() else None
            candidate = Candidate(line, sha256[:12], sha256, signature, self.name, {})
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "the signature is not text"
            raise UserError(f"{self.path}: cannot be read: {why}") from None
        return Offer(candidate, self.path.read_bytes)
