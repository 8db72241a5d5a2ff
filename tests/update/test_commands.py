"""`haversack bundle` and `haversack verify`: what they print, and what they refuse with code 2."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from made_updates import ED25519, ES256, OTHER, private_pem, public_pem
from weights import new, old

from haversack.cli import main, updating
from haversack.coded import container
from haversack.disk import seal
from haversack.update.rules.bundle import opened
from tests.results import written_result

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return call


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two versions of a result, keys, and the process in it."""
    for name, tensors in (("v1", old()), ("v2", new())):
        folder = written_result(tmp_path / name)
        (folder / "files.json").unlink()
        (folder / "model.hsk").write_bytes(container.write(tensors))
        seal(folder)
    (tmp_path / "key.pem").write_bytes(private_pem(ED25519))
    (tmp_path / "public.pem").write_bytes(public_pem(ED25519))
    (tmp_path / "other.pem").write_bytes(public_pem(OTHER))
    (tmp_path / "p256.pem").write_bytes(private_pem(ES256))
    monkeypatch.chdir(tmp_path)
    return tmp_path


RELEASE = ("--model-id", "digits", "--sequence", 2)


def test_a_version_is_published_and_verified(run: Run, place: Path) -> None:
    words = ("--base", "v1", "--device", "raspberry-pi-4", "--ends", "2030-01-31")
    code, out, err = run("bundle", "v2", "--key", "key.pem", *RELEASE, *words, "--out", "v2.hsu")
    assert code == 0, err
    assert "what changed since another version" in out
    code, out, _ = run("verify", "v2.hsu", "--key", "public.pem", "--base", "v1")
    assert code == 0
    assert "2030-01-31T00:00:00+00:00" in out
    assert "the weights that come out are right" in out
    code, out, _ = run("verify", "v2.hsu", "--key", "public.pem", "--json")
    told = json.loads(out)
    assert (told["codec"], told["decoded"], told["sequence"], told["runtime"]) == ("delta", False, 2, "onnx")
    assert told["bytes"] == (place / "v2.hsu").stat().st_size
    assert opened((place / "v2.hsu").read_bytes(), ED25519.public).header.device == "raspberry-pi-4"


def test_without_a_base_the_whole_model_is_sent(run: Run, place: Path) -> None:
    code, _, err = run("bundle", "v2", "--key", "p256.pem", *RELEASE, "--out", "v2.hsu", "--runtime", "litert")
    assert code == 0, err
    code, out, _ = run("verify", "v2.hsu", "--key", "p256.pem", "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["codec"], told["decoded"], told["runtime"]) == ("whole", True, "litert")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("v2.hsu", "--key", "other.pem"), "v2.hsu: it is signed by another key"),
        (("v2.hsu", "--key", "public.pem", "--base", "v2"), "v2.hsu: it changes another model"),
        (("cut.hsu", "--key", "public.pem"), "cut.hsu: it is cut off"),
        (("altered.hsu", "--key", "public.pem"), "altered.hsu: its payload is not what was signed"),
        (("v1/model.onnx", "--key", "public.pem"), "no bundle"),
        (("v2.hsu", "--key", "v1/report.txt"), "v1/report.txt: it holds no public key"),
        (("none.hsu", "--key", "public.pem"), "none.hsu: it cannot be read"),
    ],
)
def test_what_is_not_right_is_refused_in_one_message(run: Run, place: Path, words: tuple[str, ...], said: str) -> None:
    assert run("bundle", "v2", "--key", "key.pem", *RELEASE, "--base", "v1", "--out", "v2.hsu")[0] == 0
    content = (place / "v2.hsu").read_bytes()
    (place / "cut.hsu").write_bytes(content[:-1])
    (place / "altered.hsu").write_bytes(content[:-1] + b"!")
    code, out, err = run("verify", *words)
    assert (code, out) == (2, "")
    assert said in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("v2", "--key", "public.pem", *RELEASE), "public.pem: it holds no private key"),
        (("v3", "--key", "key.pem", *RELEASE), "v3: it holds no result"),
        (("v2", "--key", "key.pem", "--model-id", "", "--sequence", 1), "the model has no name"),
        (("v2", "--key", "key.pem", "--model-id", "x" * 129, "--sequence", 1), "too long a name"),
    ],
)
def test_what_cannot_be_published_is_refused(run: Run, place: Path, words: tuple[object, ...], said: str) -> None:
    code, _, err = run("bundle", *words, "--out", "v.hsu")
    assert code == 2
    assert said in err
    assert not (place / "v.hsu").exists()


def test_a_whole_bundle_has_no_base(run: Run, place: Path) -> None:
    assert run("bundle", "v2", "--key", "key.pem", *RELEASE, "--out", "v2.hsu")[0] == 0
    code, _, err = run("verify", "v2.hsu", "--key", "public.pem", "--base", "v1")
    assert code == 2
    assert "holds a whole model" in err


def test_without_its_packages_it_says_what_to_install(run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(updating, "find_spec", lambda name: None)
    code, _, err = run("verify", "v2.hsu", "--key", "public.pem")
    assert code == 2
    assert "pip install 'haversack[update]'" in err
