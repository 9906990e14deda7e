"""Programs that call a running app."""

import ast
import base64
import json
import re
import shutil
import zipfile
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError, ValidationError

from mura_hf import StudyPredictor
from mura_hf.inference import find_studies, predict_rows, sort_rows

from .running import upload_file, wait_until

README = Path(__file__).parents[2] / "mura_hf" / "demo" / "README.md"
PHANTOM = {"checkpoint": "mura-phantom"}


@pytest.fixture(scope="module")
def client(app):
    client = Client(app.url, verbose=False)
    yield client
    client.close()


@pytest.fixture(scope="module")
def phantom_predictor():
    return StudyPredictor.from_pretrained("mura-phantom")


@pytest.fixture
def leaves_no_files(app):
    before = set(app.visitors_files())  # of browser tests
    yield
    assert set(app.visitors_files()) <= before


def given(files: list[str]) -> list:
    return [handle_file(file) for file in files]


def close_to(expected):
    """As JSON, equal except for the last digits of numbers, which depend on the number of threads."""
    return json.loads(json.dumps(expected), parse_float=lambda text: pytest.approx(float(text), rel=1e-4, abs=1e-6))


@pytest.mark.parametrize(
    "options", [{}, {"heatmaps": True, "body_part": "wrist", "operating_point": "sensitivity_95"}]
)
def test_predict_study_answers_like_the_predictor(client, phantom_predictor, phantom_files, options, leaves_no_files):
    answer = client.predict(given(phantom_files), api_name="/predict_study", **PHANTOM, **options)
    expected = phantom_predictor(phantom_files, **{"heatmaps": False, **options}).to_dict()
    assert answer.pop("left_out") == []
    assert answer == close_to(expected)


def test_errors_and_unreadable_files_are_explained(app, client, phantom_files, tmp_path, leaves_no_files):
    bad = tmp_path / "letter.png"
    bad.write_text("Dear doctor")
    answer = client.predict(given([phantom_files[0], str(bad)]), api_name="/predict_study")
    assert len(answer["views"]) == 1
    assert [sentence.split()[0] for sentence in answer["left_out"]] == ["letter.png"]
    for files, options, message in (
        ([str(bad)], {}, r"letter\.png is not a PNG"),
        (phantom_files, {"operating_point": "no"}, "unknown operating point"),
        (phantom_files, {"body_part": "knee"}, "body part"),
        ([], {}, "No file was given"),
        (phantom_files, {"checkpoint": "no such/name/here"}, "is not a Hub name"),
        (phantom_files, {"revision": 1}, "not a string"),
    ):
        with pytest.raises(AppError, match=message):
            client.predict(given(files), api_name="/predict_study", **options)
    assert "letter" not in app.log


def test_similar_studies_are_those_of_the_predictor(client, phantom_predictor, phantom_files):
    found = client.predict(given(phantom_files), k=3, body_part="wrist", api_name="/similar", **PHANTOM)
    expected = phantom_predictor.similar(phantom_files, 3, "wrist")
    assert [one["study_id"] for one in found] == [one.study_id for one in expected]
    assert set(found[0]) == {
        "study_id", "view", "label", "body_part", "finding", "distance", "nearest_to", "thumbnail",
        "credit",
    }  # fmt: skip
    assert base64.b64decode(found[0]["thumbnail"].removeprefix("data:image/webp;base64,")) == expected[0].thumbnail
    assert found[0]["credit"] is None
    with pytest.raises(AppError, match="k is 0"):
        client.predict(given(phantom_files), k=0, api_name="/similar")


def test_a_worklist_is_that_of_the_predictor(app, client, phantom_predictor, phantom_tree, tmp_path, leaves_no_files):
    archive = tmp_path / "many.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for study in sorted((phantom_tree / "valid").glob("*/*/*"))[:4]:
            for file in sorted(study.glob("*.png")):
                opened.write(file, file.relative_to(phantom_tree))
        opened.writestr("broken/image1.png", b"no picture")
        views = [file.read_bytes() for file in sorted(phantom_tree.glob("valid/*/*/*/image1.png"))[:2]]
        # The same study number of two patients, and a view under another name beside one that cannot be read.
        for name, content in {"a.IMG": views[0], "b.png": views[1], "c.heic": b"\0\0\0\x18ftypheic"}.items():
            opened.writestr(f"table/{name}", content)
        opened.writestr("table/metadata.csv", "file_name;study_id;patient_id\na.IMG;1;p\nb.png;1;q\nc.heic;1;p\n")
    rows = client.predict(handle_file(str(archive)), api_name="/worklist", **PHANTOM)
    expected = [row.to_dict() for row in sort_rows(predict_rows(phantom_predictor, find_studies(archive)))]
    assert rows == close_to(expected)
    assert rows[-1]["error"]
    found = {row["study"]: (row["n_views"], row["left_out"]) for row in rows if "table" in row["study"]}
    heic = "c.heic is HEIC, which is not supported; save it as JPEG or PNG."
    assert found == {"p/table/1": (1, [heic]), "q/table/1": (1, [])}
    for name, content in (
        ("list.csv", b"/etc/hostname\n"),
        ("list.zip", b"PK\3\4"),
        ("x.zip", b"PK\5\6" + b"\0" * 18),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(AppError, match=f"^{name}") as refused:
            client.predict(handle_file(str(tmp_path / name)), api_name="/worklist")
        assert str(app.folder) not in str(refused.value)


def test_a_program_cannot_name_files_of_the_server(app, client, phantom_files, tmp_path):
    url = app.url
    secret = tmp_path / "secret.png"
    shutil.copy(phantom_files[0], secret)
    marked = {"meta": {"_type": "gradio.FileData"}}
    for path in (str(secret), f"{app.folder}/../{secret}", "https://example.com/a.png"):
        for file in ({"path": path, "orig_name": "a.png"}, {"path": path, "url": path}):
            with pytest.raises(ValidationError, match="list of uploaded files"):
                client.predict([file], api_name="/predict_study")
        reply = httpx.post(f"{url}/gradio_api/call/predict_study", json={"data": [[{"path": path, **marked}]]})
        assert reply.status_code == 400
        reply = httpx.post(f"{url}/gradio_api/run/predict_study", json={"data": [[{"path": path, **marked}]]})
        assert reply.status_code in (400, 404)
    for file in (str(secret), None):  # not an uploaded file
        with pytest.raises(AppError):
            client.predict([file], api_name="/predict_study")


def test_a_program_without_the_client_needs_two_requests(app, phantom_files, leaves_no_files):
    file = upload_file(app.url, "view.png", Path(phantom_files[0]).read_bytes())
    call = {"data": [[file], "", "", "", None, None, False]}
    event = httpx.post(f"{app.url}/gradio_api/call/predict_study", json=call)
    reply = httpx.get(f"{app.url}/gradio_api/call/predict_study/{event.json()['event_id']}", timeout=30).text
    assert reply.startswith("event: complete")
    assert json.loads(reply.split("data: ")[1])[0]["views"][0]["name"] == "view.png"
    wait_until(lambda: not [one for one in app.visitors_files() if one.name == "view.png"])


def test_programs_that_send_the_same_files_at_once_do_not_lose_them(app, client, phantom_files):
    other = Client(app.url, verbose=False)
    calls = [one for one in (client, other) for _ in range(3)]
    jobs = [one.submit(given(phantom_files), api_name="/predict_study", **PHANTOM) for one in calls]
    assert [len(job.result()["views"]) for job in jobs] == [len(phantom_files)] * 6
    other.close()


def test_endpoints_are_documented_and_the_snippet_runs(app, client, phantom_files, tmp_path, monkeypatch, capsys):
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(endpoints) == {"/predict_study", "/similar", "/worklist"}
    assert all(len(endpoint["description"]) > 30 for endpoint in endpoints.values())
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    [snippet] = [block for block in blocks if "gradio_client" in block]
    with zipfile.ZipFile(tmp_path / "studies.zip", "w") as packed:
        for number, name in enumerate(("wrist_frontal.png", "wrist_lateral.png")):
            shutil.copy(phantom_files[number], tmp_path / name)
            packed.write(tmp_path / name, f"{number}/{name}")
    assert "http://127.0.0.1:7860" in snippet
    monkeypatch.chdir(tmp_path)
    exec(snippet.replace("http://127.0.0.1:7860", app.url), {})
    study, cases, rows = capsys.readouterr().out.strip().splitlines()[-3:]
    assert study.endswith("[]")
    assert len(ast.literal_eval(cases)) == 3
    assert {row[0] for row in ast.literal_eval(rows)} == {"0", "1"}
