from ledger import sum_balance, look_up


def test_sum_balance():
    assert sum_balance({'rent': 12, 'food': 7}) == 19


def test_look_up():
    assert look_up({'rent': 12}, 'food') == 0
