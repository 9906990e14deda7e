"""One folder, one commit: a repository on the Hub holds exactly the files of a folder, or stays as it was.

`HfApi.create_commit` validates the card, uploads the large files that the Hub does not have yet, and commits on top of
a given parent. (`HfApi.upload_folder` may split a push into several commits, so it is not used.) This module adds what
that method does not do: it removes files that are gone, asks before it replaces commits from elsewhere, retries when
the connection is lost, and explains errors.
"""

import json
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

from ..common import replace_file
from ..errors import HubError, first_line

CARD = "README.md"
WAITS = (2.0, 8.0, 30.0)
"""Seconds before each retry after the connection was lost."""

_BUSY = (408, 429, 500, 502, 503, 504)
_MOVED = (409, 412)  # the branch has another head than the parent of the commit
_RETRY = "Run the same command again: large files that have arrived are not sent again, and nothing is half written"


@dataclass(frozen=True)
class PushResult:
    """What a push did, or would do."""

    repo_id: str  # "user/name"
    files: list[tuple[str, int]]  # names and sizes in bytes
    card: str  # text of README.md
    url: str | None = None  # page of the commit; None after a dry run
    commit: str | None = None  # hash of the commit; None after a dry run
    changed: bool = False  # whether this push made the commit; False if nothing was new, and after a dry run
    # Largest difference of the golden logits after download; None for a Space or a dry run
    golden_difference: float | None = None


def list_files(folder: Path) -> list[tuple[str, int]]:
    """Names (relative, with slashes) and sizes in bytes of all files under a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in files]


def push_folder(
    api: HfApi,
    folder: Path,
    repo_id: str,
    *,
    repo_type: str,
    message: str,
    record: Path,
    dry_run: bool = False,
    revision: str | None = None,
    private: bool = True,
    force: bool = False,
) -> PushResult:
    """Makes a repository hold exactly the files of a folder (with a README.md), in one commit.

    Creates repository ("model" or "space") and branch if needed. `record` is the JSON file with the last commit that
    was pushed from here to each repository; another commit is replaced only with `force`.

    Raises:
        HubError: If the Hub cannot be reached or refuses, the repository holds a commit that is not in `record`, or
            it is public although `private` is set. Nothing was written then, unless the message says so.
    """
    if repo_id.count("/") != 1:
        raise HubError(f"{repo_id} is not a valid name for the Hub; use user/name")
    files, card = list_files(folder), (folder / CARD).read_bytes().decode()
    if dry_run:
        return PushResult(repo_id, files, card)
    repo: dict[str, Any] = {"repo_id": repo_id, "repo_type": repo_type}
    page = f"{api.endpoint}/{'spaces/' if repo_type == 'space' else ''}{repo_id}/tree"
    with explain_errors(repo_id):
        first, is_new = _open_branch(api, repo, revision, private)
        additions = [CommitOperationAdd(name, str(folder / name)) for name, _ in files]
        changed = False
        for wait in (*WAITS, None):
            try:
                head = _find_head(api, repo, revision) if changed else first
                operations, has_files = _find_differences(api, repo, head, additions)
                if not operations:  # also if an earlier try made the commit, but its answer was lost
                    break
                if head != first:
                    raise HubError(
                        f"somebody else pushed to {repo_id} during this push, and nothing was written; look at "
                        f"{page}/{revision or 'main'} and push again, with --force (force=True) to replace it"
                    )
                if has_files and not (force or is_new or head in _read_record(record).values()):
                    raise HubError(
                        f"{repo_id} holds the commit {head}, which was not pushed from here; look at {page}/{head}, "
                        "and replace it with --force (force=True)"
                    )
                changed = True
                with warnings.catch_warnings():
                    # The rows of an index belong to the weights that they were computed with.
                    warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
                    head = api.create_commit(
                        **repo, operations=operations, commit_message=message, revision=revision, parent_commit=head
                    ).oid
                break
            except Exception as error:
                moved = isinstance(error, HfHubHTTPError) and error.response.status_code in _MOVED
                if wait is None or not (moved or _is_transient(error)):
                    raise
                time.sleep(0 if moved else wait)
    _write_record(record, repo_id if revision is None else f"{repo_id}@{revision}", head)
    return PushResult(repo_id, files, card, f"{page}/{head}", head, changed)


def _open_branch(api: HfApi, repo: dict[str, Any], revision: str | None, private: bool) -> tuple[str, bool]:
    """Head of the branch, and whether this call created the branch. Creates the repository if needed."""
    try:
        info = api.repo_info(**repo)
    except RepositoryNotFoundError:
        sdk = "gradio" if repo["repo_type"] == "space" else None
        api.create_repo(**repo, private=private, exist_ok=True, space_sdk=sdk)
        info = api.repo_info(**repo)  # the Hub starts every repository with a commit
    if private and not info.private:
        raise HubError(
            f"{repo['repo_id']} is public on the Hub, but this push is private; allow it with --public "
            "(private=False) or make the repository private in its settings first"
        )
    try:
        return (str(info.sha) if revision is None else _find_head(api, repo, revision)), False
    except RevisionNotFoundError:
        api.create_branch(**repo, branch=str(revision))
        return _find_head(api, repo, revision), True


def _find_head(api: HfApi, repo: dict[str, Any], revision: str | None) -> str:
    return str(api.repo_info(**repo, revision=revision).sha)


def _find_differences(
    api: HfApi, repo: dict[str, Any], commit: str, additions: list[CommitOperationAdd]
) -> tuple[list[CommitOperationAdd | CommitOperationDelete], bool]:
    """Operations that turn the files of a commit into the local ones, and whether it has files but .gitattributes."""
    tree = api.list_repo_tree(**repo, revision=commit, recursive=True)
    remote = {one.path: one for one in tree if isinstance(one, RepoFile) and one.path != ".gitattributes"}
    changed = [one for one in additions if not _is_same(one, remote.get(one.path_in_repo))]
    removed = set(remote) - {one.path_in_repo for one in additions}
    return [*changed, *(CommitOperationDelete(path) for path in sorted(removed))], bool(remote)


def _is_same(addition: CommitOperationAdd, remote: RepoFile | None) -> bool:
    if remote is None:
        return False
    if remote.lfs is not None:
        return remote.lfs.sha256 == addition.upload_info.sha256.hex()
    with addition.as_file() as file:
        return remote.blob_id == git_hash(file.read())


def _read_record(record: Path) -> dict[str, str]:
    try:
        return dict(json.loads(record.read_text()))
    except (OSError, ValueError, TypeError):  # missing or damaged: the next push asks for --force
        return {}


def _write_record(record: Path, key: str, commit: str) -> None:
    try:
        values = {**_read_record(record), key: commit}
        replace_file(record, (json.dumps(values, indent=2, sort_keys=True) + "\n").encode())
    except OSError as error:  # the commit itself was made
        warnings.warn(f"{record} cannot be written ({error}); the next push will ask for --force", stacklevel=3)


@contextmanager
def explain_errors(repo_id: str) -> Iterator[None]:
    """Turns errors of the Hub's client into a `HubError` that says what to do."""
    try:
        yield
    except (RuntimeError, OSError, ValueError, httpx.TransportError) as error:
        if isinstance(error, HubError):
            raise
        raise HubError(_explain(repo_id, error)) from error


def _explain(repo_id: str, error: Exception) -> str:
    if isinstance(error, OfflineModeIsEnabled):
        return f"HF_HUB_OFFLINE is set, so {repo_id} cannot be reached; unset it to push"
    if isinstance(error, HFValidationError):
        return f"{repo_id} is not a valid name for the Hub: {error}. Use user/name"
    answer: BaseException | None = error
    if isinstance(error, RuntimeError):  # the client names only the file whose upload failed
        answer = next((cause for cause in _causes(error) if isinstance(cause, HfHubHTTPError)), None)
    status = int(answer.response.status_code) if isinstance(answer, HfHubHTTPError) else None
    if status == 401 or isinstance(error, LocalTokenNotFoundError):
        return (
            f"you are not logged in, so {repo_id} cannot be pushed; run `hf auth login`, or pass a token with write "
            "access"
        )
    if isinstance(answer, HfHubHTTPError) and status == 403:
        reason = f" ({answer.server_message})" if answer.server_message else ""
        return (
            f"your token may not write to {repo_id}{reason}; check the name, and use a token with write access "
            "(https://huggingface.co/settings/tokens)"
        )
    if status == 404:
        return f"the Hub has no repository {repo_id} that you may see; check the name and the token"
    if status in _MOVED:
        return f"{repo_id} changed on the Hub during this push, and nothing was written; look at it and push again"
    if status in _BUSY:
        return f"the Hub is busy or has a problem ({status}). {_RETRY}"
    if status is not None:
        return f"the Hub does not accept {repo_id}: {first_line(answer or error)}"
    if _is_transient(error):
        return f"The connection to the Hub was lost ({first_line(error)}). {_RETRY}"
    return f"{repo_id} was not pushed: {' '.join(str(error).split())}"


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
