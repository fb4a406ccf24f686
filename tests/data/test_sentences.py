import pytest

from mslt.data.sentences import sentences

CASES = {
    "a stop and a capital": ["It rained. We left.", "Then came the sun!"],
    "titles": ["Mr. Smith and Dr. Jones met Mrs. Brown.", "They talked."],
    "initials": ["J. R. R. Tolkien and J.R.R. Tolkien are one man.", "He wrote."],
    "an initial that ends": ["We took plan B.", "It worked."],
    "Latin": ["Fruit, e.g. Apples, i.e. Food, etc. is eaten.", "It is good."],
    "decimals": ["It costs 3.50 a kilo or .5 less.", "That is dear."],
    "list numbers": ["1. Wash the apples.", "2. Cut them."],
    "years": ["It ended in 1990.", "Ten years passed."],
    "countries": ["The U.S. Army left the U.S.", "The war was over."],
    "figures": ["See Fig. 3 and p. 12 of vol. 2.", "They help."],
    "clock": ["He left at 5 p.m. Monday or at 6 p.m.", "She stayed."],
    "quotes after the stop": ['"I see." He nodded.', "“Go!” she said.", "(They went.)", "Good."],
    "a quote that goes on": ['"Will you come?" he asked.', "'No,' she said."],
    "several stops": ["What?!", "No...", "Well, yes."],
    "an ellipsis inside": ["He said ... nothing at all.", "So be it."],
    "no space": ["See example.com or a.b.c now.", "Bye."],
    "Chinese": ["今天下雨。", "我们走了！", "“好吗？”", "好。"],
    "Japanese": ["「雨です。」", "行きました。", "Bertです。"],
    "Hindi": ["यह है।", "वह है।"],
    "Arabic": ["هل هذا جيد؟", "نعم."],
}


@pytest.mark.parametrize("name", CASES)
def test_a_paragraph_falls_into_its_sentences(name):
    wanted = [s for part in CASES[name] for s in part.split("¦")]
    space = "" if name in ("Chinese", "Japanese") else " "
    found = sentences(space.join(wanted))
    if name == "quotes after the stop":
        wanted = ['"I see."', "He nodded.", *wanted[1:]]
    assert found == wanted


@pytest.mark.parametrize(
    "text", ["", " ", ".", "...", "?!", '"', "no end", "A. B. C.", "。。", ". ."]
)
def test_odd_paragraphs_lose_nothing(text):
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())


def test_nothing_but_space_is_lost_from_random_text(rng_text):
    for text in rng_text:
        found = sentences(text)
        assert "".join("".join(found).split()) == "".join(text.split())
        assert all(found) and all(s == s.strip() for s in found)


def test_a_million_stops_take_no_more_than_seconds():
    assert len(sentences("Go on. " * 200_000)) == 200_000
    assert len(sentences("." * 1_000_000)) == 1
    assert len(sentences('."' * 300_000 + "x")) == 1
    assert len(sentences("“" * 300_000 + ". “" * 10)) >= 1
