"""Prints what is swapped in the tiny random models of all registered families; needs diffusers.

python -m phys4d.kernels.integrate.diffusers            # counts in tiny models, and why modules are left
python -m phys4d.kernels.integrate.diffusers --parts    # what each family's parts are, for docs/use-the-attention.md
"""

import sys

import torch

from phys4d.kernels.integrate.diffusers import accelerate, registered_families
from phys4d.kernels.integrate.diffusers.register import PARTS
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


def parts() -> list[str]:
    """A Markdown table of all families: what goes through this package in attention and between the layers."""
    lines = ["| model | attention | between the layers |", "|---|---|---|"]
    for family in registered_families():
        cells = [family.parts.get(part, "the model's own") for part in PARTS]
        lines.append(f"| {' | '.join([family.name, *cells])} |")
    return lines


if __name__ == "__main__":
    print(*(parts() if "--parts" in sys.argv else [HEADER, *rows()]), sep="\n")
