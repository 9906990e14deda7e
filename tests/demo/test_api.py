"""Programs that ask a running server for answers."""

import ast
import json
import re
import shutil
import subprocess
import sys
import threading
import zipfile

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError, ValidationError

from mura_hf import StudyPredictor
from mura_hf.inference import find_studies, predict_rows, sort_rows
from tests.demo.serving_app import ENDPOINTS, ROOT, serve
from tests.demo.test_serving import upload, wait_until


@pytest.fixture(scope="module")
def served():
    with serve({"MURA_CHECKPOINT": "mura-phantom", "OMP_NUM_THREADS": "1"}, ENDPOINTS) as app:
        yield app


@pytest.fixture(scope="module")
def client(served):
    client = Client(served.url, verbose=False)
    yield client
    client.close()


@pytest.fixture(scope="module")
def predictor():
    return StudyPredictor.from_pretrained("mura-phantom")


def given(files: list[str]) -> list:
    return [handle_file(file) for file in files]


def close_to(expected):
    """Equal but for the last digits, which another number of threads changes."""
    if isinstance(expected, float):
        return pytest.approx(expected, rel=1e-4, abs=1e-6)
    if isinstance(expected, dict):
        return {name: close_to(value) for name, value in expected.items()}
    return [close_to(value) for value in expected] if isinstance(expected, list) else expected


@pytest.mark.parametrize(
    "options", [{}, {"heatmaps": True, "body_part": "wrist", "operating_point": "sensitivity_95"}]
)
def test_a_study_is_answered_as_by_the_predictor_and_its_files_are_gone(
    served, client, predictor, phantom_files, options
):
    answer = client.predict(given(phantom_files), api_name="/predict_study", **options)
    expected = predictor(phantom_files, **{"heatmaps": False, **options}).to_dict()
    assert answer.pop("left_out") == []
    assert answer == close_to(json.loads(json.dumps(expected)))
    assert served.visitors_files() == []


def test_files_that_cannot_be_read_are_told_of(served, client, phantom_files, tmp_path):
    bad = tmp_path / "letter.png"
    bad.write_text("Dear doctor")
    answer = client.predict(given([phantom_files[0], str(bad)]), api_name="/predict_study")
    assert len(answer["views"]) == 1
    assert [sentence.split()[0] for sentence in answer["left_out"]] == ["letter.png"]
    with pytest.raises(AppError, match=r"letter\.png is not a PNG"):
        client.predict(given([str(bad)]), api_name="/predict_study")
    with pytest.raises(AppError, match="unknown operating point 'no'"):
        client.predict(given(phantom_files), operating_point="no", api_name="/predict_study")
    with pytest.raises(AppError, match="body part"):
        client.predict(given(phantom_files), body_part="knee", api_name="/predict_study")
    with pytest.raises(AppError, match="No file was given"):
        client.predict([], api_name="/predict_study")
    with pytest.raises(AppError, match="is not a Hub name"):
        client.predict(given(phantom_files), checkpoint="no such/name/here", api_name="/predict_study")
    assert "letter" not in served.log
    assert served.visitors_files() == []


def test_similar_studies_are_those_of_the_predictor(client, predictor, phantom_files):
    found = client.predict(given(phantom_files), k=3, body_part="wrist", api_name="/similar")
    expected = predictor.similar(phantom_files, 3, "wrist")
    assert [one["study_id"] for one in found] == [one.study_id for one in expected]
    assert set(found[0]) == {
        "study_id", "patient_id", "view", "label", "body_part", "finding", "distance", "nearest_to",
    }  # fmt: skip
    with pytest.raises(AppError, match="k is 0"):
        client.predict(given(phantom_files), k=0, api_name="/similar")


def test_a_worklist_is_that_of_the_predictor(served, client, predictor, phantom_tree, tmp_path):
    studies = sorted((phantom_tree / "valid").glob("*/*/*"))[:4]
    archive = tmp_path / "many.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for study in studies:
            for file in sorted(study.glob("*.png")):
                opened.write(file, file.relative_to(phantom_tree))
        opened.writestr("broken/image1.png", b"no picture")
    rows = client.predict(handle_file(str(archive)), api_name="/worklist")
    expected = [row.to_dict() for row in sort_rows(predict_rows(predictor, find_studies(archive)))]
    assert rows == close_to(json.loads(json.dumps(expected)))
    assert rows[-1]["error"] == "No view could be read."
    for name, content in (
        ("list.csv", b"/etc/hostname\n"),
        ("list.zip", b"PK\3\4"),
        ("x.zip", b"PK\5\6" + b"\0" * 18),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(AppError, match=f"^{name}") as refused:
            client.predict(handle_file(str(tmp_path / name)), api_name="/worklist")
        assert str(served.folder) not in str(refused.value)
    assert served.visitors_files() == []


def test_a_program_can_name_no_file_of_the_server(served, client, phantom_files, tmp_path):
    url = served.url
    secret = tmp_path / "secret.png"
    shutil.copy(phantom_files[0], secret)
    marked = {"meta": {"_type": "gradio.FileData"}}
    for path in (str(secret), f"{served.folder}/../{secret}", "https://example.com/a.png"):
        for file in ({"path": path, "orig_name": "a.png"}, {"path": path, "url": path}):
            with pytest.raises(ValidationError, match="has to be uploaded"):
                client.predict([file], api_name="/predict_study")
        reply = httpx.post(f"{url}/gradio_api/call/predict_study", json={"data": [[{"path": path, **marked}]]})
        assert reply.status_code == 400
        reply = httpx.post(f"{url}/gradio_api/run/predict_study", json={"data": [[{"path": path, **marked}]]})
        assert reply.status_code in (400, 404)
    with pytest.raises(AppError):
        client.predict([str(secret)], api_name="/predict_study")  # a bare string is no uploaded file
    with pytest.raises(AppError):
        client.predict([None], api_name="/predict_study")


def test_a_program_without_the_client_asks_by_two_requests(served, phantom_files):
    url = served.url
    with open(phantom_files[0], "rb") as file:
        given = upload(url, "view.png", file.read())
    event = httpx.post(f"{url}/gradio_api/call/predict_study", json={"data": [[given], "", "", "", None, None, False]})
    told = httpx.get(f"{url}/gradio_api/call/predict_study/{event.json()['event_id']}", timeout=30).text
    assert told.startswith("event: complete")
    assert json.loads(told.split("data: ")[1])[0]["views"][0]["name"] == "view.png"
    wait_until(lambda: served.visitors_files() == [])


def test_programs_that_ask_at_once_with_the_same_files_do_not_lose_them(served, client, phantom_files):
    jobs = [client.submit(given(phantom_files), api_name="/predict_study") for _ in range(4)]
    others, found = [Client(served.url, verbose=False) for _ in range(2)], []

    def ask(one: Client) -> None:
        found.append(one.predict(given(phantom_files), api_name="/predict_study"))

    threads = [threading.Thread(target=ask, args=(one,)) for one in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers = [*found, *(job.result() for job in jobs)]
    assert [len(answer["views"]) for answer in answers] == [len(phantom_files)] * 6
    for one in others:
        one.close()


def test_endpoints_are_documented(client):
    told = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert {"/predict_study", "/similar", "/worklist"} <= set(told)
    assert "/hidden" not in told
    for name in ("/predict_study", "/similar", "/worklist"):
        assert len(told[name]["description"]) > 30
    assert told["/worklist"]["parameters"][0]["parameter_name"] == "archive"


def test_the_examples_of_the_readme_run(served, phantom_files, tmp_path):
    """In another process, which has the files that they name."""
    text = (ROOT / "README.md").read_text()
    [example] = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "gradio_client" in block]
    with zipfile.ZipFile(tmp_path / "studies.zip", "w") as packed:
        for number, name in enumerate(("wrist_frontal.png", "wrist_lateral.png")):
            shutil.copy(phantom_files[number], tmp_path / name)
            packed.write(tmp_path / name, f"{number}/{name}")
    assert "http://127.0.0.1:7860" in example
    program = example.replace("http://127.0.0.1:7860", served.url)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    study, cases, rows = done.stdout.strip().splitlines()[-3:]
    assert study.endswith("[]")
    assert len(ast.literal_eval(cases)) == 3
    assert {row[0] for row in ast.literal_eval(rows)} == {"0", "1"}
