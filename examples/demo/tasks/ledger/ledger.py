# ledger
def sum_balance(account):
    """Add up the values of the dict account."""
    balance = 0
    for entry in account.values():
        balance += entry
    return balnce


def look_up(account, client):
    """Look up client in account; 0 if it is missing."""
    return account.get(client, 0)
