"""Extractive summaries: what they promise for any text, and how they read on real ones."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from webapp.providers.extractive import Length, central, sentences, summarize

LENGTHS: tuple[Length, ...] = ("short", "medium", "long")

ARTICLE = """The River That Moved

For most of the twentieth century the Aldermere ran in a straight concrete channel. Engineers had \
straightened it in 1931 to protect the mills, and nobody in the valley could remember it any other \
way. Floods became rarer, but when they came they were worse: in 1968 the water rose 3.2 metres in \
one night and took eleven houses.

Dr. Helen Ames, a hydrologist at the county university, first proposed to give the river its bends \
back in 2004. "A straight river is a fast river," she told the council. "And a fast river arrives \
all at once." The council thanked her and did nothing for eight years.

What changed its mind was money. Repairing the channel after the flood of 2012 was going to cost \
£14.5 million, while restoring the meadows upstream, where the river could spread without harm, \
was estimated at £6 million. The restoration of the river began in 2014 and took three years. \
Contractors broke up the concrete, dug a winding bed through the old meadows and planted 40,000 \
willows along the banks.

Not everyone is content. Farmers lost 120 hectares of grazing to the meadows, and some say that \
the compensation, about £900 per hectare, was too low. Mr. T. J. Orwell, whose family had farmed \
there since 1790, sold his herd. "I understand it," he said. "I just wish it had been somebody \
else's field."

Other valleys are watching. Four councils in the U.S. and two in Germany have sent delegations, \
and the government has set aside £200 million for similar restorations of rivers. Dr. Ames warns \
against copying the plan without thought: a river restoration that works in a wide valley of clay \
may fail in a narrow one of gravel."""

REPORT = """# Post-mortem: checkout outage of 12 March

## Summary

Between 14:02 and 15:17 UTC, about 38% of checkout requests failed with HTTP 503. No orders were \
lost, but roughly 4,100 customers saw an error page. The cause was a connection pool exhausted by \
a slow query introduced in version 2.14.0 of the order service.

## Timeline

- 13:55 Version 2.14.0 of the order service is deployed to all regions.
- 14:02 The first alerts fire: latency of the checkout endpoint exceeds 2.5 s.
- 14:41 The database team notices that one query holds connections for up to 30 s.
- 15:09 The release is rolled back.

## What went wrong

The new release added a filter on a column without an index. On the staging database, which has \
20,000 rows, the query took 4 ms; in production, with 190 million rows, it took between 8 and 30 \
seconds. Each slow query held a connection from the pool, and with only 50 connections per \
instance the pool was empty within minutes.
"""

WRAPPED = """Hi all,

as most of you know, the lease of the warehouse on Dock Street ends on
30 June. The owner has offered us another five years, but at a rent that
is 40% higher. We looked at seven other sites, and two of them are worth
talking about.

Best,
Priya
"""

GERMAN = """Die Stadtbibliothek von Neuenburg hat am 3. Oktober ihre Türen wieder geöffnet. Nach \
zwei Jahren Umbau, der rund 4,7 Mio. Euro gekostet hat, ist aus dem grauen Zweckbau ein helles \
Haus geworden. Die Bibliothek hat jetzt z. B. ein Café, eine Werkstatt mit 3D-Druckern und Räume, \
die man kostenlos mieten kann.

Bürgermeisterin Dr. A. Lehmann sprach bei der Eröffnung von einem „Wohnzimmer für alle“. Kritik \
kam dagegen vom Förderverein: Für neue Bücher bleibe kaum Geld."""

CHINESE = """北京的春天越来越短了。气象学家说，过去五十年里，北京春季的平均长度缩短了大约十二天。\
原因有两个：一是全球气候变暖，二是城市的热岛效应。“现在的春天来得早，走得也快。”一位研究员说。

春天变短影响了很多人的生活。果农说，桃花和杏花开得太早，容易遇到四月的霜冻，产量因此下降了两成。\
你注意到了吗？连燕子回来的日子也提前了一个星期。"""

TEXTS = {
    "article": ARTICLE,
    "report": REPORT,
    "wrapped": WRAPPED,
    "german": GERMAN,
    "chinese": CHINESE,
}

# Pieces that texts are made of, so that arbitrary sequences of them reach every rule.
PIECES = (
    *("The river rose", "A river fell", "Dr", "U.S", "e.g", "J", "3.14", "12", "[4]", "iPhone"),
    *("北京的春天", "春の海", "한국어", "किताब", "كتاب", "ไทย", "naïve", "ẞ", "🌊", "e\u0301"),
    *(".", "!", "?", "…", "。", "！", "．", "।", "؟", "?!", "...", ",", ":", '"', "”", "」", ")"),
    *(" ", "  ", "\n", "\r\n", "\n\n", "\t", "\u00a0", "\u2028", "\x85", "\x1c", "\u3000"),
    *("- ", "1. ", "# ", "x" * 70, "word " * 150, "\ud800", "\udfff", "\x00", "\u200b"),
)
anything = st.text(st.characters(exclude_categories=()), max_size=400)
assembled = st.lists(st.sampled_from(PIECES), max_size=80).map("".join)
texts = st.one_of(assembled, anything)


def visible(text: str) -> str:
    return "".join(text.split())


def contents(text: str) -> list[str]:
    return [sentence.text for sentence in sentences(text)]


@settings(deadline=None, max_examples=400)
@given(texts)
def test_a_summary_is_never_longer_than_its_text_nor_than_a_longer_summary(text: str) -> None:
    sizes = [len(summarize(text, length)) for length in LENGTHS]

    assert sizes == sorted(sizes)
    assert sizes[-1] <= len(text.strip())


@settings(deadline=None, max_examples=400)
@given(texts)
def test_a_summary_is_empty_only_if_its_text_is_blank(text: str) -> None:
    for length in LENGTHS:
        assert bool(summarize(text, length)) == bool(text.strip())


@settings(deadline=None, max_examples=400)
@given(texts)
def test_a_summary_is_made_of_the_chosen_sentences_in_their_order(text: str) -> None:
    found = sentences(text)
    for length in LENGTHS if found else ():
        chosen = central(found, length)
        assert chosen == sorted(set(chosen))
        joined = "".join(found[index].text for index in chosen)
        assert visible(summarize(text, length)) == visible(joined)


@settings(deadline=None, max_examples=400)
@given(texts)
def test_sentences_are_verbatim_and_cover_the_text(text: str) -> None:
    position = 0
    for sentence in contents(text):
        start = text.index(sentence, position)
        assert not text[position:start].strip()
        assert sentence == sentence.strip() != ""
        position = start + len(sentence)
    assert not text[position:].strip()


@settings(deadline=None, max_examples=400)
@given(texts)
def test_a_shorter_summary_is_contained_in_a_longer_one(text: str) -> None:
    found = sentences(text)
    chosen = [set(central(found, length)) for length in LENGTHS] if found else []
    for smaller, larger in pairwise(chosen):
        assert smaller <= larger


@settings(deadline=None, max_examples=400)
@given(texts)
def test_something_is_left_out_of_every_text_of_two_sentences_or_more(text: str) -> None:
    found = sentences(text)
    if len(found) > 1:
        assert all(len(central(found, length)) < len(found) for length in LENGTHS)
    else:
        assert summarize(text, "long") == text.strip()


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_the_same_text_always_gets_the_same_summary(text: str) -> None:
    for length in LENGTHS:
        assert summarize(text, length) == summarize(text, length)


@pytest.mark.parametrize(
    ("length", "share", "most"), [("short", 0.2, 3), ("medium", 0.35, 8), ("long", 0.6, 20)]
)
def test_sizes_are_about_a_tenth_a_quarter_and_a_half(
    length: Length, share: float, most: int
) -> None:
    assert len(summarize(ARTICLE, length)) < share * len(ARTICLE)
    assert 1 <= len(central(sentences(ARTICLE), length)) <= most
    assert len(central(sentences(ARTICLE * 30), length)) <= most


def test_a_text_of_two_sentences_in_short_gives_one() -> None:
    text = "The lighthouse was built in 1841. It still guides ships into the harbour today."

    assert summarize(text, "short") in contents(text)


def test_a_single_sentence_comes_back_stripped() -> None:
    assert summarize("  Nothing to leave out here.\n", "short") == "Nothing to leave out here."


def test_a_blank_text_has_an_empty_summary() -> None:
    assert summarize(" \n\t\u3000", "long") == ""


def test_the_summary_of_an_article_is_about_its_subject() -> None:
    summary = summarize(ARTICLE, "medium")

    assert "restoring the meadows upstream, where the river could spread without harm" in summary
    assert "sold his herd" not in summary


def test_the_summary_of_a_report_names_the_cause_and_skips_headings() -> None:
    summary = summarize(REPORT, "short")

    assert "The cause was a connection pool exhausted by a slow query" in summary
    assert "#" not in summarize(REPORT, "long")


def test_an_off_topic_sentence_is_left_out() -> None:
    text = (
        "The bakery sells bread made from rye flour. Rye bread from the bakery keeps for a week. "
        "My uncle once owned a parrot. The bakery buys its rye flour from a mill nearby."
    )

    assert "parrot" not in summarize(text, "long")


def test_a_repeated_sentence_is_told_once() -> None:
    text = "The server restarted after the update. " * 5 + "Nobody noticed the restart at night."

    assert summarize(text, "long").count("The server restarted") == 1


def test_boilerplate_does_not_crowd_out_what_is_said_between_it() -> None:
    notice = "This message is confidential and intended for the named recipient only.\n\n"
    text = notice.join(contents(ARTICLE)) + notice * 200

    assert "river" in summarize(text, "medium")


def test_paragraphs_stay_apart_in_long_summaries_and_flow_together_in_shorter_ones() -> None:
    assert "\n\n" in summarize(ARTICLE, "long")
    assert "\n" not in summarize(ARTICLE, "medium")


def test_list_items_stay_on_lines_of_their_own() -> None:
    items = [
        "- Queries slower than 500 ms on a copy of production data fail the build.",
        "- Checkout and reporting get connection pools of their own",
        "- Rollbacks need no approval while an incident is open.",
        "- The dashboard shows how many connections of the pool are in use",
    ]
    for length in LENGTHS:
        assert set(summarize("\n".join(items), length).split("\n")) < set(items)


def test_chinese_sentences_are_joined_without_spaces() -> None:
    summary = summarize(CHINESE, "medium")

    assert len(central(sentences(CHINESE), "medium")) > 1
    assert " " not in summary
    assert "\n" not in summary


@pytest.mark.parametrize(
    "expected",
    [
        ["Dr. Ames met Mr. T. J. Orwell at 7 a.m. in the U.S. Senate.", "They talked."],
        ["He left the U.S.", "The end came later.", "I can't.", "People know."],
        ["Pi is 3.14, e.g. in version 2.14.0 of a file.txt.", "It costs $5.", "Fine!"],
        ["See Fig. 3 and No. 5 for Acme Inc. and others.", "He said no.", "Then he left."],
        ['"Stop!" she said.', "“Really?”", "(He did.)", "Well… perhaps.", "Oh…", "No?!", "Yes."],
        ["Am 3. Oktober kostete es z. B. 4,7 Mio. Euro.", "„Ja.“", "»Nein.«", "Gut."],
        ["Ça va ?", "« Oui ! »", "Très bien !"],
        ["This is known.[12]", "This is not.[3][4]", "Who cares?"],
        ["यह एक वाक्य है।", "यह दूसरा है।"],
        ["هل هذا صحيح؟", "نعم۔", "لا."],
        ["no capitals here.", "none at all.", "still three sentences"],
    ],
)
def test_sentences_end_where_a_reader_would_end_them(expected: list[str]) -> None:
    assert contents(" ".join(expected)) == expected


def test_cjk_stops_need_no_space_and_quotations_go_on() -> None:
    expected = ["真的吗？", "是的！", "「はい。」と言った。", "３．１４です。", "次．", "その次。"]

    assert contents("".join(expected)) == expected


def test_lines_that_were_wrapped_are_one_sentence_and_others_are_not() -> None:
    found = contents(WRAPPED)

    assert found[0] == "Hi all,"
    assert found[1].startswith("as most of you know")
    assert found[1].endswith("30 June.")
    assert found[-2:] == ["Best,", "Priya"]


def test_headings_and_list_items_are_not_glued_to_what_follows() -> None:
    text = "Shopping\n- milk\n- bread\n1. Go there\n2. Come back\n\nThen rest."

    assert contents(text) == [
        *("Shopping", "- milk", "- bread", "1. Go there", "2. Come back", "Then rest.")
    ]


def test_lines_stand_in_for_sentences_where_there_is_no_punctuation() -> None:
    lines = [f"entry {number} about gardens and how to water them" for number in range(40)]

    assert contents("\n".join(lines)) == lines


@pytest.mark.parametrize("unit", ["gardens need water and light ", "春天的花园需要水和阳光"])
def test_a_long_text_without_any_stop_is_still_reduced(unit: str) -> None:
    shuffler = random.Random(7)
    words = unit.split() if " " in unit else list(unit)
    joiner = " " if " " in unit else ""
    text = joiner.join(shuffler.choice(words) for _ in range(50_000 // len(words[0])))

    summary = summarize(text, "long")

    assert 0 < len(summary) < len(text) / 2
    assert set(summary.split()) <= set(text.split()) or not joiner
