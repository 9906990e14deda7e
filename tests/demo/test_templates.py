"""All texts of the page are in one place."""

import ast
import re
from pathlib import Path

import pytest

from mura_hf import demo

FOLDER = Path(demo.__file__).parent
WORDS = re.compile(r"[A-Za-z][,.;:!?)]* [A-Za-z“(]")
CODE = re.compile(
    r"=>|<meta|'self'|Segoe UI|Queue is full|maximum allowed size"
)  # the last two are messages of Gradio
IN_SCRIPTS = re.compile(r"""["'`](?:[A-Z][a-z]+|[✓…])[ …][^"'`]*["'`]|\bcontent: *"[^"]*\w{2}""")


def find_texts(code: str) -> list[str]:
    """Texts in a module: two words in a row, or a capital as the first letter of a text for a component."""
    tree = ast.parse(code)
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    found = [node.value for node in texts if id(node) not in docs and WORDS.search(node.value)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("gr."):
            values = [one for one in (*node.args, *(word.value for word in node.keywords)) if one in texts]
            found += [one.value for one in values if re.match("[A-Z]", one.value)]
    return [text for text in found if not CODE.search(text)]


@pytest.mark.parametrize(
    "code", ['"""A."""\nraise DatasetError(f"{name} is empty")', 'gr.Button("Stop")', 'gr.Tab(label="Read")']
)
def test_texts_are_noticed(code):
    assert find_texts(code)


def test_texts_for_visitors_are_in_templates_only():
    texts = {
        file.name: find_texts(file.read_text(encoding="utf-8"))
        for file in FOLDER.glob("*.py")
        if file.name != "templates.py"
    }
    texts |= {
        file.name: IN_SCRIPTS.findall(re.sub(r"//.*|/\*.*?\*/", "", file.read_text(encoding="utf-8")))
        for file in (FOLDER / "static").iterdir()
    }
    assert len(texts) > 20
    assert {name: found for name, found in texts.items() if found} == {}
