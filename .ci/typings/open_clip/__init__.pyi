"""Everything in open_clip is Any to the type checker: it has no types, and what is inferred from its code is wrong.

`create_model_and_transforms` answers a model of one of several kinds, of which only `torch.nn.Module` is inferred.
"""

from typing import Any

def __getattr__(name: str) -> Any: ...
