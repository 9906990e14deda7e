from damaged_files import damaged_files, measure_untrusted, undamaged_files

from mura_hf import read_radiograph

SIDES = (96, 320)


def test_undamaged_files_can_be_read():
    files = undamaged_files(SIDES)
    assert len(files) == 34
    for name, data in files.items():
        side = int(name.rsplit(" ", 1)[1])
        assert max(read_radiograph(data).pixels.shape) == side, name


def test_damages_come_from_the_seed():
    first, again, other = ([data for _, data in damaged_files(40, seed, SIDES[:1])] for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert len(set(first)) == 40


def test_every_damaged_file_ends_as_a_radiograph_or_a_sentence_and_the_reader_lives():
    found = measure_untrusted(300, seed=5, sides=SIDES, progress=False)
    assert found["alive"]
    assert found["read"] + found["refused"] == 300
    assert min(found["read"], found["refused"]) > 20
    assert found["slowest_seconds"] < 10
    assert found["worker_peak_megabytes"] < 1000
