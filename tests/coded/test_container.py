import base64
import struct
import time
import tracemalloc
import zlib
from contextlib import suppress

import numpy as np
import pytest
from c_decoder import dumped
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors_to_store import NAMES, STORED, same

from haversack.coded.container import read, stored, write
from haversack.coded.tensors import Codebook, Integers, Raw
from haversack.errors import CodedError

RNG = np.random.default_rng(0)
SPARSE = np.where(RNG.random((40, 30)) < 0.1, RNG.integers(1, 8, (40, 30)), 0)
TENSORS = {
    "conv1.weight": Integers(np.clip(RNG.normal(0, 30, (8, 4, 3, 3)), -127, 127).astype(int), RNG.random(8), axis=0),
    "conv1.bias": Raw(RNG.normal(size=8).astype(np.float32)),
    "fc.weight": Codebook(SPARSE, np.arange(8) / 8),
    "wide": Integers(RNG.integers(-(2**15), 2**15, (5, 6)), [0.5], bits=16, narrow=False),
    "shifted": Integers(RNG.integers(0, 16, (6, 6)), RNG.random(6), RNG.integers(0, 16, 6), 1, 4, signed=False),
}


def with_checksum(content: bytes) -> bytes:
    return content + struct.pack("<I", zlib.crc32(content))


@settings(max_examples=150)
@given(st.dictionaries(NAMES, STORED, max_size=4))
def test_what_is_written_is_read_to_the_bit(tensors):
    found = read(write(tensors))
    assert list(found) == list(tensors)
    assert all(same(found[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("count", [1, 2, 3, 255, 256])
@pytest.mark.parametrize("size", [1, 2, 65, 5000, 200_000])
def test_any_number_of_symbols_in_one_lane_and_in_many(count, size):
    tensor = Codebook(np.random.default_rng(size).integers(0, count, size), np.arange(count))
    assert same(read(write({"": tensor}))[""], tensor)


def test_numbers_that_are_not_numbers_keep_their_bits():
    odd = np.array([np.nan, -np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-45, -6e-8, 65504, 65520], np.float32)
    signalling = np.array([0x7F800001, 0xFFC12345], np.uint32).view(np.float32)
    for values in (odd, signalling, odd[4:9], np.concatenate([odd] * 40)):
        assert same(read(write({"x": Raw(values)}))["x"], Raw(values))
        assert read(write({"x": stored(values)}))["x"].real.tobytes() == values.tobytes()


def test_the_format_is_what_it_was():
    """Files of earlier versions are read for ever: what does not pass here needs a new version of the format."""
    assert write({}).hex() == "4853430100005d0119a5"
    assert write(TINY).hex() == ("485343010002010266630a0204010900000038be000001360a0004020000cdcdcccccc4c3d3ee04e8ae1")
    assert all(same(found, TINY[name]) for name, found in read(write(TINY)).items())
    found = read(base64.b64decode(FROZEN))
    assert [f"{name} {type(each).__name__} {each.shape}" for name, each in found.items()] == FROZEN_NAMES
    assert zlib.crc32(dumped(found)) == 2340155626


TINY = {"fc.weight": Codebook([[0, 1, 1, 0], [1, 1, 0, 0]], [0.5, -1.5]), "fc.bias": Raw(np.float32([0.1, 0.2]))}
FROZEN_NAMES = [
    "a.weight Integers (6, 4, 3, 3)",
    "a.bias Raw (3,)",
    "b.weight Codebook (60, 60)",
    "c Integers (20, 40)",
    "d Integers (5, 6)",
    "e.weight Integers (12, 4, 3, 3)",
    "é Raw (5,)",
]
# In it: packed, coded with straight lines between codes, by classes of columns, split, two planes, kernels.
FROZEN = """
SFNDAQEHAQFhEQYEAwMXAQYJAAAAAAAAADw4NEBEQgEusQVmFwkGAAQDAABDFhU32D7FxJY+P7wBAWIKPDwHCQAAAAAAAAAAAAAw
NDY4OTo7EQAHnHPOOeeccw4AeFDIVgAe+QMAAWMJFChXAAkAADgHAAMAAAACgAEAAUDtACcAIbuJu7VJsHdWPYlcC4xhZg42b2Wr
ul16KDpwOoySDARcSzYoAHdZozUAAWQJBQYPAAAAzczMPQB6CppzZ5ioWRiQcmOqdXWSNwAO8XFqALOhEEzxkHrRCg7eTb7PCH4T
lVl2xCS4ezBeUAEBZREMBAMDFwAJAAA0QQH+SHCRuCWk272kRFBa7iYlnVbJmUt6JFFuBKa/MX4GAALDqQQFCAD+/wABAv//AAAA
//8AAAD//wAAAP//AAAA//8AAAD//wAAAP//AAAARhHgpdYjosDanL43SL51dtrw3SX3nL2XZbzBgHN/d6dguf8A+idxZFQnIgaC
cfuZAWEHT+8+4d9eSdG06b80VNeaQgAsP+Lov42QD9/uxtWEzbzXWd/ZHIinRLPL2fPk+9yFqCoWjNMB62FAjj4Z5CEXzGdLmb11
RRgxINyW6gHqXWANoZKa1Ga6zzlwvSZplZU3yVM5ZBY+v/VNewreQCukXSnjLhTL+qq/7qiJPM0cQkP2ZiH3UPueIBwFgUdqxys3
JU+rbrgkc8f28JSLVufj+GWy8WsHJ9AfB9KZ+74T20Byoxgn4h2KmKXaI8XcnocUETedwxXoHz7kctemTA77si0YtYoT0CTmY3P0
m8YoP0DMyfrRpILUWAmE0wqs+FRpTOYF9xmeivbCA6LOaxvWWNzVcUvMQgZ0241ij4nRSxkWdWbFbj8c0xRBUegUeEghp4oH+kr3
V2vPDY20V6xT8u/x9PERWdMgIyWRZs6b798spr1lap1KfU7ibtXchSjj1EUTauTX9yq2tpEinLu7/MU9dyRF3GIDts9qzdCPwaB3
Yu8KH4XjsfmcNyFjrUkRxyio0Qpd4VHfJVI1PdXz1N3nAmBEXsPJHRJdQKcQljssjZP34RqV3iJCIoqj3grZV1frkN/3pzRc1b2M
lMOQteqikthK1s3qRzDCwbf6tluZF1KtH+Xqp7H9D1KtuFfdXEA/inZzL4i+XPLh0/ad6pMhs5rS2axiajJ168B9rKOJ3IxsEpPf
43nuqzmgw1S2bfNkkgANlIn/P6y9qEd5bEttseaoy6bUXRFh6Q+wTP1PTrW4P3PmzpHUBnCqP6IyaDAkFbheZo2oXMopE26x5eBs
HTZlSQTKFSd9gVXEEeKS//Li6kcYB2WBoxLKE0xGHfi2Yhupd1XBuc5PiPMaq3EOLR+8/aSrahYe8S5uMXpUm3MD1gdIfvC9VsS2
p9rRj7sDrItnBPZgdSOADuw/9MCBhvHslzLwKPCozzk88GHQFu7GxrSPiqlbpktBOToK8E6BMf316Xs2MyR7OUbeevMYodwOeFrc
lKbtFcA97gZb9FKIz8stx9FSCezvkXEiXVFDcY6MIPM+avwRAFNNfbY=
"""


def test_names_and_shapes_of_a_lenet_take_few_bytes():
    shapes = {"conv1": (20, 1, 5, 5), "conv2": (50, 20, 5, 5), "fc1": (500, 800), "fc2": (10, 500)}
    tensors = {}
    for name, shape in shapes.items():
        tensors[f"{name}.weight"] = Codebook(np.zeros(shape, int), [0.5])
        tensors[f"{name}.bias"] = Raw(np.float32(1 + RNG.random(shape[0])))
    assert len(write(tensors)) - 4 * 580 <= 140


def test_a_mask_costs_what_its_entropy_does():
    rng = np.random.default_rng(1)
    kept = rng.random((500, 800)) < 0.02
    tensor = Codebook(np.where(kept, rng.integers(1, 16, kept.shape), 0), np.arange(16))
    entropy = kept.size * (-0.02 * np.log2(0.02) - 0.98 * np.log2(0.98)) / 8 + kept.sum() * np.log2(15) / 8
    assert len(write({"fc1.weight": tensor})) < 1.02 * entropy + 100


def test_rows_that_pruning_emptied_cost_next_to_nothing():
    rng = np.random.default_rng(2)
    values = rng.integers(-127, 128, (128, 128))
    values[rng.random(128) < 0.8] = 0
    rows = (values != 0).any(1).sum()
    assert len(write({"w": Integers(values, np.ones(1))})) < rows * 128 * 1.02 + 200


def test_smooth_kernels_are_shorter_than_their_weights_alone():
    """Each weight is the one before and a little more, so that it is the little more which has to be told."""
    kernels = np.random.default_rng(3).normal(0, 10, (64, 32, 25)).cumsum(2)
    values = np.clip(np.rint(kernels), -127, 127).astype(int).reshape(64, 32, 5, 5)
    tensor = Integers(values, np.ones(1))
    file, shuffled = write({"w": tensor}), np.random.default_rng(4).permuted(values, axis=None)
    assert same(read(file)["w"], tensor)
    assert len(file) < 0.92 * len(write({"w": Integers(shuffled, np.ones(1))}))


def test_what_coding_does_not_shorten_is_packed():
    values = np.random.default_rng(3).integers(0, 16, (64, 64))
    file = write({"w": Integers(values, np.ones(1), bits=4, signed=False)})
    assert len(file) <= values.size / 2 + 40


def test_few_different_numbers_become_a_codebook_and_many_do_not():
    some = np.float32([0, 0.25, -1])[np.random.default_rng(4).integers(0, 3, (30, 30))]
    many = np.random.default_rng(4).normal(size=(30, 30)).astype(np.float32)
    assert isinstance(stored(some), Codebook)
    assert isinstance(stored(many), Raw)
    assert (stored(some).real == some).all()


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_the_real_numbers_are_steps_from_the_zero_point(axis):
    rng = np.random.default_rng(5)
    values, count = rng.integers(-8, 8, (4, 6, 2)), 1 if axis is None else (4, 6)[axis]
    scale, zeros = rng.random(count).astype(np.float32), rng.integers(-8, 8, count)
    spread = [-1 if dim == axis else 1 for dim in range(3)]
    wanted = (values - zeros.reshape(spread)).astype(np.float32) * scale.reshape(spread)
    assert np.array_equal(Integers(values, scale, zeros, axis, 4).real, wanted)


def test_a_step_can_be_of_a_group_within_a_row():
    values, scale = np.arange(8).reshape(2, 4), np.float32([1, 2, 3, 4])
    assert Integers(values, scale, axis=0).real.tolist() == [[0, 1, 4, 6], [12, 15, 24, 28]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Integers([8], [1.0], bits=4), "integers 8 to 8 on a grid of 4 bits"),
        (lambda: Integers([1], [1.0], bits=17), "integers of 17 bits"),
        (lambda: Integers([[1, 2]], [1.0, 2.0, 3.0], axis=1), "3 steps and 0 zero points"),
        (lambda: Integers([1, 2], [1.0, 2.0]), "2 steps"),
        (lambda: Integers([1, 2], [1.0], axis=1), "axis 1"),
        (lambda: Codebook([2], [1.0, 2.0]), "indices 2 to 2 into a codebook of 2"),
        (lambda: Codebook([0], []), "a codebook of 0 numbers"),
        (lambda: Raw(np.array(["a"])), "numbers of type <U1"),
        (lambda: write({"x" * 300: Raw(np.zeros(1))}), "longer than 255 bytes"),
        (lambda: write({"a\0b": Raw(np.zeros(1))}), "zero byte"),
        (lambda: write({"x": Raw(np.zeros((1,) * 9))}), "9 dimensions"),
    ],
)
def test_what_has_no_form_is_refused_by_name(make, message):
    with pytest.raises(CodedError, match=message):
        make()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no file of coded weights"),
        (b"PK\x03\x04" + bytes(20), "no file of coded weights"),
        (b"HSC", "damaged or cut off"),
        (b"HSC\x02" + bytes(20), "version 2 of the format, and this is 1"),
        (write(TENSORS)[:-1], "damaged or cut off"),
        (write(TENSORS)[:100] + b"\xff" + write(TENSORS)[101:], "damaged or cut off"),
        (write(TENSORS) + b"\0", "damaged or cut off"),
        (with_checksum(write(TENSORS)[:-6]), "cut off|end where it should|damaged|more than it does"),
        (with_checksum(b"HSC\x01\x00\x02" + b"\x00\x01a\x00\x00\x00\x00\x00\x00\x00" * 2), "holds a twice"),
    ],
)
def test_damaged_foreign_and_newer_files_say_so(content, message):
    with pytest.raises(CodedError, match=message):
        read(content)


def peak_of(content: bytes, **limits: int) -> int:
    """The most memory that reading takes, or refusing."""
    tracemalloc.start()
    with suppress(CodedError):
        read(content, **limits)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize(
    "tensor",
    [
        Integers(np.zeros((1 << 20, 1), np.int8), [1.0]),
        Integers(np.zeros((1 << 20, 1), np.int16), [1.0], bits=16),
        Codebook(np.zeros((1 << 10, 1 << 10), np.uint8), [0.5]),
        Raw(np.zeros(1 << 20, np.float32)),
        Raw(np.zeros(1 << 20, np.int64)),
        Raw(np.arange(1 << 20, dtype=np.uint32).astype(np.uint8) & 1),
        Codebook(np.random.default_rng(0).integers(0, 2, (1 << 10, 1 << 10)), [0.5, 1]),
    ],
)
def test_a_file_that_claims_too_much_takes_no_memory(tensor):
    """A constant costs no coded bytes, so a few bytes can claim any size."""
    content = write({"x": tensor})
    for limit in range(1 << 20, 13 << 20, 2 << 20):
        assert peak_of(content, limit_bytes=limit) < limit + 3 * len(content)
    assert same(read(content)["x"], tensor)


def test_a_few_bytes_take_no_more_than_a_file_may_however_many_numbers_they_claim():
    """The head of a codebook of one number, a little less than 2^28 times."""
    shape = b"\x0a" + b"\x80\x80\x01" + b"\xff\x7f"
    content = with_checksum(
        b"HSC\x01\x01\x01\x00\x01x" + shape + b"\x00\x00\x00" + bytes(4) + b"\x01\x00\x00\x07\x00" + bytes(4)
    )
    assert len(content) < 40
    assert peak_of(content) < 1 << 16


def test_tables_cost_what_they_take_and_go_with_their_tensor():
    """Seven tables of 256 symbols in ten bytes: without a charge these 700 kB take gigabytes, and minutes."""
    record = b"\x09\x08\x08" + b"\x07\x00" + b"\x00\x00" + bytes(4)
    constant = sum((7 | 0 << 3) << 11 * place for place in range(7)).to_bytes(10, "little")
    plane = b"\x29\x00\xff" + bytes(4) + constant
    for count in (200, 20_000):
        names = (bytes([0, 4]) + f"{index:04x}".encode() for index in range(count))
        body = b"".join(name + record + plane for name in names)
        number = bytes([count & 0x7F | 0x80, count >> 7 & 0x7F | 0x80, count >> 14])
        content = with_checksum(b"HSC\x01\x01" + number + body + b"\x00\x00\x01\x00")
        assert peak_of(content) < 1 << 26
    begin = time.monotonic()
    with pytest.raises(CodedError, match="more numbers than it may"):
        read(content)
    assert time.monotonic() - begin < 10


def test_a_shape_that_numpy_cannot_hold_is_refused_though_it_has_no_elements():
    huge = b"\xff\xff\xff\xff\xff\xff\xff\x7f"
    content = with_checksum(b"HSC\x01\x00\x01\x00\x01x" + b"\x0c" + huge * 2 + b"\x00" + b"\x00\x00")
    with pytest.raises(CodedError, match="damaged"):
        read(content)
