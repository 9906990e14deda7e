"""The browser demo: a Gradio app that reads studies and worklists and compares checkpoints."""

import gc

from ..common import require_extra

require_extra("demo", "gradio", "jinja2", "pyarrow", "reportlab")


def launch() -> None:
    """Builds and serves the app until the process ends. README.md in this folder lists the environment variables.

    Raises:
        SystemExit: If the app cannot start; the message says why. Also on SIGTERM, after all uploads are removed.
    """
    gc.disable()  # takes more than a second of the start; `serve` enables it again
    from .state import make_context

    context = make_context()  # its checkpoints load while Gradio is imported
    from .server import serve_page

    serve_page(context)


__all__ = ["launch"]
