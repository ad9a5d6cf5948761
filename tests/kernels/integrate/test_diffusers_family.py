"""A family of models of one's own, as docs/add-a-family.md describes it, and the table of all families."""

import re
import runpy
import sys
import types
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from phys4d.kernels.integrate.diffusers import accelerate, register

PAGE = Path(__file__).parents[3] / "docs" / "add-a-family.md"
FIRST, SECOND = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
HEADS, WIDTH = 2, 16


class MyOwnProcessor:
    """What the model would compute without this package."""

    def __call__(self, attn, hidden_states, attention_mask=None):
        q, k, v = (project(hidden_states) for project in (attn.to_q, attn.to_k, attn.to_v))
        q, k, v = (x.unflatten(2, (HEADS, -1)).transpose(1, 2) for x in (attn.norm_q(q), attn.norm_k(k), v))
        out = F.scaled_dot_product_attention(q, k, v, attention_mask)
        return attn.to_out(out.transpose(1, 2).flatten(2, 3))


class MyAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = HEADS
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.norm_q, self.norm_k = (nn.RMSNorm(WIDTH, eps=1e-5) for _ in range(2))
        self.processor = MyOwnProcessor()

    def set_processor(self, processor):
        self.processor = processor

    def forward(self, hidden_states, attention_mask=None):
        return self.processor(self, hidden_states, attention_mask)


class MyTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleDict({"attn": MyAttention()}) for _ in range(2))

    def forward(self, hidden_states, attention_mask=None, return_dict=True):
        for block in self.blocks:
            hidden_states = hidden_states + block["attn"](hidden_states, attention_mask)
        return (hidden_states,)


@pytest.fixture
def page(monkeypatch):
    """The names of the page's first example, which registers the family, as a module of its own."""
    monkeypatch.setattr(register, "_families", dict(register._families))
    module = types.ModuleType("a_family_of_ones_own")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    vars(module).update(MyTransformer=MyTransformer, MyOwnProcessor=MyOwnProcessor)
    exec(FIRST, vars(module))
    return vars(module)


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = MyTransformer()
    with torch.no_grad():
        for path, weight in made.named_parameters():
            if "norm" in path:
                weight += 0.5 * torch.rand_like(weight)
            elif "to_q" in path or "to_k" in path:
                weight *= 4
    return made


def test_the_page_adds_a_family_that_passes_the_kit(page, model):
    video = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(1))
    assert accelerate(model).swapped == {f"blocks.{k}.attn": "norm and attention" for k in range(2)}
    assert SECOND.splitlines()[0].endswith("import check_family") and "check_family(MyTransformer(" in SECOND
    names: dict = {}
    exec(SECOND.splitlines()[0], names)
    found = names["check_family"](MyTransformer(), {"hidden_states": video})
    checked = {name.partition(",")[0] for name, why in found.items() if not why}
    assert {"plain", "hooks on norms", "parametrised norms", "LoRA", "sequential offload", "copy", "pickle"} <= checked
    assert found["first block cache, after"] == "MyTransformer has no enable_cache"


def test_its_masked_calls_are_passed_on(page, model):
    video = torch.randn(2, 5, WIDTH)
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    truth = model(video, mask)[0]
    with accelerate(model) as accelerated:
        assert torch.equal(model(video, mask)[0], truth)
        assert accelerated.passed == {f"blocks.{k}.attn": "an attention mask" for k in range(2)}


def test_a_wrong_processor_is_named_with_its_tensors(page, model):
    own = page["MyProcessor"].qk_norm
    page["MyProcessor"].qk_norm = lambda self, kind, attn, x: own(self, kind, attn, 0 * x) and None
    page["called"] = lambda norm, x: x
    from phys4d.kernels.integrate.diffusers.kit import check_family

    with pytest.raises(AssertionError, match=r"plain, accelerated before: .*output of call 0: error .* of "):
        check_family(model, {"hidden_states": torch.randn(2, 5, WIDTH)}, situations=["plain"])


def test_the_table_of_all_families(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["diffusers"])
    runpy.run_module("phys4d.kernels.integrate.diffusers", run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| model | attention swapped |")
    names = [name for family in register.registered_families() for name in family.examples]
    assert all(f"({name})" in line for name, line in zip(names, lines[2:], strict=True))
    assert "| WanTransformer3DModel (wan) | 4 | 0 | 2 | 0 |  |" in lines


def test_the_page_lists_all_families(monkeypatch, capsys):
    """Between its marks stands what `python -m phys4d.kernels.integrate.diffusers --parts` prints."""
    page = PAGE.with_name("use-the-attention.md").read_text()
    table = page.partition("<!-- families -->\n")[2].partition("<!-- /families -->")[0]
    monkeypatch.setattr(sys, "argv", ["diffusers", "--parts"])
    runpy.run_module("phys4d.kernels.integrate.diffusers", run_name="__main__")
    assert table == capsys.readouterr().out
    assert len(table.splitlines()) == 2 + len(register.registered_families())
    assert "docs/use-the-attention.md" in accelerate.__doc__
