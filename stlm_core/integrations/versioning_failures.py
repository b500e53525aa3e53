"""What a failing DVC means, as one sentence.

DVC reports on standard error, and not always by its exit code: a full disk during ``dvc add`` and files that are
missing in the cache during ``dvc push`` end with 0. So every ``ERROR`` counts, and so does that warning.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from stlm_core.addresses import without_userinfo
from stlm_core.errors import StlmError, UserError

# Codes and words of the store or of DVC, the first that is found counts -> what to say after the remote's name.
_SENTENCES: tuple[tuple[str, str], ...] = (
    (r"No space left on device|Disk quota exceeded", "no space left on the disk; make room and run the command again"),
    (r"Read-only file system|Permission denied", "no permission to write or read; check the folder's rights"),
    (
        r"Unable to locate credentials|NoCredentials|[Pp]artial credentials",
        "no S3 credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    ),
    (r"config profile \(.*\) could not be found", "the AWS profile is unknown; check AWS_PROFILE"),
    (r"InvalidAccessKeyId", "the store does not know the access key; check AWS_ACCESS_KEY_ID"),
    (r"SignatureDoesNotMatch", "the secret does not fit the access key; check AWS_SECRET_ACCESS_KEY"),
    (r"ExpiredToken|InvalidToken|TokenRefreshRequired", "the session token has expired; get a new AWS_SESSION_TOKEN"),
    (
        r"AccessDenied|Forbidden|\(403\)",
        "access denied; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy",
    ),
    (r"NoSuchBucket|bucket does not exist", "no such bucket; make it, or correct the address with `stlm data remote`"),
    (r"SSL|certificate", "the server's certificate is not accepted; set AWS_CA_BUNDLE"),
)
_CONNECTION = re.compile(
    r"Could not connect|[Cc]onnect(?:ion)? timeout|Read timeout|Connection (?:was closed|reset|refused|aborted)"
    r"|Broken pipe|Server disconnected|name resolution|Timeout(?:Error)?\b|Connector|Cannot connect|ServiceUnavailable"
    r"|Response payload is not completed|\(50[0234]\)"
)
_LOST = re.compile(r"Some of the cache files do not exist")
_UNTRANSFERRED = re.compile(r"failed to transfer '([0-9a-f]{32})'")
_UNSAVED = re.compile(r"Can't remove the following unsaved files")
_IGNORED = re.compile(r"bad DVC file name '(.*)' is git-ignored")
_INTERRUPTED = "cannot be reached; what was transferred is kept, run the command again when the server answers"
_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


class UnreachableError(UserError):
    """A store does not answer; the same command may succeed later."""


def is_connection_failure(line: str) -> bool:
    """Whether a line of DVC's says that the server did not answer."""
    return _CONNECTION.search(line) is not None


def cache_is_incomplete(report: Iterable[str]) -> bool:
    """Whether DVC warned that files are missing in its cache."""
    return any(_LOST.search(line) for line in report)


def errors_of(report: Iterable[str]) -> list[str]:
    """The lines of DVC's standard error that are errors, without the word."""
    return [line.partition("ERROR: ")[2].strip() for line in report if "ERROR: " in line]


def not_transferred(report: Iterable[str]) -> list[str]:
    """md5 of the files that DVC says it could not transfer."""
    return [match[1] for line in report if (match := _UNTRANSFERRED.search(line))]


def store_failure(reason: str) -> str | None:
    """What to say about a refusing or silent store; None where ``reason`` is about another thing."""
    for pattern, sentence in _SENTENCES:
        if re.search(pattern, reason):
            return sentence
    return _INTERRUPTED if is_connection_failure(reason) else None


def git_ignores(pointer: str) -> UserError:
    """What to say when DVC takes a ``.dvc`` file for ignored; its reading of ``.gitignore`` differs from git's."""
    return UserError(
        f"{pointer}: ignored by .gitignore, so DVC does not see it; in place of `/data/` or `/data/*` write `/data/?*` "
        "and `!/data/lines/`"
    )


def failure(report: list[str], subject: str) -> StlmError:
    """The error to raise for what DVC wrote. ``subject``: the folder or remote that the command was about."""
    errors = errors_of(report) or [line for line in report if line.strip()] or ["no message"]
    joined = "\n".join(errors)
    if match := _IGNORED.search(joined):
        return git_ignores(match[1])
    if _UNSAVED.search(joined):
        named = [line for line in report if line.startswith(os.sep)]
        some = f" (the first: {named[0]})" if named else ""
        return UserError(
            f"{subject}: files in the workspace{some} are not in DVC and would be lost; keep them with `dvc add`, or "
            "move them away, and run the command again"
        )
    if re.search(r"[Uu]nable to acquire lock|is busy|blocked by", joined):
        return UserError(f"{subject}: another DVC command runs in this project; wait for it and run the command again")
    if "is not a git repository" in joined:
        return UserError(f"{subject}: the project has no git; run `git init`, or `dvc config --local core.no_scm true`")
    if "No module named" in joined:
        return UserError("DVC is not installed; install the extra `workstation`: pip install 'stlm[workstation]'")
    if match := re.search(r"output '.*' (?:is already|does not exist).*|overlap.*", joined):
        return UserError(f"{subject}: DVC cannot track it: {without_secrets(match[0])}")
    if sentence := store_failure(joined):
        return (UnreachableError if sentence == _INTERRUPTED else UserError)(f"{subject}: {sentence}")
    return StlmError(f"{subject}: DVC failed: {without_secrets(errors[0])}")


def without_secrets(text: str) -> str:
    """``text`` without the credentials that are in the environment or in an address."""
    for name in _SECRETS:
        if secret := os.environ.get(name):
            text = text.replace(secret, f"<{name}>")
    return without_userinfo(text)
