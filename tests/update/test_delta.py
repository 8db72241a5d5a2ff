"""A delta gives the new weights back to the bit, or is refused; and a bundle takes the smallest way."""

import struct
import time
import tracemalloc
import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_updates import ED25519, header
from tensors_to_store import NAMES, STORED
from weights import new, old, same

from haversack.coded import container
from haversack.coded.tensors import Codebook, Integers, Raw
from haversack.errors import CodedError, UpdateError
from haversack.update.rules import delta
from haversack.update.rules.bundle import Bundle, chunked, opened, write
from haversack.update.rules.codecs import Payload, digest, fields, result, smallest

GOLDEN = Path(__file__).with_name("golden")
LIMIT = 1 << 28


def bundled(payload: Payload, **changed: object) -> Bundle:
    made = header(**fields(payload), **chunked(payload.content)) if not changed else None
    made = made or replace(header(**fields(payload), **chunked(payload.content)), **changed)
    return opened(write(made, payload.content, ED25519), ED25519.public)


def test_the_golden_delta_is_read_byte_for_byte():
    """What writes may choose otherwise one day; what was written stays readable."""
    assert same(delta.read(old(), (GOLDEN / "delta.hsd").read_bytes(), limit_bytes=LIMIT), new())


def test_the_golden_plain_file_is_written_byte_for_byte():
    """Its digest says which weights a bundle changes, so no version may write it otherwise."""
    content = (GOLDEN / "plain.hsk").read_bytes()
    assert container.plain(old()) == content
    assert same(container.read(content), old())


@st.composite
def versions(draw):
    """Weights of any form, and others of which some are the same, some moved a little, and some are anything."""
    before = draw(st.dictionaries(NAMES, STORED, min_size=1, max_size=3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return before, {
        name: draw(st.just(tensor) | st.just(nudged(tensor, rng)) | STORED) for name, tensor in before.items()
    }


def nudged(tensor, rng):
    moved = rng.random(tensor.shape) < rng.choice([0.01, 0.2, 1.0])
    if isinstance(tensor, Integers):
        low = -(1 << tensor.bits - 1) if tensor.signed else 0
        values = tensor.values.astype(int) + moved * rng.integers(-3, 4, tensor.shape)
        return replace(tensor, values=np.clip(values, low, low + (1 << tensor.bits) - 1))
    if isinstance(tensor, Codebook):
        count = tensor.centroids.size
        return replace(tensor, indices=(tensor.indices.astype(int) + moved) % count)
    if tensor.values.dtype == np.float32:
        return Raw(tensor.values + np.float32(2**-9) * (moved * rng.integers(-90, 90, tensor.shape)).astype(np.float32))
    return tensor


@settings(max_examples=40)
@given(versions())
def test_what_changed_is_read_back_to_the_bit(pair):
    before, after = pair
    assert same(delta.read(before, delta.write(before, after), limit_bytes=LIMIT), after)


def test_zeros_that_stay_cost_nothing():
    """A hundred thousand pruned weights beside a thousand others of which some moved."""
    rng = np.random.default_rng(0)
    weights = np.where(rng.random((300, 400)) < 0.02, rng.integers(1, 100, (300, 400)), 0)
    moved = np.where((weights > 0) & (rng.random(weights.shape) < 0.1), weights + 1, weights)
    one, two = ({"w": Integers(values, [0.5])} for values in (weights, moved))
    changes = int((weights != moved).sum())
    bits = -np.log2(0.1) * changes - np.log2(0.9) * ((weights > 0).sum() - changes)
    assert len(delta.write(one, two)) < bits / 8 + 40


def test_real_numbers_that_moved_by_steps_take_a_byte_each_or_less():
    rng = np.random.default_rng(0)
    values = rng.normal(size=700).astype(np.float32)
    steps = np.clip(np.rint(rng.normal(0, 20, 700)), -100, 100).astype(np.float32)
    one, two = {"b": Raw(values)}, {"b": Raw(values + steps * np.float32(2**-12))}
    assert len(delta.write(one, two)) < 700
    assert same(delta.read(one, delta.write(one, two), limit_bytes=LIMIT), two)


def test_the_same_weights_cost_a_byte_each():
    assert len(delta.write(old(), old())) == 6 + len(old())


@pytest.mark.parametrize(
    "after",
    [
        {"w": Integers(np.ones((2, 3)), [0.25])},  # another step
        {"w": Integers(np.ones((2, 3)), [0.5], bits=4)},  # another grid
        {"w": Integers(np.ones((3, 2)), [0.5])},  # another shape
        {"w": Raw(np.ones((2, 3), np.float32))},  # another form
        {"w": Integers(np.zeros((2, 3)), [0.5, 0.5], axis=0)},  # the same numbers, said otherwise
    ],
)
def test_what_is_on_another_grid_is_sent_whole(after):
    before = {"w": Integers(np.zeros((2, 3)), [0.5])}
    assert same(delta.read(before, delta.write(before, after), limit_bytes=LIMIT), after)


def test_other_names_have_no_delta():
    with pytest.raises(CodedError, match="other tensors"):
        delta.write({"a": Raw(np.zeros(1))}, {"b": Raw(np.zeros(1))})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no delta"),
        (b"HSC\x01\x00\x00", "no delta"),
        (b"HSD\x02\x00\x05", "version 2 of its format, and this is 1"),
        (b"HSD\x01\x00\x04", "of another model"),
        (b"HSD\x01\x00\x05\x04", "damaged"),
        (b"HSD\x01\x00\x05\x00", "more than it does"),
        (b"HSD\x01\x00\x05\x00\x02\x80\x00\x30\x07\x00\x00", "damaged"),
        (b"HSD\x01\x00\x05\x00\x00\x00\x00\x00\x01", "cut off"),
    ],
)
def test_what_is_no_delta_of_these_weights_says_so(content, said):
    with pytest.raises(CodedError, match=said):
        delta.read(old(), content, limit_bytes=LIMIT)


def test_a_damaged_delta_is_refused_or_gives_other_weights_and_never_more():
    content = delta.write(old(), new())
    rng = np.random.default_rng(1)
    for _ in range(150):
        altered = bytearray(content)
        for at in rng.integers(0, len(content), 1 + rng.integers(3)):
            altered[at] = rng.integers(256)
        with suppress(CodedError):
            assert list(delta.read(old(), bytes(altered), limit_bytes=1 << 24)) == list(old())


def test_a_signed_bundle_whose_delta_is_damaged_gives_the_signed_weights_or_none():
    """Not even its owner can bring in other weights than the header says."""
    payload = smallest(new(), old())
    rng = np.random.default_rng(2)
    for _ in range(150):
        altered = bytearray(payload.content)
        for at in rng.integers(0, len(altered), 1 + rng.integers(3)):
            altered[at] = rng.integers(256)
        with suppress(UpdateError):
            assert same(result(bundled(replace(payload, content=bytes(altered))), old()), new())


def test_a_delta_that_claims_too_much_takes_no_memory():
    numbers = b"\xff\xff\xff\x7f\x01"  # 2^28 - 1 of them
    begin = time.monotonic()
    for record in (b"\x08" + numbers + bytes(2), b"\x09" + numbers + b"\x17" + bytes(7)):
        tracemalloc.start()
        with pytest.raises(CodedError):
            delta.read(
                {"w": Raw(np.zeros(2, np.float32))}, b"HSD\x01\x01\x01\x01" + record + bytes(40), limit_bytes=1 << 20
            )
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        tracemalloc.stop()
    assert time.monotonic() - begin < 5


def test_the_smallest_way_is_taken():
    little, whole = smallest(new(), old()), smallest(new())
    assert (little.codec, whole.codec) == ("delta", "whole")
    assert len(little.content) < len(whole.content) / 3
    assert smallest({"a": Raw(np.zeros(1))}, {"b": Raw(np.zeros(1))}).codec == "whole"


@pytest.mark.parametrize("base", [None, old()])
def test_a_bundle_brings_the_new_weights(base):
    assert same(result(bundled(smallest(new(), base)), base), new())


def test_a_base_is_told_by_its_weights_and_not_by_how_they_are_coded():
    payload = smallest(new(), old())
    assert payload.base_sha256 == digest(container.read(container.write(old())))
    assert same(result(bundled(payload), container.read(container.plain(old()))), new())


@pytest.mark.parametrize("base", [None, new(), {"x": Raw(np.zeros(1))}])
def test_wrong_base(base):
    with pytest.raises(UpdateError, match="another model than the one here"):
        result(bundled(smallest(new(), old())), base)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"codec": "magic"}, "'magic', version 1, which is unknown here"),
        ({"codec_version": 2}, "'delta', version 2, which is unknown here"),
        ({"base_sha256": b""}, "makes no sense"),
        ({"codec": "whole"}, "makes no sense"),
        ({"result_sha256": bytes(32)}, "gives other weights"),
        ({"result_bytes": 5}, "gives other weights"),
    ],
)
def test_what_its_owner_signed_wrongly_is_refused(changed, said):
    with pytest.raises(UpdateError, match=said):
        result(bundled(smallest(new(), old()), **changed), old())


def test_decompression_bomb():
    """Fifty bytes, rightly signed, that stand for a gigabyte of zeros."""
    shape = b"\x0a" + b"\x80\x80\x04" + b"\x80\x80\x01"
    body = b"HSC\x01\x01\x01\x00\x01x" + shape + b"\x00\x00\x00" + bytes(4) + b"\x01\x00\x00\x07\x00" + bytes(4)
    content = body + struct.pack("<I", zlib.crc32(body))
    bomb = Payload("whole", content, b"", bytes(32), 1000)
    tracemalloc.start()
    with pytest.raises(UpdateError, match="cannot be decoded"):
        result(bundled(bomb))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
