"""The trial balance: the ledger read as double entry.

Every row of the ledger is one transfer. It debits the account of the tenant who pays and credits the account of the provider who is owed (`local` and
`scripted` are accounts too: what this machine's time costs), by the same amount; a correction is one more transfer. So debits and credits must agree.
Here each side is read where the other is not: tenants' from the sums by day, providers' from the rows themselves.
"""

from __future__ import annotations

from msgspec import Struct
from sqlalchemy import Connection, literal_column, select

from adapters.cost import PICODOLLARS, usd
from router.money.periods import Month
from router.money.reports import usage
from router.tables import ledger


class Account(Struct, frozen=True):
    """One account, `tenant:NAME` or `provider:NAME`, and what its side of the transfers comes to, in picodollars."""

    name: str
    debit: int = 0
    credit: int = 0


class Balance(Struct, frozen=True):
    """Both sides of a period: tenants first, then providers, each by name."""

    accounts: tuple[Account, ...]

    @property
    def debit(self) -> int:
        return sum(account.debit for account in self.accounts)

    @property
    def credit(self) -> int:
        return sum(account.credit for account in self.accounts)

    @property
    def agrees(self) -> bool:
        return self.debit == self.credit

    def shown(self) -> dict[str, object]:
        """As it is answered: money in USD, exact decimals."""
        lines = [{"account": each.name, "debit_usd": usd(each.debit), "credit_usd": usd(each.credit)} for each in self.accounts]
        return {"accounts": lines, "debit_usd": usd(self.debit), "credit_usd": usd(self.credit), "agrees": self.agrees}


def trial_balance(connection: Connection, month: Month | None = None) -> Balance:
    """Of one month, by when attempts ended, or of everything. Reads every row of the ledger of that time once, archived months by their opening rows."""
    since, until = (None, None) if month is None else (float(month.start), float(month.end))
    tenants = [Account(f"tenant:{line.by['tenant']}", debit=line.sums["cost"]) for line in usage(connection, since=since, until=until, by=("tenant",))]
    query = select(
        ledger.c.provider,
        literal_column(f"SUM(cost / {PICODOLLARS})"),  # whole dollars and the rest: SQLite's sums have 64 bits, and those are nine million dollars
        literal_column(f"SUM(cost % {PICODOLLARS})"),
    ).group_by(ledger.c.provider)
    if month is not None:
        query = query.where(ledger.c.ended_at >= month.start, ledger.c.ended_at < month.end)
    rows = connection.execute(query.order_by(ledger.c.provider))
    providers = [Account(f"provider:{name}", credit=int(whole) * PICODOLLARS + int(rest)) for name, whole, rest in rows]
    return Balance((*tenants, *providers))
