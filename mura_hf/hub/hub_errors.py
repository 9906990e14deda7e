"""What the Hub's client raises, in words that say what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
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
