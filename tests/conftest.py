"""What every room's tests share: the way to ``tests.*``, the size of Hypothesis's runs."""

from __future__ import annotations

import gc
import os
import signal
import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parents[1]))  # helpers are ``tests.room.helper``

# Who starts the tests in the background may have had SIGINT ignored; what they start inherits
# that, and Ctrl-C is one of the things they test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A slow disk is not a bug: deadlines and the health check of speed would make tests flaky.
_CALM = [HealthCheck.too_slow, HealthCheck.data_too_large]
_CI = bool(os.environ.get("CI"))  # a merge is judged by the same examples every time
settings.register_profile(
    "quick", max_examples=20, deadline=None, suppress_health_check=_CALM, derandomize=_CI
)
settings.register_profile(
    "thorough", max_examples=300, deadline=None, suppress_health_check=_CALM, derandomize=_CI
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def pytest_collection_finish() -> None:
    """What was imported stays: no garbage collection need walk through it again, at 0.2 s each."""
    gc.collect()
    gc.freeze()
