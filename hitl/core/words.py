"""How amounts are written for people."""


def counted(count: int, one: str) -> str:
    """`1 rating`, `1,200 ratings`."""
    return f"{count:,} {one}{'' if count == 1 else 's'}"
