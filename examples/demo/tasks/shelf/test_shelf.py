from shelf import first_books, longer_title


def test_first_books():
    assert first_books([5, 1, 8, 2, 9]) == [5, 1, 8]


def test_longer_title():
    assert longer_title('sea', 'land') == 'land'
