"""A bundle is whole and its owner's, or refused."""

import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_updates import ED25519, ES256, OTHER, PAYLOAD, digest, header, recipient

from haversack.errors import UpdateError
from haversack.update.rules.bundle import Canary, Header, chunked, header_of, opened, write
from haversack.update.rules.cbor import Items, written
from haversack.update.rules.recipient import check_recipient
from haversack.update.rules.signing import signed

GOLDEN = Path(__file__).with_name("golden")
FILE = write(header(), PAYLOAD, ED25519)


def test_the_golden_bundle_is_written_and_read_byte_for_byte():
    content = (GOLDEN / "bundle.hsu").read_bytes()
    assert write(header(), PAYLOAD, ED25519) == content
    found = opened(content, ED25519.public)
    assert (found.header, found.payload) == (header(), PAYLOAD)


def test_a_golden_bundle_with_es256_is_read():
    found = opened((GOLDEN / "bundle_es256.hsu").read_bytes(), ES256.public)
    assert (found.header, found.payload) == (header(), PAYLOAD)


def test_a_bundle_is_two_items_that_cbor2_reads():
    with (GOLDEN / "bundle.hsu").open("rb") as stream:
        items = cbor2.CBORDecoder(stream)
        envelope, payload = items.decode(), items.decode()
        with pytest.raises(cbor2.CBORDecodeEOF):
            items.decode()
    fields = cbor2.loads(envelope.value[2])
    assert payload == PAYLOAD
    assert fields[1] == "digits"
    assert fields[13] == b"".join(digest(PAYLOAD[at : at + 256]) for at in range(0, 600, 256))


TEXTS = st.text(max_size=30)
DIGESTS = st.binary(min_size=32, max_size=32)


@settings(max_examples=25)
@given(
    st.builds(
        header,
        model_id=st.text(min_size=1, max_size=30),
        sequence=st.integers(0, 2**63 - 1),
        runtime=TEXTS,
        device=TEXTS,
        codec_version=st.integers(0, 300),
        base_sha256=DIGESTS | st.just(b""),
        canaries=st.lists(st.builds(Canary, st.binary(max_size=50), DIGESTS), max_size=3).map(tuple),
        ends=st.integers(0, 2**37),
    ),
    st.binary(max_size=2000),
    st.sampled_from([256, 1000, 1 << 14]),
)
def test_what_is_written_is_opened(made: Header, payload, chunk_bytes):
    made = replace(made, **chunked(payload, chunk_bytes))
    found = opened(write(made, payload, ED25519), ED25519.public)
    assert (found.header, found.payload) == (made, payload)


def test_no_byte_can_be_altered():
    for at in range(len(FILE)):
        for flipped in (1, 0x80, 0xFF):
            altered = FILE[:at] + bytes([FILE[at] ^ flipped]) + FILE[at + 1 :]
            with pytest.raises(UpdateError):
                opened(altered, ED25519.public)


def test_no_byte_can_be_left_out_or_added():
    for length in range(len(FILE)):
        with pytest.raises(UpdateError):
            opened(FILE[:length], ED25519.public)
    with pytest.raises(UpdateError, match="bytes follow"):
        opened(FILE + b"\0", ED25519.public)


def test_a_payload_of_another_bundle_is_refused():
    """Mix and match: both parts are the owner's, but not of each other."""
    envelope = signed_header({})
    with pytest.raises(UpdateError, match="payload is not what was signed"):
        opened(envelope + written(PAYLOAD[::-1]), ED25519.public)
    with pytest.raises(UpdateError, match="payload is not what was signed"):
        opened(envelope + written(PAYLOAD[:-1]), ED25519.public)


def test_a_bundle_of_another_key_is_refused():
    with pytest.raises(UpdateError, match="signed by another key"):
        opened(FILE, OTHER.public)


def signed_header(changed: dict[int, object]) -> bytes:
    """An envelope by the right key around a header with other fields; None leaves one out."""
    fields = cbor2.loads(cbor2.loads(FILE).value[2]) | changed
    content = {number: value for number, value in sorted(fields.items()) if value is not None}
    return signed(cbor2.dumps(content, canonical=True), ED25519)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({0: 2}, "version 2 of the format, and this is 1"),
        ({0: b""}, "makes no sense"),
        ({0: None}, "makes no sense"),
        ({16: 1}, "a field 16 that a reader must know"),
        ({127: b"x"}, "a field 127 that a reader must know"),
        ({1: ""}, "makes no sense"),
        ({1: "x" * 129}, "makes no sense"),
        ({1: b"digits"}, "makes no sense"),
        ({2: -1}, "makes no sense"),
        ({2: 2**63}, "makes no sense"),
        ({8: b"short"}, "makes no sense"),
        ({9: None}, "makes no sense"),
        ({11: 2**40}, "makes no sense"),
        ({11: 0}, "makes no sense"),
        ({12: 1}, "makes no sense"),
        ({13: b"x" * 95}, "makes no sense"),
        ({13: [b"x" * 32]}, "makes no sense"),
        ({14: [[b"in"]]}, "makes no sense"),
        ({14: [[b"in", "out"]]}, "makes no sense"),
        ({14: {1: 2}}, "makes no sense"),
        ({15: 2**62}, "makes no sense"),
        ({15: "soon"}, "makes no sense"),
    ],
)
def test_a_header_that_this_reader_does_not_know_is_refused_though_it_is_signed(changed, said):
    with pytest.raises(UpdateError, match=said):
        header_of(Items(signed_header(changed)), ED25519.public)


def test_a_field_that_may_be_passed_over_is():
    items = Items(signed_header({128: "a note", 4000: [1, 2]}))
    assert header_of(items, ED25519.public) == header()


def test_endless_data_is_refused_by_what_it_says_before_it_is_read():
    for start in (b"\xd2\x84\x5b" + b"\xff" * 8, FILE[: len(FILE) - len(written(PAYLOAD))] + b"\x5b" + b"\x7f" * 8):
        begin = time.monotonic()
        tracemalloc.start()
        with pytest.raises(UpdateError):
            opened(start + bytes(1 << 16), ED25519.public)
        assert tracemalloc.get_traced_memory()[1] < 1 << 18
        tracemalloc.stop()
        assert time.monotonic() - begin < 1


@pytest.mark.parametrize(
    ("wanted", "changed", "said"),
    [
        ({}, {"sequence": 7}, "sequence number is 7, and 7 is here already"),
        ({}, {"sequence": 9}, "sequence number is 7, and 9 is here already"),
        ({}, {"base_sha256": digest(b"older")}, "changes another model"),
        ({}, {"base_sha256": b""}, "changes another model"),
        ({}, {"device": "raspberry-pi-5"}, "for the device 'raspberry-pi-4', and this is 'raspberry-pi-5'"),
        ({}, {"runtime": "litert"}, "for the runtime 'onnx', and this is 'litert'"),
        ({"format": "coded-9"}, {}, "for the format 'coded-9', and this is 'coded-1'"),
        ({}, {"model_id": "letters"}, "for the model 'digits', and this is 'letters'"),
        ({}, {"now": 2_000_000_000}, "has expired"),
        ({}, {"now": None}, "no clock"),
        ({"result_bytes": 1001}, {}, "1,001 bytes, and there is room for 1,000"),
    ],
)
def test_what_is_not_for_this_device_is_refused_with_the_reason(wanted, changed, said):
    with pytest.raises(UpdateError, match=said):
        check_recipient(header(**wanted), recipient(**changed))


@pytest.mark.parametrize(
    ("wanted", "changed"),
    [({}, {}), ({"device": ""}, {}), ({"ends": 0}, {"now": None}), ({"base_sha256": b""}, {"base_sha256": b""})],
)
def test_what_is_for_this_device_is_let_through(wanted, changed):
    check_recipient(header(**wanted), recipient(**changed))
