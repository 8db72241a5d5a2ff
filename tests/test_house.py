"""What `tests/house.py` says of the package's rooms holds for the folders and files that are there."""

from tests import house


def test_each_room_stands_on_a_floor_and_each_floor_holds_rooms_that_are_there():
    assert set(house.RANK) == {name.partition(".")[0] for name in house.files()}


def test_no_function_is_longer_than_a_screen():
    assert not house.long_functions()
