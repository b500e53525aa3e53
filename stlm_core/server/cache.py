"""The last verified champion of each line on disk, for a start without the registry."""

from __future__ import annotations

from pathlib import Path

from stlm_core.errors import StlmError, UserError
from stlm_core.files import read_json_object, sha256_bytes, write_bytes_atomic, write_json_atomic
from stlm_core.server.champion import Candidate

_REMEDY = "remove it; the next start with the registry writes it again"
_RECORD, _MODEL = "champion.json", "model-{}.onnx"


class Cache:
    """``folder/<line>/champion.json`` names ``folder/<line>/model-<sha256>.onnx``.

    The record is written after the file and old files go last, so a killed server leaves a usable pair. What is read
    is verified like anything from the registry; against who can write to the folder only a signature helps.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, candidate: Candidate, content: bytes) -> None:
        """Keep a champion in place of an earlier one of its line.

        Raises:
            UserError: the folder cannot be written.
        """
        own = self.folder / candidate.line
        model = own / _MODEL.format(candidate.sha256)
        if self.content(candidate) is None:
            write_bytes_atomic(model, content)
        record = {
            "version": candidate.version,
            "sha256": candidate.sha256,
            "signature": candidate.signature,
            "tags": dict(candidate.tags),
        }
        write_json_atomic(own / _RECORD, record)
        for old in own.glob(_MODEL.format("*")):
            if old != model:
                old.unlink(missing_ok=True)

    def get(self, line: str) -> Candidate | None:
        """The champion that was kept, as its record has it; None if there is none.

        Raises:
            UserError: the record is damaged.
        """
        path = self.folder / line / _RECORD
        if not path.exists():
            return None
        record = read_json_object(path, _REMEDY)
        version, sha256, signature = (record.get(name) for name in ("version", "sha256", "signature"))
        tags = record.get("tags")
        if not (
            isinstance(version, str)
            and isinstance(sha256, str)
            and isinstance(signature, str | None)
            and isinstance(tags, dict)
        ):
            raise UserError(f"{path}: not what the server writes; {_REMEDY}")
        shown = {str(name): str(value) for name, value in tags.items()}
        return Candidate(line, version, sha256, signature, "cache", shown)

    def lines(self) -> list[str]:
        """The lines of which a champion was kept."""
        return sorted(record.parent.name for record in self.folder.glob(f"*/{_RECORD}"))

    def content(self, candidate: Candidate) -> bytes | None:
        """The candidate's file if it is here whole."""
        try:
            content = (self.folder / candidate.line / _MODEL.format(candidate.sha256)).read_bytes()
        except OSError:
            return None
        return content if sha256_bytes(content) == candidate.sha256 else None

    def need(self, candidate: Candidate) -> bytes:
        """The candidate's file.

        Raises:
            StlmError: it is missing or damaged.
        """
        content = self.content(candidate)
        if content is None:
            raise StlmError(f"{self.folder / candidate.line}: the file of version {candidate.version} is damaged")
        return content
