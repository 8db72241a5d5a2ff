"""What all tests share: one thread each, since small networks run faster so, and times that nobody else reads.

No example of a property is timed.
"""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def _own_tables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What pieces take is kept in a folder of this session: the user's tables are neither read nor written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HAVERSACK_CACHE", str(tmp_path_factory.mktemp("tables")))
        yield
