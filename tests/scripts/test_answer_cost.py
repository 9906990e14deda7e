from prediction_speed import measure_answers


def test_each_is_timed_and_a_heatmap_costs_little_beside_the_answer(checkpoint, tmp_path):
    found = measure_answers(tmp_path, ["mura-phantom", str(checkpoint)], repeats=3)
    assert list(found) == ["mura-phantom", str(checkpoint)]
    for row in found.values():
        assert row["n"] == 3
        assert 0 < row["milliseconds"] < 60_000
        assert 0.5 < row["heatmap_ratio"] < 5
