def first_books(books):
    """Return the first 3 items of books."""
    return books[3:]


def longer_title(title, other):
    """Return the longer of title and other; title if they are equally long."""
    if len(title) >= len(other):
        return title
    return other
