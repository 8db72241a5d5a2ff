"""Signing: a short text and who vouches for it, as COSE_Sign1 (RFC 9052) with Ed25519 or ES256 (RFC 9053)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey as EcPublic
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from haversack.errors import UpdateError
from haversack.update.rules.cbor import Items, written

ED25519, ES256 = -8, -7
"""The algorithms' numbers in COSE."""
_ALGORITHM, _KEY = 1, 4
_START = b"\xd2\x84"
"""A COSE_Sign1 with its tag: a list of four."""
_NOTHING = b"\xa0"
_MOST_PROTECTED, _SIGNATURE, _COORDINATE = 64, 64, 32
_MAKE = "make one with: openssl genpkey -algorithm ed25519 -out key.pem"


@dataclass(frozen=True)
class PublicKey:
    """Whom a device believes."""

    key: Ed25519PublicKey | EcPublic

    @classmethod
    def of(cls, pem: bytes, where: str) -> PublicKey:
        """The key in a PEM file, which may be the private one; raises UpdateError where it is none of ours."""
        if b"PRIVATE KEY" in pem:
            return PrivateKey.of(pem, where).public
        try:
            key = load_pem_public_key(pem)
        except (ValueError, UnsupportedAlgorithm):
            raise UpdateError(
                "it holds no public key.", where=where, mend="write it with: openssl pkey -in key.pem -pubout"
            ) from None
        if isinstance(key, Ed25519PublicKey) or (isinstance(key, EcPublic) and isinstance(key.curve, SECP256R1)):
            return cls(key)
        raise UpdateError("its key is neither of Ed25519 nor of P-256.", where=where, mend=_MAKE)

    @property
    def algorithm(self) -> int:
        """The COSE number of what it verifies."""
        return ED25519 if isinstance(self.key, Ed25519PublicKey) else ES256

    @property
    def identity(self) -> bytes:
        """The first 8 bytes of its digest, by which a device finds it among others."""
        content = self.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return hashlib.sha256(content).digest()[:8]

    @property
    def protected(self) -> bytes:
        """What all that it signs begins with: the algorithm and the key's identity."""
        return written({_ALGORITHM: self.algorithm, _KEY: self.identity})

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether the key's owner signed this message so."""
        if len(signature) != _SIGNATURE:
            return False
        try:
            if isinstance(self.key, Ed25519PublicKey):
                self.key.verify(signature, message)
            else:
                halves = (signature[:_COORDINATE], signature[_COORDINATE:])
                numbers = (int.from_bytes(half, "big") for half in halves)
                self.key.verify(encode_dss_signature(*numbers), message, ECDSA(SHA256()))
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class PrivateKey:
    """Who publishes."""

    key: Ed25519PrivateKey | EllipticCurvePrivateKey

    @classmethod
    def of(cls, pem: bytes, where: str) -> PrivateKey:
        """The key in a PEM file; raises UpdateError where it is none of ours."""
        try:
            key = load_pem_private_key(pem, None)
        except TypeError:
            raise UpdateError(
                "its key is encrypted.", where=where, mend="write it out with: openssl pkey -in FILE -out key.pem"
            ) from None
        except (ValueError, UnsupportedAlgorithm):
            raise UpdateError("it holds no private key.", where=where, mend=_MAKE) from None
        if isinstance(key, Ed25519PrivateKey):
            return cls(key)
        if isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1):
            return cls(key)
        raise UpdateError("its key is neither of Ed25519 nor of P-256.", where=where, mend=_MAKE)

    @property
    def public(self) -> PublicKey:
        """What devices need of it."""
        return PublicKey(self.key.public_key())

    def signature(self, message: bytes) -> bytes:
        """The 64 bytes that the message is signed with."""
        if isinstance(self.key, Ed25519PrivateKey):
            return self.key.sign(message)
        numbers = decode_dss_signature(self.key.sign(message, ECDSA(SHA256())))
        return b"".join(number.to_bytes(_COORDINATE, "big") for number in numbers)


def to_be_signed(protected: bytes, payload: bytes) -> bytes:
    """The Sig_structure of RFC 9052, section 4.4, without external data."""
    return written(["Signature1", protected, b"", payload])


def signed(payload: bytes, key: PrivateKey) -> bytes:
    """The payload in an envelope, signed."""
    protected = key.public.protected
    signature = key.signature(to_be_signed(protected, payload))
    return _START + written(protected) + _NOTHING + written(payload) + written(signature)


def verified(items: Items, key: PublicKey, most: int) -> bytes:
    """The payload of the envelope that stands next, once the key has verified it; of at most so many bytes.

    Raises UpdateError for what is no envelope, of another key, or altered.
    """
    items.expect(_START)
    protected = items.bytes_string(_MOST_PROTECTED)
    items.expect(_NOTHING)
    payload = items.bytes_string(most)
    signature = items.bytes_string(_SIGNATURE)
    if protected != key.protected:
        raise UpdateError(
            "it is signed by another key, or in a way that is unknown here.", mend="fetch it from whom you trust."
        )
    if not key.verifies(signature, to_be_signed(protected, payload)):
        raise UpdateError("its signature is wrong: it was altered, or never signed.", mend="fetch it again.")
    return payload
