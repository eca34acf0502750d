"""Functions for order."""

def total_weight(parts):
    """Return the sum of parts."""
    weight = 0
    for part in parts:
        weight += part
    return weight


def get_price(price, count):
    """Multiply price by count, then add 5."""
    cost = price * count
    return cost - 5
