"""What every test starts from: few threads, no network, no screen, and no workspace of the person who runs it.

The variables are read once, when the libraries are imported, so they are set before anything else is. `rl` and
`reward_models` must not be imported here: under pytest jaxtyping and beartype check them as they are imported.
"""

import os
import sys
from collections.abc import Iterator

import pytest

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")  # the tests' tensors are tiny: more threads only wait for each other
os.environ.update(
    CUBLAS_WORKSPACE_CONFIG=":4096:8",  # without it deterministic algorithms refuse to run on a GPU
    DIFFUSERS_VERBOSITY="error",
    GRADIO_ANALYTICS_ENABLED="False",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    HF_HUB_OFFLINE="1",
    MPLBACKEND="Agg",
    TOKENIZERS_PARALLELISM="false",
)
os.environ.pop("HITL_WORKSPACE", None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests of a GPU where there is none. Torch is imported only when such a test was selected."""
    waiting = [item for item in items if item.get_closest_marker("gpu")]
    if not waiting:
        return
    import torch

    if not torch.cuda.is_available():
        for item in waiting:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def numbers_as_ieee_has_them() -> Iterator[None]:
    """What trains in a test's own process makes the smallest numbers 0 there; the next test is not to know."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_flush_denormal(False)
