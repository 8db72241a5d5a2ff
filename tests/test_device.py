"""The device catalogue, device files of the user's own, and budgets."""

import tomllib
from dataclasses import fields, replace
from pathlib import Path

import pytest

import haversack.device
from haversack.device import Device, device_names, find_device
from haversack.errors import DeviceError

SHIPPED = tuple(name for name in device_names() if name != "host")
FOLDER = Path(haversack.device.__file__).parent / "devices"
FACTS = {each.name for each in fields(Device)} - {"name", "title", "runtime", "why", "sources"}
GOOD = """
name = "board"
title = "A board"
runtime = "c_source"
"""
RAM = '[ram_bytes]\nvalue = 1024\nsource = "its data sheet"\n'


def write(folder: Path, text: str) -> str:
    path = folder / "board.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_at_least_twelve_devices_and_the_host_are_shipped():
    assert len(SHIPPED) >= 12
    assert device_names()[0] == "host"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_device_is_complete_enough_to_plan_for(name):
    device = find_device(name)
    assert device.name == name
    assert device.runtime in {"onnx", "tflite-micro"}
    assert device.ram_bytes is not None
    assert device.cores is not None
    assert device.clock_hz is not None
    assert device.isa
    assert "int8" in device.number_formats
    assert set(device.number_formats) <= {"int8", "float16", "float32"}
    assert device.signed_activations
    assert not device.is_host


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_fact_names_a_page_or_a_document(name):
    device = find_device(name)
    stated = {each.name for each in fields(Device) if getattr(device, each.name) != each.default} & FACTS
    assert stated - {"channel_multiple"} <= device.sources.keys()
    for key, source in device.sources.items():
        assert len(source) >= 10, key
        page = "https://" in source
        document = any(character.isdigit() for character in source) and any(
            word[0].isupper() for word in source.split()
        )
        assert page or document, f"{key}: {source}"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_device_states_the_rate_of_each_of_its_formats(name):
    device = find_device(name)
    assert device.macs_per_cycle_int8 is not None
    if name != "esp32-s3":  # no source was found for its float32 rate
        assert ("float32" in device.number_formats) == (device.macs_per_cycle_float32 is not None)


@pytest.mark.parametrize("name", SHIPPED)
def test_why_is_two_to_four_plain_sentences_in_one_paragraph(name):
    why = find_device(name).why
    assert "\n" not in why
    assert "  " not in why
    assert 2 <= why.count(". ") + why.endswith(".") <= 4


@pytest.mark.parametrize("name", SHIPPED)
def test_the_stated_facts_of_a_device_agree_with_each_other(name):
    device = find_device(name)
    microcontroller = device.runtime == "tflite-micro"
    assert (device.ram_bytes < 2**20) == microcontroller
    assert 1e7 < device.clock_hz < 4e9
    assert device.macs_per_cycle_int8 > (device.macs_per_cycle_float32 or 0)
    assert device.macs_per_cycle_int8 <= 64
    assert (device.link == "") == (device.link_bits_per_second is None)


@pytest.mark.parametrize(
    ("name", "flash", "ram", "megahertz"),
    [
        ("stm32f103", 64 << 10, 20 << 10, 72),
        ("stm32f405", 1 << 20, 128 << 10, 168),
        ("stm32f746", 1 << 20, 320 << 10, 216),
        ("stm32h743", 2 << 20, 512 << 10, 480),
        ("stm32l4r5", 2 << 20, 640 << 10, 120),
        ("nrf52840", 1 << 20, 256 << 10, 64),
        ("microbit", 512 << 10, 128 << 10, 64),
        ("microbit-v1", 256 << 10, 16 << 10, 16),
        ("rp2040", 2 << 20, 264 << 10, 133),
        ("raspberry-pi-zero-2w", None, 512 << 20, 1000),
    ],
)
def test_memory_and_clock_are_those_of_the_data_sheet(name, flash, ram, megahertz):
    device = find_device(name)
    assert (device.flash_bytes, device.ram_bytes, device.clock_hz) == (flash, ram, megahertz * 1e6)


def test_no_two_shipped_devices_share_a_title():
    titles = [find_device(name).title for name in device_names()]
    assert len(set(titles)) == len(titles)


def test_every_file_in_the_catalogue_is_named_after_its_device():
    for path in FOLDER.iterdir():
        assert tomllib.loads(path.read_text(encoding="utf-8"))["name"] == path.stem


def test_the_host_is_read_off_this_machine():
    host = find_device("host")
    assert host.is_host
    assert host.runtime == "onnx"
    assert host.ram_bytes > 2**20
    assert host.cores >= 1
    assert host.channel_multiple in {4, 8, 16}


def test_only_x86_wants_unsigned_activations():
    assert not Device("a", "a", "onnx", isa="x86-64").signed_activations
    assert Device("a", "a", "onnx", isa="armv8-a").signed_activations
    assert Device("a", "a", "onnx").signed_activations


@pytest.mark.parametrize(
    ("isa", "simd", "runtime", "bits"),
    [
        ("x86-64", "avx2", "onnx", 7),
        ("x86-64", "avx2 avx512f", "onnx", 7),
        ("x86-64", "avx2 avx512f avx512_vnni", "onnx", 8),
        ("x86-64", "avx2 avx_vnni", "onnx", 8),
        ("x86-64", "", "onnx", 8),
        ("x86-64", "avx2", "litert", 8),
        ("armv8-a", "asimd", "onnx", 8),
    ],
)
def test_weights_have_seven_bits_where_onnx_runtime_adds_two_products_in_sixteen(isa, simd, runtime, bits):
    device = replace(find_device("host"), isa=isa, simd=simd, runtime=runtime)
    assert device.weight_bits == bits


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(DeviceError, match="unknown device 'toaster'") as refused:
        find_device("toaster")
    for name in device_names():
        assert name in str(refused.value)


def test_a_file_of_the_users_own_works_by_path(tmp_path):
    text = GOOD + 'why = "It is small."\n' + RAM + '[number_formats]\nvalue = ["int8"]\nsource = "its data sheet"\n'
    device = find_device(write(tmp_path, text))
    assert device == Device(
        name="board",
        title="A board",
        runtime="c_source",
        why="It is small.",
        ram_bytes=1024,
        number_formats=("int8",),
        sources={"ram_bytes": "its data sheet", "number_formats": "its data sheet"},
    )


def test_what_no_source_states_stays_unknown(tmp_path):
    device = find_device(write(tmp_path, GOOD))
    assert device.flash_bytes is None
    assert device.macs_per_cycle_int8 is None
    assert device.number_formats == ()
    assert device.channel_multiple == 1


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name = ", "not a TOML document"),
        ("", "needs the keys name, title and runtime"),
        ('name = "board"\ntitle = "A board"\n', "needs the keys name, title and runtime"),
        ('name = 5\ntitle = "A board"\nruntime = "onnx"\n', "'name' is 5"),
        ('name = "board"\ntitle = " "\nruntime = "onnx"\n', "'title' is ' '"),
        (GOOD + '[colour]\nvalue = "red"\nsource = "its data sheet"\n', "unknown key 'colour'"),
        (GOOD + '[sources]\nvalue = "x"\nsource = "its data sheet"\n', "unknown key 'sources'"),
        (GOOD + "ram_bytes = 1024\n", "'ram_bytes' states no source"),
        (GOOD + "[ram_bytes]\nvalue = 1024\n", "'ram_bytes' states no source"),
        (GOOD + '[ram_bytes]\nvalue = 1024\nsource = " "\n', "'ram_bytes' states no source"),
        (GOOD + "[ram_bytes]\nvalue = 1024\nsource = 5\n", "'ram_bytes' states no source"),
        (GOOD + '[ram_bytes]\nsource = "its data sheet"\n', "must hold value and source, and nothing else"),
        (GOOD + RAM + 'unit = "KiB"\n', "must hold value and source, and nothing else"),
    ],
)
def test_a_file_of_the_wrong_shape_is_refused_by_name(tmp_path, text, complaint):
    path = write(tmp_path, text)
    with pytest.raises(DeviceError) as refused:
        find_device(path)
    assert complaint in str(refused.value)
    assert path in str(refused.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("ram_bytes", value) for value in ("-1", "0", "1024.5", '"1kB"', "true", "[1]")),
        *(("clock_hz", value) for value in ("-1e6", "0.0", "nan", "inf", '"fast"', "true")),
        *(("clock_hz", value) for value in ("1e308", "1e-300")),
        ("flash_bytes", "1_000_000_000_000_000_000"),
        *(("isa", value) for value in ('""', "5", "[]")),
        *(
            ("cycles_per_instruction", value)
            for value in ("1.2", "[1.2]", "[1.8, 1.2]", "[0, 1]", '["1", "2"]', "[1, inf]")
        ),
        *(("number_formats", value) for value in ('"int8"', "[8]", "[]", '[""]')),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_a_way_to_mend_it(tmp_path, key, value):
    path = write(tmp_path, f'{GOOD}[{key}]\nvalue = {value}\nsource = "its data sheet"\n')
    with pytest.raises(DeviceError, match=f"'{key}' is .*\n.*How to mend it: write a"):
        find_device(path)


def test_the_list_of_known_keys_names_every_fact_of_a_device(tmp_path):
    with pytest.raises(DeviceError) as refused:
        find_device(write(tmp_path, GOOD + "colour = 1\n"))
    for fact in FACTS | {"why"}:
        assert fact in str(refused.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(DeviceError, match="cannot be read"):
        find_device(str(tmp_path / "none.toml"))
    with pytest.raises(DeviceError, match="cannot be read"):
        find_device(str(tmp_path) + "/")


def test_a_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "board.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DeviceError, match="it holds no text"):
        find_device(str(path))
