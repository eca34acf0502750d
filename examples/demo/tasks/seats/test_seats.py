from seats import number_seats, is_taken


def test_number_seats():
    assert number_seats(5) == 15


def test_is_taken():
    assert is_taken([3, 8, 12], 8) is True
