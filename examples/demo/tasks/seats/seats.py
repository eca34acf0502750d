"""Functions for seats."""

def number_seats(rows):
    """Sum the numbers from 1 to rows, included."""
    seats = 0
    for row in range(1, rows):
        seats += row
    return seats


def is_taken(taken, seat):
    """True if seat occurs in taken."""
    for other in taken:
        if other == seat:
            return True
    return False
