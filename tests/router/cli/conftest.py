from tests.router.cli.kit import headgate

__all__ = ["headgate"]
