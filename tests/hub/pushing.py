"""How tests push to the Hub on loopback."""

from mura_hf.hub import push

NAME, REPO = "tester/wrists", "models/tester/wrists"


def push_here(folder, api, **options):
    options = {"wait": lambda seconds: None, "progress": False, **options}
    return push(folder, NAME, api=api, **options)


def writes_of(hub):
    """Requests that may change what the Hub holds."""
    return [
        (method, path) for method, path in hub.requests if method not in ("GET", "HEAD") and "validate" not in path
    ]
