from gauge import count_high, get_span


def test_count_high():
    assert count_high([7, 8, 9, 8, 6]) == 3


def test_get_span():
    assert get_span([4, 11, 6]) == 7
