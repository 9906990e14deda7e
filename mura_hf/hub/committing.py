"""What the Hub's client raises, in words that say what to do.

One folder, one commit: all of it is on the Hub afterwards, or none.
"""

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
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

from ..errors import HubError

_BUSY = (408, 429, 500, 502, 503, 504)
_LATER = "Run the same command again: large files that have arrived are not sent again, and nothing is half written"


def is_passing(error: BaseException) -> bool:
    """Whether the same request may well succeed a moment later: the line was cut, or the Hub was busy."""
    for seen in _chain(error):
        if isinstance(seen, OfflineModeIsEnabled | LocalTokenNotFoundError):
            return False
        if isinstance(seen, HfHubHTTPError):
            return status_of(seen) in _BUSY
        if isinstance(seen, httpx.TransportError | ConnectionError | TimeoutError):
            return True
    return False


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what was behind it: the client wraps what broke an upload."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


@contextmanager
def told_plainly(repo_id: str) -> Iterator[None]:
    """Turns what the Hub's client raises into a `HubError`.

    Args:
        repo_id: What it is about.

    Raises:
        HubError: Instead of the client's own errors.
    """
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise HubError(f"HF_HUB_OFFLINE forbids asking the Hub about {repo_id}; unset it to push") from error
    except HFValidationError as error:
        raise HubError(f"{repo_id} is no name for the Hub: {error}. Name it user/name") from error
    except LocalTokenNotFoundError as error:
        raise HubError(_nobody(repo_id)) from error
    except HfHubHTTPError as error:
        raise HubError(_refusal(repo_id, error)) from error
    except Exception as error:
        if is_passing(error):
            raise HubError(f"The connection to the Hub was cut ({_first_line(error)}). {_LATER}") from error
        if not isinstance(error, RuntimeError | OSError | ValueError):  # what the client and its helpers raise
            raise
        answers = [seen for seen in _chain(error) if isinstance(seen, HfHubHTTPError)]
        if answers and isinstance(error, RuntimeError):  # which only says which file it was
            raise HubError(_refusal(repo_id, answers[0])) from error
        raise HubError(f"{repo_id} was not pushed: {' '.join(str(error).split())}") from error


def status_of(error: HfHubHTTPError) -> int:
    """The HTTP status that the Hub answered with."""
    return int(error.response.status_code)


def _refusal(repo_id: str, error: HfHubHTTPError) -> str:
    status = status_of(error)
    if status == 401:
        return _nobody(repo_id)
    if status == 403:
        said = f" ({error.server_message})" if error.server_message else ""
        return (
            f"your token may not write to {repo_id}{said}; check the name, and give a token with write access "
            "(https://huggingface.co/settings/tokens)"
        )
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return f"the Hub has no {repo_id} that you may see; check the name and the token"
    if status in (409, 412):
        return f"{repo_id} changed on the Hub while this was sent, and nothing was written; look at it and push again"
    if status in _BUSY:
        return f"the Hub is busy or in trouble ({status}). {_LATER}"
    return f"the Hub does not take {repo_id}: {_first_line(error)}"


def _nobody(repo_id: str) -> str:
    return f"the Hub does not know who pushes {repo_id}: run `hf auth login`, or give a token with write access"


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")


WAITS = (2.0, 8.0, 30.0)
"""Seconds before each further try, should the line be cut."""

_OF_THE_HUB = ".gitattributes"  # that it writes when a repository is made
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Commit:
    """What lies on the Hub after a push.

    Attributes:
        commit: Its hash.
        url: Where it can be looked at.
        changed: Whether this push made it; False where everything was there already.
    """

    commit: str
    url: str
    changed: bool


@dataclass(frozen=True)
class _Remote:
    head: str | None
    files: dict[str, str]  # path -> SHA-256 of a large file, git's SHA-1 of another
    public: bool


def list_files(folder: Path) -> list[tuple[str, int]]:
    """Names, with slashes, and sizes in bytes of all files under a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in files]


def commit_folder(
    api: HfApi,
    folder: Path,
    repo_id: str,
    *,
    repo_type: str,
    message: str,
    memory: Path,
    revision: str | None = None,
    private: bool = True,
    force: bool = False,
    waits: Sequence[float] = WAITS,
    wait: Callable[[float], Any] = time.sleep,
) -> Commit:
    """Makes a repository hold what a folder holds, and nothing else, in one commit; makes the repository if need be.

    Args:
        api: The Hub's client.
        folder: What it shall hold.
        repo_id: "user/name".
        repo_type: "model" or "space".
        message: Of the commit.
        memory: JSON file that remembers the last commit that was pushed to each repository.
        revision: A branch, made where it is missing; the main one where None.
        private: Whether only its owner may see it.
        force: Whether a commit of somebody else may be replaced.
        waits: Seconds before each further try, should the line be cut.
        wait: How to wait.

    Raises:
        HubError: If the Hub cannot be reached or refuses, holds a commit that is not in `memory`, or is public where
            it should be private. Nothing was written then, unless the message says so.
    """
    if repo_id.count("/") != 1:
        raise HubError(f"{repo_id} is no name for the Hub; name it user/name")
    what: dict[str, Any] = {"repo_id": repo_id, "repo_type": repo_type}
    key = repo_id if revision is None else f"{repo_id}@{revision}"
    with told_plainly(repo_id):
        remote, fresh = _find(api, what, revision), False
        if remote is None:
            sdk = "gradio" if repo_type == "space" else None
            api.create_repo(**what, private=private, exist_ok=True, space_sdk=sdk)
            remote = _find(api, what, None)
        if remote is None:
            raise HubError(f"the Hub does not show {repo_id}, which was made just now; try again in a moment")
        if private and remote.public:
            raise HubError(
                f"{repo_id} is public on the Hub, and this push was to be private: allow it with --public "
                "(private=False), or make it private in its settings first"
            )
        if revision is not None:
            try:
                remote = _look(api, what, revision)
            except RevisionNotFoundError:
                api.create_branch(**what, branch=revision)
                remote, fresh = _look(api, what, revision), True
        own = _digests(folder)
        base = _without_its_own(remote.files)
        if _same(own, base) and remote.head:
            _remember(memory, key, remote.head)
            return Commit(remote.head, _url(api, what, remote.head), False)
        if base and not (force or fresh or remote.head in _remembered(memory).values()):
            raise HubError(
                f"{repo_id} holds the commit {remote.head}, which was not pushed from here; look at "
                f"{_url(api, what, str(remote.head))}, and replace it with --force (force=True)"
            )
        send = [CommitOperationAdd(path, str(folder / path)) for path in own if base.get(path) not in own[path]]
        gone = [CommitOperationDelete(path) for path in sorted(set(base) - set(own))]
        commit = _commit(api, what, [*send, *gone], revision, message, remote.head, own, waits, wait)
    _remember(memory, key, commit)
    return Commit(commit, _url(api, what, commit), True)


def _find(api: HfApi, what: dict[str, Any], revision: str | None) -> _Remote | None:
    """The repository, by its main branch where it has none of this name; None where there is no repository."""
    try:
        return _look(api, what, revision)
    except RevisionNotFoundError:
        return _look(api, what, None)
    except RepositoryNotFoundError:
        return None


def _look(api: HfApi, what: dict[str, Any], revision: str | None) -> _Remote:
    info: Any = api.repo_info(**what, revision=revision)
    files: dict[str, str] = {}
    if info.sha:
        for one in api.list_repo_tree(**what, revision=info.sha, recursive=True):
            if isinstance(one, RepoFile):
                files[one.path] = one.lfs.sha256 if one.lfs is not None else one.blob_id
    return _Remote(info.sha, files, not info.private)


def _digests(folder: Path) -> dict[str, tuple[str, str]]:
    """Of each file SHA-256, and SHA-1 as git counts it: the Hub tells one or the other."""
    return {path: _digest(folder / path, size) for path, size in list_files(folder)}


def _digest(file: Path, size: int) -> tuple[str, str]:
    large, small = hashlib.sha256(), hashlib.sha1(f"blob {size}\0".encode())
    with open(file, "rb") as opened:
        while chunk := opened.read(_CHUNK):
            large.update(chunk)
            small.update(chunk)
    return large.hexdigest(), small.hexdigest()


def _same(own: dict[str, tuple[str, str]], remote: dict[str, str]) -> bool:
    return set(own) == set(remote) and all(remote[path] in digests for path, digests in own.items())


def _commit(
    api: HfApi,
    what: dict[str, Any],
    operations: list[CommitOperationAdd | CommitOperationDelete],
    revision: str | None,
    message: str,
    parent: str | None,
    own: dict[str, tuple[str, str]],
    waits: Sequence[float],
    wait: Callable[[float], Any],
) -> str:
    """Sends large files, then makes the commit on top of `parent` and nothing else, so that a push from elsewhere is
    not overwritten. Each further try sends the large files that have not arrived.
    """
    for seconds in (*waits, None):
        try:
            with warnings.catch_warnings():
                # The rows of an index lie beside the weights that it belongs to, on purpose.
                warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
                made = api.create_commit(
                    **what, operations=operations, commit_message=message, revision=revision, parent_commit=parent
                )
            return str(made.oid)
        except Exception as error:
            moved = isinstance(error, HfHubHTTPError) and status_of(error) in (409, 412)
            if not moved and not is_passing(error):
                raise
            if moved or seconds is None:
                # The line may have been cut after the commit, on the way back; then it is this one that is there.
                found = _look(api, what, revision)
                if found.head and _same(own, _without_its_own(found.files)):
                    return found.head
            if moved:
                raise HubError(
                    f"somebody else pushed to {what['repo_id']} while this was sent; nothing was written. Look at "
                    f"{_url(api, what, revision or 'main')} and push again, with --force (force=True) to replace it"
                ) from error
            if seconds is None:
                raise
        wait(seconds)
    raise AssertionError("the last try ends above")


def _without_its_own(files: dict[str, str]) -> dict[str, str]:
    return {path: digest for path, digest in files.items() if path != _OF_THE_HUB}


def _url(api: HfApi, what: dict[str, Any], commit: str) -> str:
    place = "spaces/" if what["repo_type"] == "space" else ""
    return f"{api.endpoint}/{place}{what['repo_id']}/tree/{commit}"


def _remembered(memory: Path) -> dict[str, str]:
    try:
        found = json.loads(memory.read_text())
    except (OSError, ValueError):  # missing or broken: nothing is remembered, and --force is there
        return {}
    return found if isinstance(found, dict) else {}


def _remember(memory: Path, key: str, commit: str) -> None:
    values = {**_remembered(memory), key: commit}
    written = memory.with_name(f"{memory.name}.{os.getpid()}.tmp")
    try:
        written.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
        written.replace(memory)
    except OSError as error:  # the commit is made, and stays
        warnings.warn(f"{memory} cannot be written ({error}); the next push will ask for --force", stacklevel=3)
