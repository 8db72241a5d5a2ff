import shutil
import struct
import subprocess
import tracemalloc
import zlib

import numpy as np
import pytest
from c_decoder import SOURCE, compiled, compiler, decoded, dumped
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensors_to_store import NAMES, STORED, codebook, integers, raw

from haversack.coded.container import LIMIT_BYTES, plain, read, write
from haversack.coded.tensors import Codebook, Integers, Raw
from haversack.errors import CodedError

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler is installed")
LIMIT = 1 << 20


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("coded"))


@pytest.fixture(scope="session")
def guarded(tmp_path_factory):
    """The decoder that stops at the first access outside a buffer, and at arithmetic that C does not define."""
    try:
        options = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
        return compiled(tmp_path_factory.mktemp("guarded"), *options)
    except subprocess.CalledProcessError:
        return pytest.skip("the compiler has no sanitizers")


def files(count: int) -> list[bytes]:
    """Valid files, small and of every form."""
    rng = np.random.default_rng(0)
    shapes = [(), (3,), (0, 2), (5, 4), (40, 30), (12, 8, 3, 3), (300,)]
    makes = (integers, codebook, raw)
    return [
        write({f"layer{k}.weight": makes[rng.integers(3)](index + k, shapes[rng.integers(7)]) for k in range(3)})
        for index in range(count)
    ]


def test_a_plain_file_is_read_as_what_it_was_made_of(program):
    many = [read(content) for content in files(20)]
    assert decoded(program, [plain(tensors) for tensors in many]) == [("ok", dumped(tensors)) for tensors in many]


def mutated(rng: np.random.Generator, content: bytes) -> bytes:
    """The file with some bytes changed, cut out or put in, and often a checksum that fits."""
    body = bytearray(content[:-4])
    for _ in range(rng.integers(1, 4)):
        place, kind = rng.integers(4, len(body) + 1), rng.integers(4)
        if kind == 0:
            del body[place : place + rng.integers(1, 20)]
        elif kind == 1:
            body[place:place] = rng.bytes(rng.integers(1, 9))
        elif place < len(body):
            body[place] = body[place] ^ 1 << rng.integers(8) if kind == 2 else rng.integers(256)
    return bytes(body) + (struct.pack("<I", zlib.crc32(body)) if rng.integers(20) else content[-4:])


def read_by_python(content: bytes) -> tuple[str, bytes]:
    try:
        return "ok", dumped(read(content, limit_bytes=LIMIT))
    except CodedError as error:
        return "large" if "may." in str(error) else "refused", b""


@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm is installed")
def test_the_decoder_needs_no_heap_and_of_the_c_library_only_what_moves_and_compares_bytes(tmp_path):
    source = SOURCE / "haversack_coded.c"
    subprocess.run([compiler(), "-std=c99", "-O2", "-c", source, "-o", tmp_path / "it.o"], check=True)
    names = subprocess.run(["nm", "-u", tmp_path / "it.o"], check=True, capture_output=True, text=True).stdout.split()
    foreign = {name.lstrip("_") for name in names} - {"U", "GLOBAL_OFFSET_TABLE_", "stack_chk_fail"}
    assert foreign <= {"memcpy", "memset", "memcmp", "memmove"}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(NAMES, STORED, max_size=4))
def test_c_reads_what_python_writes_to_the_bit(program, tensors):
    assert decoded(program, [write(tensors)]) == [("ok", dumped(tensors))]


def test_c_reads_a_large_file_of_many_lanes(program):
    rng = np.random.default_rng(0)
    weight = np.clip(rng.normal(0, rng.gamma(3, 10, (256, 1)), (256, 1024)), -127, 127)
    tensors = {
        "dense": Integers(weight.astype(int), rng.random(256), axis=0),
        "sparse": Codebook(np.where(rng.random((500, 800)) < 0.02, rng.integers(0, 15, (500, 800)), 7), rng.random(15)),
        "float": Raw(rng.normal(size=5000).astype(np.float16).astype(np.float32)),
    }
    content = write(tensors)
    assert content[4] == 64
    assert decoded(program, [content]) == [("ok", dumped(tensors))]


def test_damaged_files_are_refused_by_both_or_read_alike(guarded):
    """Whatever changes in a file, C stays inside its buffers, and both decoders come to the same end."""
    rng = np.random.default_rng(1)
    valid = files(60)
    tried = [mutated(rng, valid[index % len(valid)]) for index in range(4000)]
    tried += [valid[index][: rng.integers(0, len(valid[index]))] for index in range(len(valid))]
    ends = [read_by_python(each) for each in tried]
    for content, ours, theirs in zip(tried, ends, decoded(guarded, tried), strict=True):
        if ours[0] == "ok" or theirs[0] == "ok":
            assert theirs == ours or _may_differ(content, ours[0]), content.hex()
    assert 0.01 < np.mean([status == "ok" for status, _ in ends]) < 0.9


def _may_differ(content: bytes, ours: str) -> bool:
    """Python alone limits the sum of all sizes, and looks for names that come twice or are no UTF-8."""
    if ours == "large":
        return True
    try:
        read(content, limit_bytes=LIMIT_BYTES)
    except CodedError as error:
        return "twice" in str(error) or "a name" in str(error)
    return False


def test_damaged_files_take_bounded_memory():
    rng, valid = np.random.default_rng(2), files(20)
    tracemalloc.start()
    for index in range(300):
        read_by_python(mutated(rng, valid[index % len(valid)]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 * LIMIT
