"""A server that keeps visitors' file names out of its log."""

import logging
import traceback
from typing import Any

import gradio as gr
from gradio.exceptions import InvalidPathError

from .middleware import NOT_UPLOADED

BROKEN = "Something went wrong on the server, which is not your files' fault. Try again."

_log = logging.getLogger("mura_hf.demo")


class DiscreetBlocks(gr.Blocks):
    """Blocks whose handlers fail in words.

    A `gr.Error` reaches the visitor and is not printed; of any other failure the log gets its type and where it
    happened, and the visitor a sentence. Messages of exceptions may hold names of files, and so of people.
    """

    async def process_api(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As that of Gradio."""
        try:
            return await super().process_api(*args, **kwargs)
        except gr.Error as error:
            error.print_exception = False
            raise
        except InvalidPathError:
            raise gr.Error(NOT_UPLOADED, print_exception=False) from None
        except Exception as error:
            _log.error("%s", describe_failure(error))
            raise gr.Error(BROKEN, print_exception=False) from None


class DiscreetFilter(logging.Filter):
    """Of exceptions in a log, leaves what `describe_failure` says."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Changes the record; lets all pass."""
        if record.exc_info and record.exc_info[1] is not None:
            record.msg, record.args = f"{record.msg} {describe_failure(record.exc_info[1])}", ()
            record.exc_info = record.exc_text = None
        return True


def describe_failure(error: BaseException) -> str:
    """Type and place of an exception, without its message."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames[-4:]]
    return f"{type(error).__name__} at {' > '.join(places)}"
