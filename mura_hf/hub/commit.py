"""One folder, one commit: a repository on the Hub holds exactly the files of a folder, or stays as it was."""

import json
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import httpx
from huggingface_hub.utils.sha import git_hash

from ..errors import HubError

WAITS = (2.0, 8.0, 30.0)
"""Seconds before each retry after the connection was lost."""

_BUSY = (408, 429, 500, 502, 503, 504)
_MOVED = (409, 412)  # the branch has another head than the parent of the commit
_RETRY = "Run the same command again: large files that have arrived are not sent again, and nothing is half written"


@dataclass(frozen=True)
class Commit:
    """State of a repository after a push.

    Attributes:
        commit: Hash of the head.
        url: Page of this commit.
        changed: Whether this push made the commit; False if the repository already held the same files.
    """

    commit: str
    url: str
    changed: bool


def list_files(folder: Path) -> list[tuple[str, int]]:
    """Names (relative, with slashes) and sizes in bytes of all files under a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in files]


def commit_folder(
    api: HfApi,
    folder: Path,
    repo_id: str,
    *,
    repo_type: str,
    message: str,
    record: Path,
    revision: str | None = None,
    private: bool = True,
    force: bool = False,
) -> Commit:
    """Makes a repository hold exactly the files of a folder, in one commit. Creates the repository if needed.

    `HfApi.create_commit` validates the card, uploads the large files that the Hub does not have yet, and then commits
    on top of a given parent, so a push from elsewhere is never overwritten silently. (`HfApi.upload_folder` may split
    a push into several commits, so it is not used.)

    Args:
        api: Client of the Hub.
        folder: Files to push.
        repo_id: "user/name".
        repo_type: "model" or "space".
        message: Title of the commit.
        record: JSON file with the last commit that was pushed from here to each repository.
        revision: Branch, created if missing; main if None.
        private: Whether only the owner may see the repository.
        force: Whether to replace a commit that is not in `record`.

    Raises:
        HubError: If the Hub cannot be reached or refuses, the repository holds a commit that is not in `record`, or
            it is public although `private` is set. Nothing was written then, unless the message says so.
    """
    if repo_id.count("/") != 1:
        raise HubError(f"{repo_id} is not a valid name for the Hub; use user/name")
    repo: dict[str, Any] = {"repo_id": repo_id, "repo_type": repo_type}
    with explain_errors(repo_id):
        try:
            info = api.repo_info(**repo)
        except RepositoryNotFoundError:
            sdk = "gradio" if repo_type == "space" else None
            api.create_repo(**repo, private=private, exist_ok=True, space_sdk=sdk)
            info = api.repo_info(**repo)
        if private and not info.private:
            raise HubError(
                f"{repo_id} is public on the Hub, but this push is private; allow it with --public (private=False) or "
                "make the repository private in its settings first"
            )
        new_branch = False
        if revision is not None:
            try:
                info = api.repo_info(**repo, revision=revision)
            except RevisionNotFoundError:
                api.create_branch(**repo, branch=revision)
                info, new_branch = api.repo_info(**repo, revision=revision), True
        head = str(info.sha)  # the Hub starts every repository with a commit
        additions = [CommitOperationAdd(name, str(folder / name)) for name, _ in list_files(folder)]
        remote = _list_remote(api, repo, head)
        operations = _find_differences(remote, additions)
        if operations and remote and not (force or new_branch or head in _read_record(record).values()):
            raise HubError(
                f"{repo_id} holds the commit {head}, which was not pushed from here; look at "
                f"{_url(api, repo, head)}, and replace it with --force (force=True)"
            )
        commit = _create_commit(api, repo, additions, operations, revision, message, head) if operations else head
    _write_record(record, repo_id if revision is None else f"{repo_id}@{revision}", commit)
    return Commit(commit, _url(api, repo, commit), bool(operations))


def _list_remote(api: HfApi, repo: dict[str, Any], commit: str) -> dict[str, RepoFile]:
    """Files of a commit by path, without .gitattributes, which the Hub adds to every repository."""
    tree = api.list_repo_tree(**repo, revision=commit, recursive=True)
    return {one.path: one for one in tree if isinstance(one, RepoFile) and one.path != ".gitattributes"}


def _find_differences(
    remote: dict[str, RepoFile], additions: list[CommitOperationAdd]
) -> list[CommitOperationAdd | CommitOperationDelete]:
    """Operations that turn the remote files into the local ones; empty if both are equal."""
    changed = [one for one in additions if not _is_same(one, remote.get(one.path_in_repo))]
    removed = set(remote) - {one.path_in_repo for one in additions}
    return [*changed, *(CommitOperationDelete(path) for path in sorted(removed))]


def _is_same(addition: CommitOperationAdd, remote: RepoFile | None) -> bool:
    if remote is None:
        return False
    if remote.lfs is not None:
        return remote.lfs.sha256 == addition.upload_info.sha256.hex()
    with addition.as_file() as file:
        return remote.blob_id == git_hash(file.read())


def _create_commit(
    api: HfApi,
    repo: dict[str, Any],
    additions: list[CommitOperationAdd],
    operations: list[CommitOperationAdd | CommitOperationDelete],
    revision: str | None,
    message: str,
    parent: str,
) -> str:
    """Commits on top of `parent`; retries if the connection is lost. Every retry sends only what has not arrived."""
    for wait in (*WAITS, None):
        try:
            with warnings.catch_warnings():
                # The rows of an index belong to the weights that they were computed with.
                warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
                made = api.create_commit(
                    **repo, operations=operations, commit_message=message, revision=revision, parent_commit=parent
                )
            return made.oid
        except Exception as error:
            if isinstance(error, HfHubHTTPError) and error.response.status_code in _MOVED:
                # The answer to an earlier try may have been lost after the commit was made.
                head = str(api.repo_info(**repo, revision=revision).sha)
                if not _find_differences(_list_remote(api, repo, head), additions):
                    return head
                raise HubError(
                    f"somebody else pushed to {repo['repo_id']} during this push, and nothing was written; look at "
                    f"{_url(api, repo, revision or 'main')} and push again, with --force (force=True) to replace it"
                ) from error
            if wait is None or not _is_transient(error):
                raise
            time.sleep(wait)
    raise AssertionError("unreachable")


def _url(api: HfApi, repo: dict[str, Any], commit: str) -> str:
    return f"{api.endpoint}/{'spaces/' if repo['repo_type'] == 'space' else ''}{repo['repo_id']}/tree/{commit}"


def _read_record(record: Path) -> dict[str, str]:
    try:
        values = json.loads(record.read_text())
    except (OSError, ValueError):  # missing or damaged: the next push asks for --force
        return {}
    return values if isinstance(values, dict) else {}


def _write_record(record: Path, key: str, commit: str) -> None:
    fresh = record.with_name(f"{record.name}.{os.getpid()}.tmp")
    try:
        fresh.write_text(json.dumps({**_read_record(record), key: commit}, indent=2, sort_keys=True) + "\n")
        fresh.replace(record)
    except OSError as error:  # the commit itself was made
        warnings.warn(f"{record} cannot be written ({error}); the next push will ask for --force", stacklevel=3)


@contextmanager
def explain_errors(repo_id: str) -> Iterator[None]:
    """Turns errors of the Hub's client into a `HubError` that says what to do."""
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise HubError(f"HF_HUB_OFFLINE is set, so {repo_id} cannot be reached; unset it to push") from error
    except HFValidationError as error:
        raise HubError(f"{repo_id} is not a valid name for the Hub: {error}. Use user/name") from error
    except LocalTokenNotFoundError as error:
        raise HubError(_log_in(repo_id)) from error
    except HfHubHTTPError as error:
        raise HubError(_describe_status(repo_id, error)) from error
    except Exception as error:
        if _is_transient(error):
            raise HubError(f"The connection to the Hub was lost ({_first_line(error)}). {_RETRY}") from error
        if not isinstance(error, RuntimeError | OSError | ValueError):  # not an error of the client
            raise
        answers = [cause for cause in _causes(error) if isinstance(cause, HfHubHTTPError)]
        if answers and isinstance(error, RuntimeError):  # the client names only the file that failed
            raise HubError(_describe_status(repo_id, answers[0])) from error
        raise HubError(f"{repo_id} was not pushed: {' '.join(str(error).split())}") from error


def _is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed a moment later: the connection was lost, or the Hub is busy."""
    for cause in _causes(error):
        if isinstance(cause, OfflineModeIsEnabled | LocalTokenNotFoundError):
            return False
        if isinstance(cause, HfHubHTTPError):
            return cause.response.status_code in _BUSY
        if isinstance(cause, httpx.TransportError | ConnectionError | TimeoutError):
            return True
    return False


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes; the client wraps the error that broke an upload."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _describe_status(repo_id: str, error: HfHubHTTPError) -> str:
    status = int(error.response.status_code)
    if status == 401:
        return _log_in(repo_id)
    if status == 403:
        reason = f" ({error.server_message})" if error.server_message else ""
        return (
            f"your token may not write to {repo_id}{reason}; check the name, and use a token with write access "
            "(https://huggingface.co/settings/tokens)"
        )
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return f"the Hub has no repository {repo_id} that you may see; check the name and the token"
    if status in _MOVED:
        return f"{repo_id} changed on the Hub during this push, and nothing was written; look at it and push again"
    if status in _BUSY:
        return f"the Hub is busy or has a problem ({status}). {_RETRY}"
    return f"the Hub does not accept {repo_id}: {_first_line(error)}"


def _log_in(repo_id: str) -> str:
    return (
        f"you are not logged in, so {repo_id} cannot be pushed; run `hf auth login`, or pass a token with write access"
    )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")
