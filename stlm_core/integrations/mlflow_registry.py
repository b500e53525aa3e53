"""A line's versions in MLflow's model registry, and the aliases that say what is in service.

``champion`` is in service, ``challenger`` wants to be, ``previous`` is what the champion replaced. The tag ``replaces``
of a version remembers the champion it replaced, so ``previous`` can always be derived: a command that was killed
between two writes leaves a state that the next one completes.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from stlm_core.addresses import without_userinfo
from stlm_core.errors import StlmError, first_line
from stlm_core.files import exclusive_lock, sha256_file
from stlm_core.integrations.mlflow_client import Tracking
from stlm_core.integrations.names import MODEL_FILE
from stlm_core.integrations.registry_lock import Lease, bakery_lock

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from stlm_core.integrations.mlflow_run import LoggedRun

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
REPLACES = "replaces"
# Tags of a version that was withdrawn from service, and of one that somebody said no to.
ROLLED_BACK = ("rolled_back_at", "rolled_back_by", "rollback_reason")
REJECTED = ("rejected_at", "rejected_by", "rejected_reason")
_ABSENT = ("RESOURCE_DOES_NOT_EXIST",)


@dataclass(frozen=True)
class Version:
    """One registered version. ``created_ms``: milliseconds since 1970, UTC."""

    number: int
    run_id: str
    created_ms: int
    tags: Mapping[str, str]


class Registry:
    """The registered model ``stlm-<line>``."""

    def __init__(self, tracking: Tracking, line: str) -> None:
        self.name, self.line = f"stlm-{line}", line
        self._client = tracking.client
        self._lease: Lease | None = None

    @contextmanager
    def locked(self, purpose: str) -> Iterator[None]:
        """Nobody else changes the line's versions and aliases meanwhile; writes are refused when the time is up.

        What takes long is to be done before. The registered model must exist.

        Raises:
            UserError: another command holds it for too long.
        """
        with bakery_lock(_Tags(self._client, self.name), f"line {self.line}: {purpose}") as lease:
            self._lease = lease
            try:
                yield
            finally:
                self._lease = None

    def create(self) -> None:
        """Make the registered model, if it is not there."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def exists(self) -> bool:
        """Whether anything was ever registered."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.get_registered_model(self.name)
        except MlflowException as error:
            if error.error_code in _ABSENT:
                return False
            raise
        return True

    def add(self, run: LoggedRun, tags: Mapping[str, str], description: str) -> Version:
        """A new version of a logged model, with all its tags from the first moment; :meth:`create` comes before."""
        self._check_lease()
        created = self._client.create_model_version(
            self.name,
            source=f"models:/{run.model_id}",
            run_id=run.run_id,
            tags=dict(tags),
            description=description,
            model_id=run.model_id,
        )
        return _version(created)

    def version(self, number: int) -> Version | None:
        """The version of that number, None if there is none."""
        from mlflow.exceptions import MlflowException

        try:
            return _version(self._client.get_model_version(self.name, str(number)))
        except MlflowException as error:
            if error.error_code in _ABSENT:
                return None
            raise

    def find(self, tag: str, value: str) -> Version | None:
        """The newest version with that tag."""
        found = self._client.search_model_versions(
            f"name = '{self.name}' and tag.`{tag}` = '{value}'", order_by=["version_number DESC"], max_results=1
        )
        return _version(found[0]) if found else None

    def tagged(self, tags: Mapping[str, str]) -> list[Version]:
        """The versions with all of these tags, the newest first."""
        wanted = "".join(f" and tag.`{tag}` = '{value}'" for tag, value in tags.items())
        found = self._client.search_model_versions(f"name = '{self.name}'{wanted}", order_by=["version_number DESC"])
        return [_version(each) for each in found]

    def params(self, run_id: str) -> dict[str, str]:
        """The parameters of a run; empty if it is gone."""
        from mlflow.exceptions import MlflowException

        try:
            return dict(self._client.get_run(run_id).data.params)
        except MlflowException as error:
            if error.error_code in _ABSENT:
                return {}
            raise

    def aliases(self) -> dict[str, int]:
        """Alias -> version number; empty if nothing was ever registered."""
        from mlflow.exceptions import MlflowException

        try:
            aliases = self._client.get_registered_model(self.name).aliases
        except MlflowException as error:
            if error.error_code in _ABSENT:
                return {}
            raise
        return {alias: int(number) for alias, number in aliases.items()}

    def at(self, alias: str) -> Version | None:
        """The version an alias points to."""
        number = self.aliases().get(alias)
        return None if number is None else self.version(number)

    def point(self, alias: str, number: int | None) -> None:
        """Let an alias point to a version, or with None to nothing; writes only what differs."""
        current = self.aliases().get(alias)
        self._check_lease()
        if number is None and current is not None:
            self._client.delete_registered_model_alias(self.name, alias)
        elif number is not None and current != number:
            self._client.set_registered_model_alias(self.name, alias, str(number))

    def tag(self, number: int, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        for key, value in tags.items():
            self._check_lease()
            self._client.set_model_version_tag(self.name, str(number), key, value)

    def untag(self, number: int, *keys: str) -> None:
        """Remove tags of a version, where they are."""
        version = self.version(number)
        for key in keys:
            if version is not None and key in version.tags:
                self._check_lease()
                self._client.delete_model_version_tag(self.name, str(number), key)

    def model_file(self, version: Version, folder: Path) -> Path:
        """Fetch a version's ONNX file into ``folder``; its sha256 is the one that was registered.

        Raises:
            StlmError: it cannot be fetched, or is not the file that was registered.
        """
        import mlflow.artifacts

        where = f"{self.name} version {version.number}"
        with store_of_files(f"{MODEL_FILE} of {where}: cannot be fetched"):
            uri = f"models:/{self.name}/{version.number}/{MODEL_FILE}"
            path = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))
            found = sha256_file(path)
        if found != version.tags.get("onnx_sha256"):
            raise StlmError(f"{MODEL_FILE} of {where}: its sha256 is {found}, not the one that was registered")
        return path

    def keep_file(self, run_id: str, path: Path, folder: str) -> None:
        """Put a file among those of a run.

        Raises:
            StlmError: the store does not take it.
        """
        with store_of_files(f"{path.name} of MLflow run {run_id}: cannot be stored"):
            self._client.log_artifact(run_id, str(path), folder)

    def _check_lease(self) -> None:
        if self._lease is not None:
            self._lease.check()

    def run_json(self, run_id: str, artifact: str) -> dict[str, Any] | None:
        """A JSON object among a run's files; None if run or file is gone, or it is no JSON object.

        Raises:
            StlmError: the file is there and cannot be read.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = self.run_file(run_id, artifact, Path(folder))
            try:
                value = None if path is None else json.loads(path.read_text(encoding="utf-8"))
            except OSError as error:
                raise StlmError(f"{artifact} of MLflow run {run_id}: cannot be read: {error}") from None
            except ValueError:
                return None
        return value if isinstance(value, dict) else None

    def run_file(self, run_id: str, artifact: str, folder: Path) -> Path | None:
        """Fetch one of a run's files into ``folder``; None if run or file is gone.

        Raises:
            StlmError: the file is there and cannot be fetched.
        """
        from mlflow.exceptions import MlflowException

        with store_of_files(f"{artifact} of MLflow run {run_id}: cannot be fetched"):
            try:
                listed = self._client.list_artifacts(run_id, str(PurePosixPath(artifact).parent))
            except MlflowException as error:
                if error.error_code in _ABSENT:
                    return None
                raise
            if artifact not in [entry.path for entry in listed]:
                return None
            return Path(self._client.download_artifacts(run_id, artifact, str(folder)))


@contextmanager
def store_of_files(failed: str) -> Iterator[None]:
    """Whatever goes wrong with the store of runs' files becomes an StlmError that starts with ``failed``.

    Files lie behind MLflow's server or in a bucket: each client has errors of its own, few of them OSErrors.
    """
    try:
        yield
    except Exception as error:
        raise StlmError(f"{failed}: {without_userinfo(first_line(error))}") from error


@dataclass(frozen=True)
class _Tags:
    """The tags of a registered model, as the lock wants them."""

    client: MlflowClient
    name: str

    def read(self) -> Mapping[str, str]:
        return dict(self.client.get_registered_model(self.name).tags)

    def write(self, key: str, value: str) -> None:
        self.client.set_registered_model_tag(self.name, key, value)

    def remove(self, key: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.delete_registered_model_tag(self.name, key)
        except MlflowException:
            if key in self.read():  # otherwise somebody else was clearing it away, too
                raise


def registry_lock(root: Path, line: str) -> AbstractContextManager[None]:
    """One command at a time works on a line from this project folder; :meth:`Registry.locked` is for all machines.

    Raises:
        UserError: on entering: another one is at it, or the lock cannot be made.
    """
    busy = f"line {line}: another register, promote or rollback is running; wait for it"
    return exclusive_lock(root / ".stlm" / "locks" / f"registry-{line}.lock", busy)


def _version(found: ModelVersion) -> Version:
    return Version(
        number=int(found.version),
        run_id=found.run_id or "",
        created_ms=int(found.creation_timestamp or 0),
        tags=dict(found.tags or {}),
    )
