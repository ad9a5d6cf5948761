"""Prints what is swapped in the tiny random models of all registered families; needs diffusers.

python -m phys4d.kernels.integrate.diffusers
"""

import torch

from phys4d.kernels.integrate.diffusers import accelerate, registered_families
from phys4d.kernels.integrate.diffusers.report import has_processor

HEADER = "| model | attention swapped | left | blocks swapped | left | why |\n|---|---:|---:|---:|---:|---|"


def rows() -> list[str]:
    """One line of a Markdown table for each example of each family."""
    found = []
    for family in registered_families():
        for name, example in family.examples.items():
            torch.manual_seed(0)
            model, _ = example()
            attentions = {path for path, module in model.named_modules() if has_processor(module)}
            report = accelerate(model).report()
            swapped, left = report.swapped.keys(), report.left.keys()
            counts = [len(swapped & attentions), len(left & attentions), len(swapped - attentions)]
            counts.append(len(left - attentions))
            why = "; ".join(dict.fromkeys([*report.left.values(), *report.notes.values()]))
            cells = [f"{family.name} ({name})", *(str(count) for count in counts), why]
            found.append(f"| {' | '.join(cells)} |")
    return found


if __name__ == "__main__":
    print(HEADER, *rows(), sep="\n")
