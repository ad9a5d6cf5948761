"""No scene copies a scenario of Physics-IQ; docs/benchmark-policy.md states what is tested here and what is not.

A caption repeats a scenario if it contains the words of the scenario's name, in any order and form, or synonyms of
them. Names of general words only (a ball, a box, rolls, falls) describe physics in general: what they have in common
with a family is listed in GENERAL_OVERLAPS, pair by pair.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from phys4d.simulation.categories import FAMILIES
from phys4d.simulation.scene import Scene

SCENARIOS = tuple(
    line
    for line in (Path(__file__).parent / "physics_iq_scenarios.txt").read_text().splitlines()
    if not line.startswith("#")
)
SAMPLES = 60  # of planted captions, and of the families in the slow tests; FEW of the families otherwise
FEW = 4
LIMIT = 0.75  # share of a scenario's key words that a copy contains: all of two or three, or three of four
MOST_GENERAL, MOST_CLOSE = 14, 3

CaptionSampler = Callable[[np.random.Generator], str]

# Words that are ignored. Words for places (in, on, behind) distinguish scenarios whose other words are general.
STOP_WORDS = {"a", "an", "the", "and", "or", "of", "to", "with", "at", "from", "for", "its", "it", "as", "by", "x", "y"}
PLACE_WORDS = {"in", "on", "off", "behind", "front", "between", "under", "over"}
SYNONYM_GROUPS = (
    ("ball", "sphere"), ("block", "box", "cube", "brick", "slab", "cuboid"), ("hit", "collide", "strike", "knock"),
    ("ramp", "incline", "slope", "plank"), ("rotate", "spin", "turn"), ("fall", "drop"), ("in", "into"),
    ("on", "onto", "upon"), ("cover", "drape"), ("blow", "inflate"), ("silk", "cloth", "fabric"), ("train", "chain"),
    ("drink", "liquid", "juice", "beverage"), ("two", "couple", "pair"), ("two", "double"), ("weight", "kettlebell"),
    ("sand", "grain", "bead", "bean", "gravel"),
)  # fmt: skip
GENERAL_WORDS = {"ball", "block", "domino", "fall", "hit", "ramp", "roll", "rotate", "stack", "two", "pass", "stable"}

# (family, scenario): what they have in common, and why it is not a copy.
GENERAL_OVERLAPS = {
    ("fall", "ball-and-block-fall"): "a ball falls onto a box, or the other way; there both fall onto pillows",
    ("seesaw", "ball-and-block-fall"): "a ball falls onto a seesaw, which throws up a box",
    ("press", "ball-and-block-fall"): "a body falls onto a soft box",
    ("dent", "ball-and-block-fall"): "a ball falls onto a soft box and dents it",
    ("ramp", "ball-ramp"): "one body starts on the plank and rolls or slides down; there a ball rolls up to one",
    ("ramp", "roll-in-box"): "a ball rolls down a plank against a box; there it rolls into an open one",
    ("collision", "balls-collide"): "one body hits another; in some draws both are balls and both move",
    ("pendulum", "balls-collide"): "a body on a rod hits another one",
    ("glowing_pendulum", "balls-collide"): "a hot body on a rod hits another one, and cools",
}
# (family, scenario) that share more than general words: results on these scenarios are reported separately.
CLOSE = {
    ("push_apart", "blow-balloon"): "a balloon is inflated between two bodies; there it is blown up alone",
    ("shower", "ball-in-sand"): "beads fall onto a ball; there a ball falls into sand",
    ("plough", "ball-in-sand"): "a ball rolls into a heap of beans; there it falls into sand",
}


def caption_samplers() -> dict[str, CaptionSampler]:
    """For every family, a function that samples a caption."""
    return {name: partial(sample_caption, sample) for name, sample in FAMILIES.items()}


def sample_caption(sample: Callable[[np.random.Generator], Scene], rng: np.random.Generator) -> str:
    """The caption of a sampled scene without the camera's motion."""
    return sample(rng).sentence()


def stem(word: str) -> str:
    """The stem of a word, the same for all its forms: rolls, rolling, rolled -> roll."""
    for ending in ("ing", "ed"):
        if word.endswith(ending) and len(word) > len(ending) + 2:
            word = word.removesuffix(ending)
            return word[:-1] if word[-1] == word[-2] and word[-1] not in "lsz" else word.removesuffix("e")
    if re.search("(o|s|x|z|ch|sh)es$", word):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    return word.removesuffix("e") if len(word) > 3 else word


SYNONYM = {stem(word): stem(group[0]) for group in reversed(SYNONYM_GROUPS) for word in group}


def words(text: str) -> frozenset[str]:
    """The stems in a text; synonyms are replaced by one of them."""
    found = (stem(word) for word in re.findall("[a-z]+", text.lower()) if word not in STOP_WORDS)
    return frozenset(SYNONYM.get(word, word) for word in found)


def key_words(scenario: str) -> frozenset[str]:
    """The words that identify a scenario: without places, unless all others are general."""
    everything = words(scenario)
    content = everything - words(" ".join(PLACE_WORDS))
    return everything if is_general(scenario) else content


def is_general(scenario: str) -> bool:
    """Whether a scenario's name consists of general words only."""
    return words(scenario) - words(" ".join(PLACE_WORDS)) <= words(" ".join(GENERAL_WORDS))


def share(text: str, scenario: str) -> float:
    """Share of the scenario's key words that the text contains."""
    wanted = key_words(scenario)
    has = wanted & words(text)
    if "balls" in scenario and not re.search(r"\b(ball|sphere)(s\b|\b.*\b(ball|sphere))", text):
        has -= words("ball")  # one ball is not two
    return len(has) / len(wanted)


def repeated_scenarios(name: str, sampler: CaptionSampler, samples: int = SAMPLES) -> set[str]:
    """The scenarios that a family's name or one of its captions repeats."""
    texts = [name.replace("_", " "), *(sampler(np.random.default_rng((7, i))) for i in range(samples))]
    return {scenario for text in set(texts) for scenario in SCENARIOS if share(text, scenario) >= LIMIT}


def test_there_are_66_scenarios_each_recognised_by_its_own_words() -> None:
    assert len(SCENARIOS) == len(set(SCENARIOS)) == 66
    assert all(key_words(scenario) for scenario in SCENARIOS)
    assert sum(is_general(scenario) for scenario in SCENARIOS) == 10


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_repeats_no_scenario_beyond_what_is_written_down(family: str) -> None:
    known = {scenario for name, scenario in (*GENERAL_OVERLAPS, *CLOSE) if name == family}
    assert repeated_scenarios(family, caption_samplers()[family], FEW) <= known


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_written_down_of_a_family_is_found_and_nothing_else(family: str) -> None:
    known = {scenario for name, scenario in (*GENERAL_OVERLAPS, *CLOSE) if name == family}
    assert repeated_scenarios(family, caption_samplers()[family]) == known


@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_is_named_like_a_scenario(family: str) -> None:
    name = family.replace("_", " ")
    assert not [scenario for scenario in SCENARIOS if words(name) >= words(scenario)]


def test_what_is_written_down_is_little_and_in_the_policy() -> None:
    """Overlaps of more than general words are listed in the policy."""
    assert len(GENERAL_OVERLAPS) <= MOST_GENERAL and len(CLOSE) <= MOST_CLOSE
    assert all(is_general(scenario) for _, scenario in GENERAL_OVERLAPS)
    policy = (Path(__file__).parents[2] / "docs" / "benchmark-policy.md").read_text()
    for family, scenario in (*GENERAL_OVERLAPS, *CLOSE):
        assert family in FAMILIES and re.search(rf"^\| {family} .*\b{scenario}\b", policy, re.MULTILINE)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_family_planted_to_copy_a_scenario_is_found(scenario: str) -> None:
    """The scenario's name in other forms and another order, in one of fifty captions, among other words."""
    forms = {"rolls": "rolling", "falls": "falling", "hits": "striking", "ball": "sphere", "box": "cubes", "in": "into"}
    copied = " of the ".join(forms.get(word, word) for word in reversed(scenario.split("-")))

    def planted(rng: np.random.Generator) -> str:
        usual = "a pink clay capsule flying left 1.1 m/s comes to rest"
        return f"a red rubber {copied} at rest" if rng.uniform() < 0.02 else usual

    assert scenario in repeated_scenarios("newcomer", planted)
    assert scenario in repeated_scenarios(scenario.replace("-", "_"), lambda rng: "nothing to see")


@pytest.mark.parametrize(
    ("caption", "scenario"),
    [
        ("a brown rubber ball rolling right 1.2 m/s hits a yellow rubber duck at rest", "ball-hits-duck"),
        ("a blue rubber ball from rest drops into a heap of green sand", "ball-in-sand"),
        ("a red cotton fabric from rest drapes over and covers a white teapot", "silk-cover"),
        ("a black balloon at rest is inflated", "blow-balloon"),
        ("an orange ball from rest falls into a black basket", "ball-in-basket"),
        ("two balls on strings: a double cradle from rest swings", "double-cradle"),
        ("a crumpled paper from rest drops into water", "paper-in-water"),
        ("a steel weight from rest is lowered onto two pillows", "weight-on-pillow"),
        ("a yellow mug from rest falls onto a brick and breaks", "mug-breaks"),
        ("water pours into a glass of juice at rest", "water-in-juice"),
        ("a row of black dominoes with a space in between, the first one leaning, falls over", "dominos-with-space"),
        ("a grey rubber ball rolling right 0.8 m/s rolls off a table", "ball-rolls-off"),
        ("a brown rubber ball rolling right 0.8 m/s goes behind a white box", "roll-behind-box"),
    ],
)
def test_a_copy_in_the_words_of_our_captions_is_found(caption: str, scenario: str) -> None:
    assert scenario in repeated_scenarios("newcomer", lambda rng: caption)


@pytest.mark.parametrize(
    "caption",
    [
        "a blue cotton cloth falls onto a red wood ball at rest",
        "a rope from rest winds around a post",
        "a warm wax block at rest melts on a ramp",
        "a clump of beads from rest falls onto a steel box at rest",
        "a green steel capsule sliding left 1.8 m/s comes to rest",
    ],
)
def test_physics_of_our_own_is_no_copy(caption: str) -> None:
    assert not repeated_scenarios("newcomer", lambda rng: caption)
