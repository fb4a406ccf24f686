"""Random text of the characters that go wrong."""

import random
from collections.abc import Iterator

ALPHABET = [
    *"aaabcdeeehhiiilmnooopqrstttuvwxyzABCDEIMSTZ0123456789",
    *"        \t\u00a0\u2003\u3000\u2028",
    *"...,,!?'\"-()[]{}<>#$%&*+/:;=@\\^_`|~",
    *"àéîõüßñçøÅÉŐıİſŒœÆﬁǅΣσςЖжйЁאבעربيةहिनीไทยဗမာ한글각힣ᄒ",
    *"中文字日本語カタカナがぎ。！？「」、，：（）々〇㐀𠀀豈",
    *"“”‘’«»–—…•·°±×÷€£¥§¶†‡™®©№ªº¼½²³∑∞≠≤→",
    *"\u0301\u0308\u0327\u0338\u200c\u200d\u00ad\ufeff\u2060\ufe0f😀👩🏽‍🚀🇩🇪",
]
WORDS = [
    "[MASK]",
    "[SEP]",
    "[UNK]",
    "##ing",
    "don't",
    "U.S.",
    "Mr.",
    "e.g.",
    "e\u0301",
    "ﬃ",
    "x" * 99,
    "y" * 101,
    "z." * 60,
    "中" * 70,
]


def odd_texts(count: int, seed: int = 0) -> Iterator[str]:
    """Texts of up to 60 pieces, without control characters."""
    draw = random.Random(seed)
    for _ in range(count):
        pieces = []
        for _ in range(draw.randrange(60)):
            if draw.random() < 0.05:
                pieces.append(f" {draw.choice(WORDS)}{draw.choice(['', ' ', '.'])}")
            else:
                pieces.append(draw.choice(ALPHABET))
        yield "".join(pieces)
