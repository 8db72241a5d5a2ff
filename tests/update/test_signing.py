"""Values in CBOR, and envelopes in COSE, held against cbor2 and RFC 9052."""

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from made_updates import ED25519, ES256, OTHER, private_pem, public_pem

from haversack.errors import UpdateError
from haversack.update.rules import cbor
from haversack.update.rules.cbor import Items
from haversack.update.rules.signing import PrivateKey, PublicKey, signed, to_be_signed, verified

PLAIN = st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=300) | st.text(max_size=40)
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers(0, 2**32), inner, max_size=4)
)


def depth(value: object) -> int:
    inner = value if isinstance(value, list) else value.values() if isinstance(value, dict) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


@given(VALUES.filter(lambda value: depth(value) <= 4))
def test_what_cbor2_writes_is_read(value):
    assert cbor.read(cbor2.dumps(value, canonical=True)) == value == cbor.read(cbor.written(value))


@given(st.binary(max_size=40))
def test_bytes_that_are_read_are_the_only_way_of_writing_what_they_say(content):
    try:
        value = cbor.read(content)
    except UpdateError:
        return
    assert cbor.written(value) == content


@pytest.mark.parametrize(
    "text",
    [
        "1817",  # 23 in two bytes
        "190018",  # 24 in three
        "5f4101ff",  # a string of no given length
        "f5",  # true
        "fb3ff0000000000000",  # a real number
        "c101",  # a tag
        "a201010101",  # a key twice
        "a202010101",  # keys that fall
        "a12001",  # a key below zero
        "8181818181 00",  # five levels
        "9bffffffffffffffff",  # a list of any length
        "5bffffffffffffffff",  # a string of any length
        "61ff",  # no text
        "0101",  # two items
        "1c",
        "",
    ],
)
def test_every_other_way_of_writing_is_refused(text):
    with pytest.raises(UpdateError):
        cbor.read(bytes.fromhex(text))


def test_ten_thousand_levels_are_refused_without_going_down():
    with pytest.raises(UpdateError):
        cbor.read(b"\x81" * 10_000)


def test_the_example_of_rfc_9052_verifies():
    """Appendix C.2.1: one signature with ES256."""
    numbers = ec.EllipticCurvePublicNumbers(
        0xBAC5B11CAD8F99F9C72B05CF4B9E26D244DC189F745228255A219A86D6A09EFF,
        0x20138BF82DC1B6D562BE0FA54AB7804A3A64B6D72CCFED6B6FB6ED28BBFC117E,
        ec.SECP256R1(),
    )
    signature = bytes.fromhex(
        "8eb33e4ca31d1c465ab05aac34cc6b23d58fef5c083106c4d25a91aef0b0117e"
        "2af9a291aa32e14ab834dc56ed2a223444547e01f11d3b0916e5a4c345cacb36"
    )
    message = to_be_signed(b"\xa1\x01\x26", b"This is the content.")
    assert PublicKey(numbers.public_key()).verifies(signature, message)
    assert not PublicKey(numbers.public_key()).verifies(signature, message[:-1] + b"!")


@pytest.mark.parametrize("key", [ED25519, ES256])
def test_an_envelope_is_the_cose_sign1_that_cbor2_reads(key):
    tag = cbor2.loads(signed(b"a text", key))
    protected, unprotected, payload, signature = tag.value
    assert (tag.tag, unprotected, payload) == (18, {}, b"a text")
    assert cbor2.loads(protected) == {1: key.public.algorithm, 4: key.public.identity}
    assert key.public.verifies(signature, cbor2.dumps(["Signature1", protected, b"", payload]))


@pytest.mark.parametrize("key", [ED25519, ES256])
def test_no_other_key_and_no_other_algorithm_verifies(key):
    envelope = signed(b"a text", key)
    assert verified(Items(envelope), key.public, 6) == b"a text"
    for other in {ED25519, ES256, OTHER} - {key}:
        with pytest.raises(UpdateError, match="signed by another key"):
            verified(Items(envelope), other.public, 6)
    with pytest.raises(UpdateError, match="has 6 bytes, and may have 5"):
        verified(Items(envelope), key.public, 5)


def test_a_critical_header_of_cose_is_refused_though_it_is_signed():
    protected = cbor2.dumps({1: -8, 2: [99], 4: ED25519.public.identity, 99: 1}, canonical=True)
    signature = ED25519.signature(to_be_signed(protected, b"a text"))
    envelope = cbor2.dumps(cbor2.CBORTag(18, [protected, {}, b"a text", signature]))
    with pytest.raises(UpdateError, match="in a way that is unknown here"):
        verified(Items(envelope), ED25519.public, 6)


@pytest.mark.parametrize("key", [ED25519, ES256])
def test_keys_come_from_pem_files_private_or_public(key):
    assert PrivateKey.of(private_pem(key), "k").public.identity == key.public.identity
    assert PublicKey.of(private_pem(key), "k").protected == PublicKey.of(public_pem(key), "k").protected


def test_what_is_no_key_of_ours_is_refused():
    foreign = rsa.generate_private_key(65537, 1024)
    curve = PrivateKey(ec.generate_private_key(ec.SECP384R1()))
    public = foreign.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for read, pem, said in (
        (PrivateKey.of, b"no key", "no private key"),
        (PrivateKey.of, private_pem(curve), "neither of Ed25519 nor of P-256"),
        (PrivateKey.of, private_pem(PrivateKey(foreign)), "neither of Ed25519 nor of P-256"),
        (PrivateKey.of, private_pem(ED25519, b"secret"), "is encrypted"),
        (PublicKey.of, b"no key", "no public key"),
        (PublicKey.of, public, "neither of Ed25519 nor of P-256"),
        (PublicKey.of, public_pem(curve), "neither of Ed25519 nor of P-256"),
    ):
        with pytest.raises(UpdateError, match=said):
            read(pem, "k.pem")
