def count_high(readings):
    """Count the numbers in readings that are at least 8."""
    count = 0
    for reading in readings:
        if reading > 8:
            count += 1
    return count


def get_span(readings):
    """Return the largest minus the smallest of readings."""
    return max(readings) - min(readings)
