"""What all tests share: one thread each, since small networks run faster so, times that nobody else reads, and exports.

No example of a property is timed.
"""

import os
from collections import OrderedDict
from collections.abc import Hashable, Iterator

import pytest
from hypothesis import settings

from tests.sweep import WHOLE

os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

_STRUCTURES = 200
"""So many exported structures are kept: a few megabytes each at most."""


class _Kept(OrderedDict[Hashable, object]):
    """The latest structures that were exported or asked for."""

    def get(self, key: Hashable, default: object = None) -> object:
        if key in self:
            self.move_to_end(key)
        return super().get(key, default)

    def __setitem__(self, key: Hashable, value: object) -> None:
        super().__setitem__(key, value)
        if len(self) > _STRUCTURES:
            self.popitem(last=False)


@pytest.fixture(scope="session", autouse=True)
def _own_tables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What pieces take is kept in a folder of this session: the user's tables are neither read nor written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HAVERSACK_CACHE", str(tmp_path_factory.mktemp("tables")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _structures_outlive_their_networks() -> Iterator[None]:
    """Tests build the same small networks again and again, and torch.export takes longer than most of them.

    So a structure stays known when its network is gone, but in the sweep. How it is told from others, and that the
    package keeps none, is held by tests/graph/test_structure.py, where nothing outlives anything.
    """
    if WHOLE:
        yield
        return
    from haversack.graph import structure

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(structure, "_KNOWN", _Kept())
        yield
