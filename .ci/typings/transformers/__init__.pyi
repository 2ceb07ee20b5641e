"""Everything in transformers is Any to the type checker, which else spends a minute in its thousands of modules."""

from typing import Any

def __getattr__(name: str) -> Any: ...
