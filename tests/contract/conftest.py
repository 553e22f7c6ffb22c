from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from tests.contract.line import Line, fake_line, real_line


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.asterisk)])
def line(request: pytest.FixtureRequest, tmp_path: Path) -> AbstractAsyncContextManager[Line]:
    """Each question is put to the fake and to a real Asterisk."""
    return fake_line(tmp_path / "spool") if request.param == "fake" else real_line()
