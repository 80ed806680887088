"""What tests of the protocol share."""

from collections.abc import Callable

import pytest

from batch_cases import PAIRS
from DeepAttentionRegEngine.protocol.contract import BatchJob


@pytest.fixture
def job(tmp_path) -> Callable[..., BatchJob]:
    def make(rows: str = "".join(f"{name},f,m\n" for name in PAIRS), header: str = "name,fixed,moving", **options):
        (tmp_path / "pairs.csv").write_text(f"{header}\n{rows}", encoding="utf-8")
        options = {"settings": {"method": "none"}, "outputs": ["transform"], **options}
        return BatchJob(pairs=str(tmp_path / "pairs.csv"), output=str(tmp_path / "out"), **options)

    return make
