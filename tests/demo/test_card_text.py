import pytest

from mura_hf.common import BUNDLED
from mura_hf.demo.models_tab import MOST_LETTERS, find_card, read_card


def _write(folder, text, name="README.md"):
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("name", ["", *BUNDLED])
def test_the_cards_of_the_package_come_with_their_pictures_inside(name, monkeypatch):
    monkeypatch.delenv("MURA_CHECKPOINT", raising=False)
    card = find_card(name, "")
    assert card.trusted
    assert card.text.startswith(f"# {name or 'mura-film'}")
    assert "license:" not in card.text.split("## ")[0]
    assert card.text.count("](data:image/png;base64,") == 4
    assert ".png)" not in card.text
    assert "Cut here" not in card.text


def test_anybody_elses_card_is_text(checkpoint, tmp_path):
    _write(tmp_path, "---\ntags: [x]\n---\n# Mine\n![x](http://tracker.example/a.png) ![y](roc.png)\n<img src=x>\n")
    card = find_card(str(tmp_path), "")
    assert not card.trusted
    assert card.text.startswith("# Mine\n![x](http://tracker.example/a.png) ![y](roc.png)")
    missing = find_card(str(checkpoint), "")
    assert "came without a card" in missing.text
    assert not missing.trusted
    assert "cannot be had" in find_card("nobody/nothing", "").text


def test_a_long_card_is_cut_and_says_so(tmp_path):
    card = read_card(_write(tmp_path, "a" * (MOST_LETTERS + 1234)), trusted=False)
    assert card.text.startswith("a" * MOST_LETTERS + "\n\n[Cut here")
    assert "1,234 letters" in card.text
    assert len(card.text) < MOST_LETTERS + 100


def test_odd_front_matter_and_bytes_do_no_harm(tmp_path):
    assert read_card(_write(tmp_path, "---\nno end"), trusted=False).text == "---\nno end"
    assert "came without a card" in read_card(_write(tmp_path, "---\na: 1\n---\n"), trusted=False).text
    (tmp_path / "README.md").write_bytes(b"\xff\xfe card")
    assert read_card(tmp_path / "README.md", trusted=False).text.endswith("card")
    assert "came without a card" in read_card(tmp_path / "nowhere.md", trusted=False).text


def test_a_card_without_its_plots_keeps_their_words(tmp_path):
    (tmp_path / "README.md").write_text("# mine\n\n![The ROC curve](roc.png)\n")
    card = read_card(tmp_path / "README.md", trusted=True)
    assert card.text == "# mine\n\n*The ROC curve: not here; see the card on the Hub.*"
