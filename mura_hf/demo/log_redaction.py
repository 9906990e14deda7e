"""Keeps file names of visitors, and so names of people, out of the log of the server."""

import logging
import traceback
from typing import Any

import gradio as gr
from gradio.exceptions import InvalidPathError

from .middleware import NOT_UPLOADED

UNEXPECTED = "Something went wrong on the server. Your files are not the cause. Try again."

_log = logging.getLogger("mura_hf.demo")


class RedactingBlocks(gr.Blocks):
    """Blocks that log only the type and the place of an exception, and show the visitor one sentence."""

    async def process_api(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Runs a handler like `gr.Blocks`."""
        try:
            return await super().process_api(*args, **kwargs)
        except gr.Error as error:
            error.print_exception = False
            raise
        except InvalidPathError:
            raise gr.Error(NOT_UPLOADED, print_exception=False) from None
        except Exception as error:
            _log.error("%s", describe_exception(error))
            raise gr.Error(UNEXPECTED, print_exception=False) from None


class RedactingFilter(logging.Filter):
    """Replaces the exceptions of log records by `describe_exception`."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Changes the record and keeps it."""
        if record.exc_info and record.exc_info[1] is not None:
            record.msg, record.args = f"{record.msg} {describe_exception(record.exc_info[1])}", ()
            record.exc_info = record.exc_text = None
        return True


def describe_exception(error: BaseException) -> str:
    """Type and place of an exception. Its message may contain file names and is left out."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames[-4:]]
    return f"{type(error).__name__} at {' > '.join(places)}"
