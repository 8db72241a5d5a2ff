"""Keys and a bundle that are the same on every machine."""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from haversack.update.rules.bundle import Canary, Header, chunked
from haversack.update.rules.recipient import Recipient
from haversack.update.rules.signing import PrivateKey

ED25519 = PrivateKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
OTHER = PrivateKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))
ES256 = PrivateKey(ec.derive_private_key(0xBEEF, ec.SECP256R1()))
PAYLOAD = bytes(range(200)) * 3


def digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def header(**changed: object) -> Header:
    return Header(
        **{
            "model_id": "digits",
            "sequence": 7,
            "runtime": "onnx",
            "format": "coded-1",
            "device": "raspberry-pi-4",
            "codec": "whole",
            "codec_version": 1,
            "base_sha256": digest(b"old"),
            "result_sha256": digest(b"new"),
            "result_bytes": 1000,
            "canaries": (Canary(b"\x01\x02", digest(b"out")),),
            "ends": 2_000_000_000,
            **chunked(PAYLOAD, 256),
        }
        | changed
    )


def recipient(**changed: object) -> Recipient:
    return Recipient(
        **{
            "model_id": "digits",
            "sequence": 6,
            "device": "raspberry-pi-4",
            "runtime": "onnx",
            "formats": ("coded-1",),
            "base_sha256": digest(b"old"),
            "most_bytes": 1000,
            "now": 1_900_000_000,
        }
        | changed
    )


def private_pem(key: PrivateKey, password: bytes | None = None) -> bytes:
    lock = BestAvailableEncryption(password) if password else NoEncryption()
    return key.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock)


def public_pem(key: PrivateKey) -> bytes:
    return key.public.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
