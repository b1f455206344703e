"""Which classes a caption names: word forms on PTB tokens, the longest match first."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from vivo.metrics.tokenizer import ptb_tokenize


class NamedClass(Protocol):
    """What is needed of a class: `vivo.data.nocaps.WorldClass` has it.

    name: singular. forms: all words by which a caption may name it ("mouse", "mice"); the name counts in any case.
    role: "base" (in training captions) or "novel". detector: whether the detector knows the class.
    """

    @property
    def name(self) -> str: ...
    @property
    def forms(self) -> Sequence[str]: ...
    @property
    def role(self) -> str: ...
    @property
    def detector(self) -> bool: ...


class ClassFinder:
    """Finds named classes in tokens. "a teddy bear" names the teddy bear and no bear.

    A form that two classes share (bat) names both.
    """

    def __init__(self, classes: Sequence[NamedClass]) -> None:
        self.size = len(classes)
        self._classes: dict[tuple[str, ...], list[int]] = {}
        for number, named in enumerate(classes):
            for form in {named.name, *named.forms}:
                tokens = tuple(ptb_tokenize(form))
                if tokens and number not in self._classes.setdefault(tokens, []):
                    self._classes[tokens].append(number)
        longest: dict[str, int] = {}
        for tokens in self._classes:
            longest[tokens[0]] = max(longest.get(tokens[0], 0), len(tokens))
        self._longest = longest  # by first token: nearly every token of a caption begins no form

    def find(self, tokens: Sequence[str]) -> set[int]:
        """Numbers of the classes named, from left to right, each token used once."""
        return {number for numbers in self.find_mentions(tokens) for number in numbers}

    def find_mentions(self, tokens: Sequence[str]) -> list[tuple[int, ...]]:
        """Every mention of a class, as often as it stands there: the numbers of the classes that its form names."""
        found: list[tuple[int, ...]] = []
        position = 0
        while position < len(tokens):
            step = 1
            for length in range(min(self._longest.get(tokens[position], 0), len(tokens) - position), 0, -1):
                numbers = self._classes.get(tuple(tokens[position : position + length]))
                if numbers:
                    found.append(tuple(numbers))
                    step = length
                    break
            position += step
        return found

    def mentions(self, pictures: Sequence[Sequence[Sequence[str]]]) -> np.ndarray:
        """bool [pictures, classes]: whether any caption of the picture ([picture][caption][token]) names the class."""
        named = np.zeros((len(pictures), self.size), dtype=bool)
        for row, captions in enumerate(pictures):
            for tokens in captions:
                found = self.find(tokens)
                if found:
                    named[row, list(found)] = True
        return named
