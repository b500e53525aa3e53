"""A line's training pipeline in real containers on this machine: the compiled IR, kfp.local, MLflow, PostgreSQL, S3."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path

import docker
from docker.types import Mount
from kfp import local
from kfp.components import load_component_from_text

from pipelines.arguments import own_files, training_arguments, training_pipeline_name
from pipelines.compilation import compile_pipeline
from pipelines.local_runner import Containers, FailedContainer
from pipelines.local_services import Services, check_store, clean_environment, docker_client, has_image, start_services
from pipelines.placement import USER, WEIGHTS, Images
from stlm_core.config import LineConfig, load_line
from stlm_core.errors import StlmError, UserError
from stlm_core.files import sha256_tree
from stlm_core.teachers.registry import needed_weights

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


class LocalRun:
    """Runs pipelines of the lines in ``params``; what they need and leave behind is under ``state``.

    A second run takes the outputs of finished steps from the first, so a failed run goes on where it failed.
    """

    def __init__(self, params: Path, state: Path, images: Images | None = None) -> None:
        self.params, self.state, self.images = params.resolve(), state.resolve(), images or Images()

    def prepare(self, line: str) -> tuple[LineConfig, Services]:
        """Start the services, publish the line's data to the store, and have the pretrained weights.

        Raises:
            UserError: no container engine, images that were not built, or data that cannot be published.
        """
        config = self.with_own_files(load_line(self.params, line))
        client = docker_client()
        missing = [image for image in self._used().values() if not has_image(client, image)]
        if missing:
            raise UserError(f"{missing[0]}: no such image; run `make images`")
        self.state.mkdir(parents=True, exist_ok=True)
        services = start_services(self.state)
        check_store(services, "stlm")
        project = self._stage(config)
        environment = {**clean_environment(), **services.for_programs(), "DVC_NO_ANALYTICS": "true"}
        _program(project, environment, "stlm", "data", "remote", "s3://stlm/dvc", "--endpoint", services.store)
        _program(project, environment, "stlm", "data", "publish", "--line", line)
        weights = {**clean_environment(), "STLM_WEIGHTS": str(self.state / "weights")}
        for name in needed_weights(config.teacher, config.model):
            _program(project, weights, "stlm", "weights", "fetch", name)
        return config, services

    def with_own_files(self, config: LineConfig) -> LineConfig:
        """The line with its own textures and weights copied to where its containers have them.

        Each copy is named by its content, too: other content is another setting, which the steps' caches notice.

        Raises:
            UserError: there is no such folder or file.
        """
        for (section, setting), path in own_files(config).items():
            source = config.resolve(path)
            there, kind = (source.is_dir(), "folder") if setting == "textures" else (source.is_file(), "file")
            if not there:
                raise UserError(f"line {config.name}: {section}.{setting}: {source}: no such {kind}")
            name = f"{source.stem}-{sha256_tree(source)[:12]}{source.suffix}"
            _copy_once(source, self.state / "weights" / name)
            values = getattr(config, section).model_copy(update={setting: f"{WEIGHTS}/{name}"})
            config = config.model_copy(update={section: values})
        return config

    def train(self, config: LineConfig, services: Services, *, force: bool = False) -> list[FailedContainer]:
        """Run the compiled training pipeline of the line; the containers that failed, none of them if all went well."""
        client = docker_client()
        name = training_pipeline_name(config)
        if name != "training-cpu":
            raise UserError(f"line {config.name}: resources.gpus is {config.resources.gpus}; this runner has no GPUs")
        containers = Containers(memory=self._memory(config))
        arguments = training_arguments(config, self._digests(client), force=force)
        pipeline = load_component_from_text(compile_pipeline(name, self.images).partition("\n---\n")[0])
        self._init(services)
        with containers.in_place(), warnings.catch_warnings():
            # kfp.local warns of every setting that only a cluster knows.
            warnings.filterwarnings("ignore", message=".*no effect in the current local runner.*")
            try:
                pipeline(**arguments)
            except RuntimeError as error:
                if not containers.failures:
                    raise StlmError(f"the pipeline failed: {error}") from error
                return list(containers.failures.values())
        if containers.unresolved:
            raise StlmError(f"a condition refers to {containers.unresolved[0]}, which no task has made")
        return []

    def _init(self, services: Services) -> None:
        root = self.state / "runs"
        root.mkdir(exist_ok=True)
        user = (os.getuid(), os.getgid())
        if user[0] == 0:  # the images' own user; elsewhere the outputs belong to who runs this
            user = (USER, USER)
            os.chown(root, *user)
        local.init(
            runner=local.DockerRunner(
                user=f"{user[0]}:{user[1]}",
                network=services.network,
                environment={**services.for_containers(), "STLM_WEIGHTS": WEIGHTS, "COLUMNS": "120"},
                read_only=True,
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                mounts=[
                    Mount(WEIGHTS, str(self.state / "weights"), type="bind", read_only=True),
                    Mount("/tmp", None, type="volume"),
                ],
            ),
            pipeline_root=str(root),
            raise_on_error=True,
            enable_caching=True,
            cache_root=str(self.state / "cache"),
        )

    def _digests(self, client: docker.DockerClient) -> dict[str, str]:
        return {name: str(client.images.get(image).id) for name, image in self._used().items()}

    def _used(self) -> dict[str, str]:
        return {name: image for name, image in vars(self.images).items() if name != "train_cuda"}

    def _memory(self, config: LineConfig) -> dict[str, int]:
        resources, images = config.resources, self.images
        asked = {
            images.data: resources.data.memory,
            images.launch: resources.data.memory,
            images.train: resources.train.memory,
            images.serve: resources.serve.memory,
        }
        return {image: bytes_of(quantity) for image, quantity in asked.items()}

    def _stage(self, config: LineConfig) -> Path:
        """A project of its own with this line, so that neither DVC nor the remote of the user's project changes."""
        source, project = self.params.parent, self.state / "project"
        project.mkdir(exist_ok=True)
        shutil.copyfile(self.params, project / "params.yaml")
        data = _inside(config, "path", config.data.path, "`stlm lines add` copies it")
        tables = [
            _inside(config, setting, path, "copy it there")
            for setting, path in (("catalog", config.data.catalog), ("group_file", config.data.group_file))
            if path is not None and not (setting == "group_file" and config.data.catalog is not None)
        ]
        environment = {**clean_environment(), "DVC_NO_ANALYTICS": "true"}
        if not (source / data).is_dir():
            if config.name != "sample":
                raise UserError(f"{source / data}: no such folder; add the line with `stlm lines add`")
            _program(source, environment, "stlm", "sample", "--out", str(data))
        folders = {data, Path("data") / "lines" / config.name}
        for folder in folders:
            if (source / folder).is_dir():
                shutil.rmtree(project / folder, ignore_errors=True)
                shutil.copytree(source / folder, project / folder)
        for table in tables:
            if not any(table.is_relative_to(folder) for folder in folders) and (source / table).is_file():
                (project / table).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / table, project / table)
        if not (project / ".dvc").is_dir():
            _program(project, environment, "dvc", "init", "--no-scm", "--quiet")
        _program(project, environment, "dvc", "add", "--quiet", str(data))
        return project


def run_locally(params: Path, line: str, state: Path, *, force: bool = False) -> None:
    """Prepare and train, with the wall time at the end.

    Raises:
        StlmError: a container failed; the sentence ends with its last lines.
    """
    began = time.monotonic()
    run = LocalRun(params, state)
    config, services = run.prepare(line)
    print(f"services: MLflow {services.mlflow}, S3 {services.store}; ready after {time.monotonic() - began:.0f} s")
    failures = run.train(config, services, force=force)
    if failures:
        told = "\n".join(str(failure) for failure in failures)
        raise StlmError(f"{told}\nrun it again: it goes on with what is finished")
    print(f"line {line}: pipeline finished after {time.monotonic() - began:.0f} s; models at {services.mlflow}")


def bytes_of(quantity: str) -> int:
    """Bytes of a Kubernetes quantity such as ``6Gi``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]i?|)", quantity)
    if match is None:
        raise UserError(f"resources: {quantity!r} is not an amount of memory such as 6Gi")
    return int(float(match[1]) * _UNITS[match[2]])


def _copy_once(source: Path, target: Path) -> None:
    """Copy a file, or the files of a folder, whole or not at all, with the rights that new files have: who reads them
    in a container may be another user."""
    if target.exists():
        return
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for file in [source] if source.is_file() else sorted(source.rglob("*")):
        if file.is_file():
            copy = partial / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
    partial.rename(target)


def _inside(config: LineConfig, setting: str, path: str, remedy: str) -> Path:
    """A path of the line's section ``data``, which must lead to something in the project."""
    found = Path(path)
    if found.is_absolute() or ".." in found.parts:
        raise UserError(f"line {config.name}: data.{setting}: {found} is outside the project; {remedy}")
    return found


def _program(folder: Path, environment: Mapping[str, str], program: str, *arguments: str) -> None:
    """Run a program of this Python's environment; its output is shown when it fails."""
    path = Path(sys.executable).with_name(program)
    done = subprocess.run(
        [str(path), *arguments], cwd=folder, env=dict(environment), capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        raise StlmError(f"`{program} {' '.join(arguments[:2])}` failed: {last}")
