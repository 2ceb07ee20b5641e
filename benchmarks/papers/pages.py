"""The pages of docs/experiments: their words are written by hand, their numbers by the experiments' tables."""

import re
from collections.abc import Mapping

from hitl.core.errors import ConfigError

_BLOCK = re.compile(r"(?<=<!-- table )(\w+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)


def rendered(page: str, tables: Mapping[str, str]) -> str:
    """The page with every block between `<!-- table NAME -->` and `<!-- end -->` written anew.

    Raises:
        ConfigError: a block names a table that the experiment has not.
    """

    def block(found: re.Match[str]) -> str:
        if found[1] not in tables:
            raise ConfigError(
                f"The page asks for a table {found[1]!r}.", hint=f"The experiment has {', '.join(sorted(tables))}."
            )
        return f"{found[1]}{found[2]}{tables[found[1]]}\n"

    return _BLOCK.sub(block, page)
