import constriction
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors_to_store import SEEDS, skewed

from haversack.coded.bits import BitReader, BitWriter, Cursor, golomb_bits, packed, unpacked, varint
from haversack.coded.rans import TOTAL, Coded, Decoder, Tables, encode
from haversack.coded.tables import chosen, read_table, symbol_bits
from haversack.errors import CodedError


def tables_of(*histograms: np.ndarray) -> Tables:
    return Tables(np.stack([chosen(each)[0].frequencies for each in histograms]))


def cursor(content: bytes) -> Cursor:
    return Cursor(content, 0, len(content), 1 << 20)


@settings(max_examples=60)
@given(SEEDS, st.sampled_from([1, 2, 3, 32, 64]), st.integers(1, 256), st.integers(1, 700))
def test_planes_come_back_in_any_number_of_lanes(seed, lanes, count, size):
    rng = np.random.default_rng(seed)
    planes = []
    for _ in range(3):
        symbols = skewed(rng, (size,), 0, count - 1).astype(np.uint8)
        which = rng.integers(0, 2, size).astype(np.uint8)
        histograms = [np.bincount(symbols[which == each], minlength=count) for each in (0, 1)]
        planes += [Coded(symbols, tables_of(*histograms), which), Coded(symbols, tables_of(sum(histograms)))]
    decoder = Decoder(encode(planes, lanes), lanes)
    for plane in planes:
        assert np.array_equal(decoder.symbols(size, plane.tables, plane.which), plane.symbols)
    decoder.close()


@pytest.mark.parametrize("lanes", [1, 64])
@pytest.mark.parametrize("spread", [0.4, 3, 40])
def test_the_code_is_as_short_as_a_range_coder_of_the_same_frequencies(lanes, spread):
    """The oracle is constriction's range coder (Bamler 2022), whose model gets our whole-number frequencies."""
    symbols = np.clip(np.random.default_rng(0).normal(128, spread, 200_000), 0, 255).astype(np.uint8)
    tables = tables_of(np.bincount(symbols, minlength=256))
    kept = tables.frequencies[0].nonzero()[0]
    model = constriction.stream.model.Categorical(tables.frequencies[0][kept] / TOTAL, perfect=True)
    coder = constriction.stream.queue.RangeEncoder()
    coder.encode(np.searchsorted(kept, symbols).astype(np.int32), model)
    theirs = coder.get_compressed().nbytes
    plane = Coded(symbols, tables)
    assert len(encode([plane], lanes)) <= 1.0005 * theirs + 4 * lanes
    assert len(encode([plane], lanes)) <= 1.0005 * plane.bits / 8 + 4 * lanes


@settings(max_examples=150)
@given(SEEDS, st.integers(1, 256), st.integers(1, 3000))
def test_a_table_reads_as_it_was_written_and_leaves_out_no_symbol(seed, count, size):
    counts = np.bincount(skewed(np.random.default_rng(seed), (size,), 0, count - 1), minlength=count)
    table, bits = chosen(counts)
    writer = BitWriter()
    table.write(writer)
    assert writer.length == table.bits
    frequencies = read_table(BitReader(cursor(writer.content)), count)
    assert np.array_equal(frequencies, table.frequencies)
    assert frequencies.sum() == TOTAL
    assert frequencies.min() >= 0
    assert bits == pytest.approx(table.bits + symbol_bits(counts, frequencies))
    assert bits < float("inf")


@pytest.mark.parametrize(("count", "size"), [(16, 400_000), (255, 36_864), (255, 2_000)])
def test_a_table_and_what_it_loses_are_a_small_part(count, size):
    """The bound is the entropy of the bell curve that the symbols come from, which nobody has to be told."""
    symbols = np.clip(np.rint(np.random.default_rng(0).normal(count / 2, count / 6, size)), 0, count - 1)
    entropy_bits = size * np.log2(count / 6 * np.sqrt(2 * np.pi * np.e))
    assert chosen(np.bincount(symbols.astype(int), minlength=count))[1] <= 1.01 * entropy_bits + 100


@given(st.integers(0, 2**16), st.integers(0, 3))
def test_golomb_numbers_come_back_in_the_length_that_was_promised(value, order):
    writer = BitWriter()
    writer.put_golomb(value, order)
    assert writer.length == golomb_bits(np.array([value]), order)[0]
    assert BitReader(cursor(writer.content)).golomb(order) == value


@given(st.integers(0, 2**63 - 1))
def test_whole_numbers_come_back(value):
    assert cursor(varint(value)).varint() == value


@given(st.integers(0, 8), SEEDS, st.integers(0, 40))
def test_packed_numbers_come_back(width, seed, count):
    values = np.random.default_rng(seed).integers(0, 1 << width, count).astype(np.uint8)
    assert np.array_equal(unpacked(packed(values, width), width, count), values)
    assert len(packed(values, width)) == -(-width * count // 8)


@pytest.mark.parametrize("lanes", [1, 4])
def test_a_part_cut_off_or_with_more_behind_it_is_refused(lanes):
    symbols = np.random.default_rng(0).integers(0, 256, 1000).astype(np.uint8)
    tables = tables_of(np.bincount(symbols, minlength=256))
    words = encode([Coded(symbols, tables)], lanes)
    for content in (words[40:], words[1:], words[: 4 * lanes - 2], bytes(2) + words):
        with pytest.raises(CodedError, match="coded part"):
            _read_all(content, lanes, tables)


def _read_all(content: bytes, lanes: int, tables: Tables) -> None:
    decoder = Decoder(content, lanes)
    decoder.symbols(1000, tables)
    decoder.close()
