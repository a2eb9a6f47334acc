"""The words of a rule."""

from __future__ import annotations

import re
from dataclasses import dataclass

from portctl.backends.nftables.listed import Unreadable

_TOKEN = re.compile(r'"[^"]*"|[{}(),]|[^\s{}(),"]+')


def tokens(text: str) -> list[str]:
    return _TOKEN.findall(text)


@dataclass(slots=True)
class Cursor:
    """A place in a list of words."""

    words: list[str]
    position: int = 0

    def peek(self, ahead: int = 0) -> str:
        """A word ahead; empty at the end."""
        at = self.position + ahead
        return self.words[at] if at < len(self.words) else ""

    def take(self) -> str:
        word = self.peek()
        if not word:
            raise Unreadable("the rule ends early")
        self.position += 1
        return word

    def skip(self, word: str) -> bool:
        """Takes the word if it stands here."""
        if self.peek() != word:
            return False
        self.position += 1
        return True

    def expect(self, word: str) -> None:
        if not self.skip(word):
            raise Unreadable(self.peek())

    def rest(self) -> list[str]:
        return self.words[self.position :]
