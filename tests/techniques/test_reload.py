"""After every step: saved here; reloaded, trained on and exported in another process, without pickle."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_contract import NAMES, applied

from haversack.surgery.save import save

ROOT = Path(__file__).parent.parent.parent
ELSEWHERE = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import load_file
from test_contract import fresh, task
from haversack.runtimes.onnx import ONNX
from haversack.training import Training, finetune
from haversack.graph.inference import lower
from haversack.surgery.save import load
from haversack.runtimes import host

torch.set_num_threads(1)
found = {}
for folder in sorted(Path(sys.argv[1]).iterdir()):
    known, start = load_file(folder / "known.safetensors"), fresh()
    model = load(start.module, folder, start.example)
    file = host.load(ONNX.write(lower(model)))
    with torch.no_grad():
        plain = model.module(known["x"])
        exported = float((file(known["x"]) - known["exported"]).abs().max())
    found[folder.name] = {"reloaded": float((plain - known["plain"]).abs().max()), "exported": exported}
    if not model.grids:
        again = model.with_module(finetune(model, task(), Training(epochs=1, learning_rate=0.01)))
        zeros = {n: int((t == 0).sum()) for n, t in model.module.named_parameters() if n in model.sparse}
        kept = {n: int((t == 0).sum()) for n, t in again.module.named_parameters() if n in again.sparse}
        trained, file = again.module(known["x"]).detach(), host.load(ONNX.write(lower(again)))
        found[folder.name] |= {
            "moved": float((trained - plain).abs().max()),
            "trained and exported": float((file(known["x"]) - trained).abs().max()),
            "zeros lost": sum(zeros[n] > kept[n] for n in zeros),
        }
print(json.dumps(found))
"""


@pytest.mark.slow
def test_every_result_is_reloaded_trained_on_and_exported_in_another_process(tmp_path):
    from haversack.graph.inference import lower
    from haversack.runtimes import host
    from haversack.runtimes.onnx import ONNX

    x = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    for name in NAMES:
        model = applied(name)
        save(model, tmp_path / name)
        with torch.no_grad():
            plain, exported = model.module(x), host.load(ONNX.write(lower(model)))(x)
        save_file({"x": x, "plain": plain, "exported": exported}, tmp_path / name / "known.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": f"{ROOT}:{Path(__file__).parent}", "OMP_NUM_THREADS": "1", "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.keys() == set(NAMES)
    for name, figures in found.items():
        assert figures["reloaded"] < 1e-6, name
        assert figures["exported"] < 1e-6, name
        if "moved" in figures:
            assert figures["moved"] > 0, name
            assert figures["trained and exported"] < 1e-4, name
            assert figures["zeros lost"] == 0, name
