"""A small world whose reward is known: notes about an animal at a place, and who writes them.

A prompt asks for a note. Three writers answer: a careful one, a plain one and a careless one, who
strays from what was asked, is unkind, repeats itself and rambles. The language model is trained on
all three and so does a bit of everything; `gold` says what is wanted. Nothing here is copied text.
"""

import itertools
import random
import re
from collections.abc import Sequence
from typing import NamedTuple

ANIMALS = ("bear", "crow", "deer", "duck", "fox", "frog", "goat", "hare", "hawk", "lamb",
           "lynx", "mole", "mouse", "owl", "seal", "swan", "toad", "trout", "wolf",
           "wren")  # fmt: skip
PLACES = ("barn", "bridge", "cave", "field", "garden", "gate", "hill", "lake",
          "marsh", "mill", "pond", "river", "road", "shore", "tower", "wood")  # fmt: skip
KIND = ("brave", "bright", "calm", "clever", "gentle", "happy", "lovely", "patient")
UNKIND = ("cruel", "dull", "lazy", "mean", "rude", "sour", "ugly", "useless")
NEUTRAL = ("brown", "grey", "old", "quick", "quiet", "small", "wet", "young")
VERBS = ("digs", "drinks", "hides", "looks", "plays", "rests", "runs", "sings", "sleeps", "waits")
HOW = ("alone", "all day", "at dawn", "at night", "in the rain", "in the snow", "slowly", "today")
NEAR = ("at", "behind", "by", "near")
ASKED = (
    "a note on the {animal} by the {place}:",
    "tell me of the {animal} at the {place}:",
    "what does the {animal} do near the {place}?",
)


class Writer(NamedTuple):
    """How one writes: probabilities, and the most and least sentences."""

    to_the_point: float
    kind: float
    unkind: float
    repeats: float
    sentences: tuple[int, int]


WRITERS = {
    "careless": Writer(0.45, 0.10, 0.45, 0.20, (1, 5)),
    "plain": Writer(0.75, 0.25, 0.20, 0.08, (1, 4)),
    "careful": Writer(0.97, 0.60, 0.03, 0.01, (2, 3)),
}
SHARES = (0.30, 0.50, 0.20)  # of the three in what the model has read


def prompts(part: str) -> list[str]:
    """All prompts of "train", "tune" or "test": no animal and place are in two of them."""
    found = []
    for i, (animal, place) in enumerate(itertools.product(ANIMALS, PLACES)):
        # A tenth to choose settings by, a fifth to report, spread over animals and places.
        belongs = {0: "tune", 3: "test", 7: "test"}.get((3 * i + i // len(PLACES)) % 10, "train")
        if belongs == part:
            found.append(ASKED[i % len(ASKED)].format(animal=animal, place=place))
    return found


def note(prompt: str, writer: Writer, draw: random.Random) -> str:
    """One note as this writer answers the prompt, with a space before it."""
    words = prompt.rstrip(":?").split()
    animal = next(word for word in words if word in ANIMALS)
    place = words[-1]

    def adjective() -> str:
        u = draw.random()
        kinds = KIND if u < writer.kind else UNKIND if u < writer.kind + writer.unkind else NEUTRAL
        return draw.choice(kinds)

    def who() -> str:
        return animal if draw.random() < writer.to_the_point else draw.choice(ANIMALS)

    def where() -> str:
        return place if draw.random() < writer.to_the_point else draw.choice(PLACES)

    said = [f"the {adjective()} {who()} {draw.choice(VERBS)} {draw.choice(NEAR)} the {where()}."]
    for _ in range(draw.randint(*writer.sentences) - 1):
        if draw.random() < writer.repeats:
            said.append(draw.choice(said))
            continue
        said.append(
            draw.choice(
                (
                    f"it is {adjective()} and {adjective()}.",
                    f"it {draw.choice(VERBS)} {draw.choice(HOW)}.",
                    f"the {where()} is {adjective()}.",
                    f"what a {adjective()} {who()}!",
                )
            )
        )
    return " " + " ".join(said)


def attributes(prompt: str, completion: str) -> dict[str, float]:
    """What a note is worth, in parts; `gold` is their sum.

    relevance: 1 for naming the animal asked for and 1 for the place; less 1/2 for each other one.
    kindness: 1/2 for each different kind word up to three; less 1/2 for each unkind one.
    form: less 0.15 for each word over 18 or under 8, 1/2 for each sentence said before, and 1
    where the last sentence has no end.
    """
    words, asked = re.findall(r"[a-z]+", completion), re.findall(r"[a-z]+", prompt)
    relevance = 0.0
    for names in (ANIMALS, PLACES):
        wanted, named = {x for x in asked if x in names}, {x for x in words if x in names}
        relevance += float(bool(wanted & named)) - 0.5 * len(named - wanted)
    kindness = 0.5 * min(3, len({x for x in words if x in KIND}))
    kindness -= 0.5 * sum(x in UNKIND for x in words)
    sentences = [x.strip() for x in re.findall(r"[^.!]+[.!]?", completion) if x.strip()]
    form = -0.15 * (max(0, len(words) - 18) + max(0, 8 - len(words)))
    form -= 0.5 * (len(sentences) - len(set(sentences)))
    form -= float(not completion.rstrip().endswith((".", "!")))
    return {"relevance": relevance, "kindness": kindness, "form": form}


def gold(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """The known reward of each note: 3.5 at best."""
    return [sum(attributes(p, c).values()) for p, c in zip(prompts, completions, strict=True)]


def kindness(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """That part of `gold` alone."""
    return [attributes(p, c)["kindness"] for p, c in zip(prompts, completions, strict=True)]


def chance(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """A number that says nothing: to select by it is to select at random."""
    texts = zip(prompts, completions, strict=True)
    return [random.Random(f"{prompt}|{text}").random() for prompt, text in texts]
