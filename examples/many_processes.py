"""From Python: a step that trains in several processes.

    torchrun --nproc-per-node 2 examples/many_processes.py

Each process says how good the network is that it ends with: it is the same one in all.
"""

import digits
from accelerate import PartialState

from haversack.graph.run import digest, named_tensors
from haversack.model import Model
from haversack.techniques.prune_channels import PruneChannels

network, task = digits.network(), digits.task()
model = Model(network, tuple(value[:1] for value in task.calibration()[0]), teacher=network)
pruned = PruneChannels(keep=0.5, epochs=2).apply(model, task)

processes = PartialState()
print(
    f"process {processes.process_index} of {processes.num_processes}: "
    f"score {task.validated(network):.4f} before and {task.validated(pruned.module):.4f} after, "
    f"weights {digest(named_tensors(pruned.module))[:8]}"
)
processes.wait_for_everyone()
processes.destroy_process_group()
