import csv
import json
import os
import shutil
from pathlib import Path

import check_splits as script
import numpy as np
import pytest
from dicom_files import encode_dicom
from PIL import Image as PillowImage
from PIL import ImageOps

from mura_hf.data import duplicates, find_duplicates, load_folder, load_fracatlas, read_thumbnails
from mura_hf.phantoms import render_phantom

from .conftest import all_rows, check_patients

REAL = next(
    (folder for up in (3, 4) if (folder := Path(__file__).parents[up] / "shared" / "fracatlas").is_dir()), None
)


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("MURA_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="module")
def pictures():
    """Twelve phantoms of 300 x 240 px."""
    return [
        PillowImage.fromarray(render_phantom(seed, body_part=("wrist", "shoulder")[seed % 2], size=300).pixels)
        for seed in range(12)
    ]


def _pairs(datasets):
    """Near-duplicates among all rows: those in one split, and those in two."""
    rows = [(split, row) for split in datasets for row in all_rows({split: datasets[split]})]
    pairs = find_duplicates(read_thumbnails([row["image"]["path"] for _, row in rows]))
    same = [rows[pair.first][0] == rows[pair.second][0] for pair in pairs]
    return sum(same), len(pairs) - sum(same)


class TestPairs:
    @pytest.mark.parametrize(
        ("change", "name"),
        [
            (lambda picture: picture, "a.png"),
            (lambda picture: picture, "a.jpg"),
            (ImageOps.mirror, "a.jpg"),
            (lambda picture: picture.resize((150, 150)), "a.jpg"),
            (lambda picture: picture.convert("RGB").point(lambda level: 20 + level * 3 // 4), "a.jpg"),
            (lambda picture: picture.transpose(PillowImage.Transpose.ROTATE_90), "turned.jpg"),
            (lambda picture: picture, "a.dcm"),
        ],
    )
    def test_a_changed_copy_is_found(self, pictures, change, name, tmp_path):
        files = [str(tmp_path / f"{number}.png") for number in range(len(pictures))]
        for file, picture in zip(files, pictures, strict=True):
            picture.save(file)
        copy, changed = tmp_path / name, change(pictures[4])
        if copy.suffix == ".dcm":
            copy.write_bytes(encode_dicom(np.asarray(changed).astype(np.uint16) * 16, bits_stored=12))
        elif name == "turned.jpg":  # with the orientation that turns it back
            exif = PillowImage.Exif()
            exif[0x0112] = 6
            changed.save(copy, exif=exif)
        else:
            changed.save(copy)
        assert find_duplicates(read_thumbnails(files)) == []
        for pair in (
            *find_duplicates(read_thumbnails([*files, str(copy)])),
            *find_duplicates(read_thumbnails([copy.read_bytes()]), read_thumbnails(files))[:1],
        ):
            assert {pair.first, pair.second} in ({4, len(files)}, {0, 4})
            assert duplicates.MIN_CORRELATION < pair.correlation <= 1
            assert pair.mirrored == (change is ImageOps.mirror)
        assert len(find_duplicates(read_thumbnails([*files, str(copy)]))) == 1

    def test_equals_the_whole_matrix(self, monkeypatch):
        rng = np.random.default_rng(0)
        smooth = np.kron(rng.integers(0, 200, (40, 4, 4)), np.ones((8, 8)))
        thumbnails = (smooth[rng.integers(0, 40, 120)] + rng.integers(0, 16, (120, 32, 32))).astype(np.uint8)
        thumbnails[::3] = thumbnails[::3, :, ::-1]
        monkeypatch.setattr(duplicates, "_BLOCK", 50)
        matrices = [
            np.corrcoef(thumbnails.reshape(120, -1), turned.reshape(120, -1))[:120, 120:]
            for turned in (thumbnails, thumbnails[:, :, ::-1])
        ]
        expected = np.argwhere(np.triu(np.maximum(*matrices) > duplicates.MIN_CORRELATION, 1))
        pairs = find_duplicates(thumbnails)
        assert [(pair.first, pair.second) for pair in pairs] == [tuple(pair) for pair in expected.tolist()]
        assert 20 < len(pairs) < 1000
        assert {pair.mirrored for pair in pairs} == {False, True}

    def test_unreadable_and_plain_images_are_no_duplicates(self, tmp_path):
        (tmp_path / "a.jpg").write_bytes(b"no picture")
        for name in "bc":
            PillowImage.new("L", (64, 64), 90).save(tmp_path / f"{name}.png")
        files = [str(tmp_path / name) for name in ("a.jpg", "b.png", "c.png", "gone.png")]
        assert find_duplicates(read_thumbnails(files)) == []
        assert find_duplicates(read_thumbnails([])) == []

    def test_only_new_and_changed_files_are_read_again(self, pictures, tmp_path, monkeypatch, capsys):
        files = [str(tmp_path / f"{number}.jpg") for number in range(4)]
        for file, picture in zip(files, pictures, strict=False):
            picture.save(file)
        read, original = [], duplicates._read_thumbnail

        def record(image):
            read.append(image)
            return original(image)

        monkeypatch.setattr(duplicates, "_read_thumbnail", record)
        first = read_thumbnails(files[:3])
        assert np.array_equal(read_thumbnails(files[2::-1]), first[::-1])
        pictures[7].save(files[1])
        os.utime(files[1], ns=(1, 1))
        assert not np.array_equal(read_thumbnails(files)[1], first[1])
        assert sorted(read) == sorted([*files[:3], files[1], files[3]])
        (cache,) = (Path(os.environ["MURA_HOME"]) / "thumbnails").glob("*.npz")
        cache.write_bytes(cache.read_bytes()[:300])
        assert np.array_equal(read_thumbnails(files)[2], first[2])
        monkeypatch.setenv("MURA_HOME", f"{files[0]}/home")  # cannot be made
        assert np.array_equal(read_thumbnails(files)[2], first[2])
        assert "Thumbnails cannot be kept in MURA_HOME" in capsys.readouterr().err


class TestSplits:
    @pytest.fixture
    def atlas(self, fracatlas, tmp_path):
        """Ten blocks of twenty films, of which five films exist twice: 5 and 150 with two labels."""
        root = shutil.copytree(fracatlas[0], tmp_path / "atlas")
        files = {int(file.stem[3:]): file for file in root.glob("images/*/*.jpg")}
        broken = [number for number, file in sorted(files.items()) if file.parent.name == "Fractured"]
        whole = [number for number in sorted(files) if number not in broken]
        copies = {broken[0]: broken[-1], whole[0]: whole[60], whole[1]: whole[-1], whole[25]: whole[-2]}
        copies[broken[1]] = next(number for number in whole if number >= 150)
        for first, second in copies.items():
            with PillowImage.open(files[first]) as picture:
                (ImageOps.mirror(picture) if first in whole else picture.copy()).save(files[second], quality=90)
        return root, copies

    def test_fracatlas(self, atlas, capsys):
        root, copies = atlas
        options = {"dev_fraction": 0.15, "calib_fraction": 0.15}
        for seed in range(3):
            new = load_fracatlas(root, **options, seed=seed)
            assert _pairs(new)[1] == 0
            check_patients(new)
            patients = {row["study_id"]: row["patient_id"] for row in all_rows(new)}
            contradictory = {f"IMG{number:07d}" for number in list(copies.items())[-1]}
            absent = {file.stem for file in root.glob("images/*/*.jpg")} - set(patients)
            assert absent <= contradictory
            assert not contradictory & {row["study_id"] for split in ("dev", "calib", "valid") for row in new[split]}
            for pair in copies.items():
                assert (
                    len({patients[name] for name in (f"IMG{number:07d}" for number in pair) if name in patients}) < 2
                )
        printed = capsys.readouterr().err
        assert "FracAtlas: near-duplicates stay in one split. Pairs of images: 5." in printed
        names = ", ".join(sorted(contradictory))
        assert (
            f"1 of these pairs contradict each other, so 2 studies are left out of dev, calib and valid: {names}"
            in (printed)
        )

    def test_folder_without_patients(self, pictures, tmp_path, capsys):
        rng = np.random.default_rng(1)
        for number in range(60):
            folder = tmp_path / ("normal", "abnormal")[number % 2]
            folder.mkdir(exist_ok=True)
            pixels = rng.integers(0, 256, (40, 40)).astype(np.uint8)
            PillowImage.fromarray(pixels).save(folder / f"{number}.png")
            if number % 3 == 0:
                PillowImage.fromarray(pixels[:, ::-1]).save(folder / f"{number}_copy.tiff")
        datasets = load_folder(tmp_path)
        assert _pairs(datasets) == (20, 0)
        assert check_patients(datasets) == 60
        assert "Pairs of images: 20." in capsys.readouterr().err

    def test_the_command(self, pictures, tmp_path, capsys):
        """Patients are known, but one radiograph belongs to two of them."""
        films, others = tmp_path / "films", tmp_path / "others"
        films.mkdir()
        rng = np.random.default_rng(1)
        records = []
        for number in range(40):
            PillowImage.fromarray(rng.integers(0, 256, (64, 64)).astype(np.uint8)).save(films / f"{number}.png")
            records.append({"file_name": f"{number}.png", "label": number % 2, "patient_id": number, "study_id": "a"})
        with (films / "metadata.csv").open("w", newline="") as table:
            writer = csv.DictWriter(table, list(records[0]))
            writer.writeheader()
            writer.writerows(records)
        script.main(["--data_dir", str(films)])
        assert "No two images have thumbnails with a correlation above 0.995. Images: train" in capsys.readouterr().out
        splits = load_folder(films)
        one, other = (splits[split][0]["patient_id"] for split in ("train", "valid"))
        with PillowImage.open(films / f"{one}.png") as picture:
            ImageOps.mirror(picture).save(films / f"{other}.png")
        found = tmp_path / "found.json"
        with pytest.raises(SystemExit) as ended:
            script.main(["--data_dir", str(films), "--json", str(found)])
        assert ended.value.code == 1
        (leak,) = json.loads(found.read_text())
        assert leak["splits"] == ["train", "valid"]
        assert leak["studies"] == [f"{one}/a", f"{other}/a"]
        assert leak["mirrored"]
        assert leak["contradictory"] == (int(one) % 2 != int(other) % 2)
        assert "Pairs of near-duplicates: 1." in capsys.readouterr().out
        others.mkdir()
        pictures[0].save(others / "new.png")
        script.main(["--data_dir", str(films), "--against", str(others)])
        shutil.copy(films / "7.png", others / "again.png")
        with pytest.raises(SystemExit) as ended:
            script.main(["--data_dir", str(films), "--against", str(others)])
        assert ended.value.code == 1
        assert "7/a, again.png" in capsys.readouterr().out
        for arguments in ([], ["a.json", "--data_dir", "b"], ["a.json", "--against", "b"]):
            with pytest.raises(SystemExit) as ended:
                script.main(arguments)
            assert ended.value.code == 2

    @pytest.mark.skipif(REAL is None, reason="no copy of FracAtlas beside the repository")
    def test_the_real_copy(self):
        datasets = load_fracatlas(REAL, dev_fraction=0.15, calib_fraction=0.08)
        assert _pairs(datasets) == (62, 0)
        sizes = {"train": 1995, "dev": 377, "calib": 195, "valid": 647}
        assert {split: len(rows) for split, rows in datasets.items()} == sizes
