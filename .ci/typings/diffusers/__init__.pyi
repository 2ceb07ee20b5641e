"""Everything in diffusers is Any to the type checker.

Its annotations contradict its use: `block_out_channels: tuple[int]` takes four numbers, and whatever has `return_dict`
is typed as the tuple nobody asks for. Checked against them, correct code has an error in every second call.
"""

from typing import Any

def __getattr__(name: str) -> Any: ...
