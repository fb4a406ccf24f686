import time

import pytest
from odd_text import odd_texts

from mslt.data.sentences import sentences

CASES = {
    "a stop before a capital": "It rained. | Then came the sun! | Where?",
    "titles": "Mr. Smith and Dr. Jones met Mrs. Brown. | They talked.",
    "initials": "J. R. R. Tolkien and J.R.R. Tolkien are one man. | He wrote.",
    "an initial that ends": "We took plan B. | It worked.",
    "Latin": "Fruit, e.g. Apples, i.e. Food, etc. is eaten. | It is good.",
    "an abbreviation that ends": "They sell apples, pears, etc. | The shop is small.",
    "decimals": "It costs 3.50 a kilo or .5 less. | That is dear.",
    "list numbers": "1. Wash the apples. | 2. Cut them.",
    "years": "It ended in 1990. | Ten years passed.",
    "countries": "The U.S. Army left the U.S. | The war was over.",
    "figures": "See Fig. 3 and p. 12 of vol. 2. | They help.",
    "times": "He left at 5 p.m. Monday or at 6 p.m. | She stayed.",
    "quotes after the stop": '"I see." | He nodded. | “Go!” she said. | (They went.) | Good.',
    "a quote that goes on": "\"Will you come?\" he asked. | 'No,' she said.",
    "several stops": "What?! | No... | Well, yes.",
    "an ellipsis inside": "He said ... nothing at all. | So be it.",
    "no space": "See example.com or a.b.c now. | Bye.",
    "Chinese": "今天下雨。 | 我们走了！ | “好吗？” | 好。",
    "Japanese": "「雨です。」 | 行きました。 | Bertです。",
    "Hindi": "यह है। | वह है।",
    "Arabic": "هل هذا جيد؟ | نعم.",
}
UNSPACED = ("Chinese", "Japanese")


@pytest.mark.parametrize("name", CASES)
def test_a_paragraph_falls_into_its_sentences(name):
    text = CASES[name].replace(" | ", "" if name in UNSPACED else " ")
    assert sentences(text) == CASES[name].split(" | ")


@pytest.mark.parametrize(
    "text", ["", " ", ".", "...", "?!", '"', "no end", "A. B. C.", "。。", ". ."]
)
def test_a_paragraph_of_little_loses_nothing(text):
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())


def test_nothing_but_space_is_lost():
    for text in odd_texts(500):
        found = sentences(text)
        assert "".join("".join(found).split()) == "".join(text.split())
        assert all(sentence == sentence.strip() != "" for sentence in found)


@pytest.mark.parametrize("text", ["Go on. ", ".", '."', "“", ". “", "。", "1. ", "A. ", "!) "])
def test_time_grows_with_the_text_alone(text):
    begin = time.perf_counter()
    sentences(text * (1_000_000 // len(text)))
    assert time.perf_counter() - begin < 10  # the square would take hours
