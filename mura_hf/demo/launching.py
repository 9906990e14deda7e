"""`launch`: starts the app. Its examples are rendered beside the imports of its page; each takes two seconds."""

import multiprocessing
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection

from .examples import render_examples


def launch() -> None:
    """Builds and serves the app; host and port from `GRADIO_SERVER_NAME` and `GRADIO_SERVER_PORT`, else
    127.0.0.1:7860. With `MURA_MCP=1`, its endpoints are tools of the Model Context Protocol too.

    Raises:
        SystemExit: If it cannot start; it says why. On SIGTERM, once what visitors brought is removed.
    """
    pictures = begin_rendering()
    from .server import serve_page

    serve_page(pictures)


def begin_rendering() -> Callable[[], dict[str, bytes]]:
    """Begins to render the examples, where a process can be forked for it, while no thread runs yet.

    Returns:
        What gives the answer of `render_examples`, once.
    """
    if sys.platform != "linux":
        return render_examples
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_render, args=(receiver, sender), daemon=True)
    process.start()
    sender.close()

    def collect() -> dict[str, bytes]:
        try:
            return receiver.recv()
        except EOFError:  # it was killed, for want of memory perhaps
            return render_examples()
        finally:
            receiver.close()
            process.join()

    return collect


def _render(receiver: Connection, sender: Connection) -> None:
    receiver.close()  # else this process would wait for itself, were the app killed
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the app, which ends this process with itself
    with suppress(BrokenPipeError):  # the app is gone
        sender.send(render_examples())
