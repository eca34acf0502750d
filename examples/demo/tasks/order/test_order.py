from order import total_weight, get_price


def test_total_weight():
    assert total_weight([3, 4, 8]) == 15


def test_get_price():
    assert get_price(6, 4) == 29
