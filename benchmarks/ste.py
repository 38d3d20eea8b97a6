"""What the straight-through estimator costs: a whole optimiser step with it against one without.

Both sides are real `Trainer` steps on the `tiny` preset. The budget of 5 % is for a compiled step on a GPU;
elsewhere the ratio is only reported.
"""

from __future__ import annotations

import torch

from benchmarks.table import Row, print_table, row
from forge.config import load_config
from forge.contract import Precision
from forge.models.decoder import Decoder
from forge.optim.trainer import Trainer
from forge.quant.linear import to_ternary
from forge.validate.pairs import compare

GPU_BUDGET = 1.05


def run(quick: bool) -> list[Row]:
    """Rows for eager and compiled steps; quick takes one layer and fewer pairs."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pairs, layers = (5, 1) if quick else (20, 4)
    rows = []
    for compiled in (False, True):
        budget = GPU_BUDGET if compiled and device.type == "cuda" else None
        ternary, plain = (_Stepper(device, layers, compiled, ste) for ste in (True, False))
        found = compare(ternary.step, plain.step, pairs)
        mode = "compiled" if compiled else "eager"
        rows.append(
            row(f"step with STE / without, {mode}, {device.type}, {layers} layers", found, budget=budget)
        )
    return rows


class _Stepper:
    def __init__(self, device: torch.device, layers: int, compiled: bool, ste: bool) -> None:
        config = load_config("tiny", [f"model.n_layers={layers}"])
        generator = torch.Generator().manual_seed(0)
        model = Decoder(config.model).initialise(generator).to(device)
        if ste:
            to_ternary(model)
        precision: Precision = "bf16" if device.type == "cuda" else "fp32"
        self.trainer = Trainer(model, config.pretrain, device, precision, compiled)
        size = (config.pretrain.batch_size, config.data.seq_len + 1)
        self.text = torch.randint(config.model.vocab_size, size, generator=generator).to(device)

    def step(self) -> None:
        """One optimiser step, waited for."""
        self.trainer.train_step(100, self.text[:, :-1], self.text[:, 1:])
        if self.text.is_cuda:
            torch.cuda.synchronize()


if __name__ == "__main__":
    print_table("ste", run(quick=False))
