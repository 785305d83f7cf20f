"""What tests of several files share: assertions of helpers that show their values, and a sweep."""

import pytest

pytest.register_assert_rewrite("binary_cases", "largeprompt_numbers", "swept")


@pytest.fixture(scope="module")
def serial():
    """The sweep of `swept.risk` over its grid, in this process."""
    from swept import GRID, risk

    from numeric import sweep

    return sweep(risk, GRID, executor="serial")
