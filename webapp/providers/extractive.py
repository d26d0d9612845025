"""Summaries made of a text's own most central sentences, without a model.

The method is centroid-based summarization (Radev, Jing, Styś and Tam, "Centroid-based
summarization of multiple documents", 2004): sentences are TF-IDF vectors, and the closer one
points to their sum, the centroid, the more it says of what the text is about. Sentences that
open the text or a paragraph get a modest bonus, fragments and very short sentences
count for less, and each choice lowers what repeats it (maximal marginal relevance, Carbonell and
Goldstein, 1998).

The ranking does not depend on the length asked for; a length only says how much of it is taken.
That is why a short summary is contained in a medium one, and that in a long one.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from heapq import nlargest
from itertools import chain, groupby, pairwise
from math import hypot, log
from operator import add, mul
from statistics import median
from typing import Literal, NamedTuple

Length = Literal["short", "medium", "long"]

# The share of the text's characters to aim for, and the maximum of sentences.
SIZES: dict[Length, tuple[float, int]] = {"short": (0.1, 3), "medium": (0.25, 8), "long": (0.5, 20)}
MAX_SENTENCES = SIZES["long"][1]

# Only the most central sentences are compared with each other, which keeps ranking linear.
POOL = 120
# A longer "sentence" (in characters) lacks stops; it is split at lines or into chunks of words.
LONGEST_SENTENCE = 600
CHUNK = 200

LEAD_BONUS = 0.3  # for the first sentence; half as much for the second, and so on
PARAGRAPH_BONUS = 0.1
FRAGMENT_FACTOR = 0.5  # headings, list items and the like: what does not end with a stop
SHORT = 0.75  # of the median length; a sentence below it counts for less
NOTHING_NEW = 1e-9  # the score of a sentence that only repeats a chosen one

CJK = "\u2e80-\u2fff\u3005-\u30ff\u31f0-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
UNSPACED = CJK + "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\uac00-\ud7af"
INDIC = "\u0900-\u0963\u0966-\u0dff"  # their vowel signs are no \w, their danda is a stop
MARKS = "\u0300-\u036f\u0591-\u05c7\u064b-\u065f"
NARROW_STOPS = ".!?…।॥؟۔።։"
OPENERS = "\"'“‘„«»‹›([{¿¡*_—–- "
WIDE_STOPS = "。！？｡．"  # these need no space after them

TERM = re.compile(rf"[{UNSPACED}]+|(?:[^\W_{UNSPACED}]|[{INDIC}{MARKS}])+")
STOP = re.compile(
    rf"(?P<stop>(?:[{NARROW_STOPS}。！？｡]|．(?!\d))+)"
    r"(?P<closers>(?:[\"'”“’‘»›)\]}）」』】〉》*_]|(?:[ \u00a0\u202f]»|[«‹])(?!\w)|\[\d{1,3}\])*)"
    r"(?P<space>\s*)"
)
FINISHED = re.compile(rf"[{NARROW_STOPS}{WIDE_STOPS}]\W*\Z")
WIDE_END = re.compile(rf"[{WIDE_STOPS}][」』】〉》）”]*\Z")
MARKER = re.compile(r"(?:[-*+•‣◦–—]|\d{1,3}[.)]|[A-Za-z][.)]|#{1,6})\s+")
LINE = re.compile(r"\S(?:[^\r\n]*\S)?")
WORDS = re.compile(rf"\S(?:.{{0,{CHUNK - 2}}}\S)?(?!\S)|\S{{1,{CHUNK}}}", re.DOTALL)
IDEOGRAPH = re.compile(rf"[{CJK}]")
IS_UNSPACED = re.compile(rf"[{UNSPACED}]")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What stands before a full stop that does not end a sentence.
INITIAL = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]|\d{1,2}")
FIRST_WORD = re.compile(r"[^\W\d_]+(?=[\s,'’])")
ABBREVIATIONS = _words(
    "adm al approx asst bzw ca capt cf co col corp dept dr eds esp est evtl gen ggf gov hon hrsg"
    " inc incl jr lt ltd maj messrs mio mlle mme mr mrd mrs ms mt nr prof rep rev sen sgt sr sra"
    " srta st univ usw vgl viz vs zb"
)
BEFORE_NUMBERS = _words(
    "apr art aug ch chap dec ed eq feb fig figs jan jul jun mar no nos nov oct op p para pp sec"
    " sect sep sept tab vol"
)
# After "U.S." or "Plan B." these begin a new sentence; any other word may be a name.
STARTERS = _words(
    "a after all an and as at before but by during for from he her his how however i if in it its"
    " many most my no not on one our she since so some that the their then there these they this"
    " those though we what when where while who why with yet you your"
)

# Frequent words of four letters and more; shorter ones are ignored by their length.
FUNCTION_WORDS = _words(
    "about after also because been before being between both could does each even from have here"
    " however into just like made make many more most much must only other over said same should"
    " some such than that their them then there these they this those through under until very"
    " were what when where which while will with would your"
    " aber auch dass dem denn diese dieser durch eine einem einen einer haben nach nicht noch oder"
    " sein sich sind über wenn werden wird zwischen"
    " aussi avec cette comme dans elle leur mais même nous pour sans sont tout vous"
    " como cuando desde entre esta este está hasta para pero porque sobre también tiene"
)


class Sentence(NamedTuple):
    """A sentence as it stands in the text, and the white space that stood before it."""

    text: str
    before: str  # "" | " " | "\n" (a line of its own) | "\n\n" (a new paragraph)


class Span(NamedTuple):
    start: int
    end: int


def summarize(text: str, length: Length) -> str:
    """The most central sentences of the text, in the text's order.

    Never longer than the text, and empty only if the text has nothing but white space.
    """
    found = sentences(text)
    if len(found) < 2:
        return text.strip()
    chosen = central(found, length)
    parts = [found[chosen[0]].text]
    for left, right in pairwise(chosen):
        parts += _separator(found[left : right + 1], length), found[right].text
    return "".join(parts)


def central(found: list[Sentence], length: Length) -> list[int]:
    """The indexes of the summary's sentences: the best ones, until the goal is reached."""
    share, most = SIZES[length]
    goal = share * sum(len(sentence.text) for sentence in found)
    chosen: list[int] = []
    taken = 0
    for index in _ranked(found)[:most]:
        size = len(found[index].text)
        if chosen and taken + size / 2 > goal:
            break
        chosen.append(index)
        taken += size
    return sorted(chosen)


def sentences(text: str) -> list[Sentence]:
    """The text's sentences; together they are all of it but the white space between them."""
    # Where a text never capitalizes, a small letter says nothing about where sentences begin.
    capitalizes = text != text.lower()
    found: list[Sentence] = []
    for block, before in _blocks(text):
        end = block.start
        for span in _spans(text, block, capitalizes):
            if found and span.start != block.start:
                before = " " if span.start > end else ""
            found.append(Sentence(text[span.start : span.end], before))
            end = span.end
    return found


def _blocks(text: str) -> Iterator[tuple[Span, str]]:
    """Paragraphs, list items and headings, which no sentence crosses; and the break before each."""
    for blank, lines in groupby(_lines(text), key=lambda line: line.start == line.end):
        if blank:
            continue
        paragraph = list(lines)
        width = max(line.end - line.start for line in paragraph)
        start, before = paragraph[0].start, "\n\n"
        for line, following in pairwise(paragraph):
            if not _wraps(text, line, following, width):
                yield Span(start, line.end), before
                start, before = following.start, "\n"
        yield Span(start, paragraph[-1].end), before


def _lines(text: str) -> Iterator[Span]:
    position = 0
    for line in text.splitlines(keepends=True):
        start = position + len(line) - len(line.lstrip())
        yield Span(start, max(start, position + len(line.rstrip())))
        position += len(line)


def _wraps(text: str, line: Span, following: Span, width: int) -> bool:
    """Whether a line was broken only because the next word did not fit the paragraph's width."""
    if not 40 <= width <= 120 or MARKER.match(text, following.start, following.end):
        return False
    beginning = text[following.start : min(following.end, following.start + width)]
    word = 1 if IDEOGRAPH.match(beginning) else len(beginning.split(maxsplit=1)[0]) + 1
    return line.end - line.start + word > width


def _spans(text: str, block: Span, capitalizes: bool) -> Iterator[Span]:
    """A block's sentences. One that is too long is split into lines, then chunks of words."""
    start = block.start
    for end, following in _ends(text, block, capitalizes):
        if end - start <= LONGEST_SENTENCE:
            yield Span(start, end)
        else:
            for line in LINE.finditer(text, start, end):
                whole = line.end() - line.start() <= LONGEST_SENTENCE
                parts = [line] if whole else WORDS.finditer(text, *line.span())
                yield from (Span(*part.span()) for part in parts)
        start = following


def _ends(text: str, block: Span, capitalizes: bool) -> Iterator[tuple[int, int]]:
    """Where sentences of a block end, and where the next one begins."""
    marker = MARKER.match(text, block.start, block.end)
    for stop in STOP.finditer(text, marker.end() if marker else block.start, block.end):
        if stop.end() < block.end and _is_end(text, stop, capitalizes):
            yield stop.end("closers"), stop.end()
    yield block.end, block.end


def _is_end(text: str, stop: re.Match[str], capitalizes: bool) -> bool:
    following = text[stop.end() : stop.end() + 24]
    if not stop["space"]:
        if stop["closers"]:
            return False  # 「はい。」と言った goes on after the quotation
        wide = IDEOGRAPH.match(following) and stop["stop"][-1] in "!?"
        return bool(wide) or stop["stop"][-1] in WIDE_STOPS
    following = following.lstrip(OPENERS)
    if capitalizes and following[:1].islower() and stop["stop"][-1] not in WIDE_STOPS:
        return False
    if stop["stop"] != "." or stop["closers"]:
        return True
    return not _abbreviates(text[max(0, stop.start() - 24) : stop.start()], following)


def _abbreviates(before: str, following: str) -> bool:
    """Whether a full stop between these two belongs to an abbreviation, initial or ordinal."""
    words = before.rsplit(maxsplit=1)
    word = words[-1].lstrip(OPENERS).lower() if words else ""
    if INITIAL.fullmatch(word):
        first = FIRST_WORD.match(following)
        return first is None or first[0].lower() not in STARTERS
    return word in ABBREVIATIONS or (word in BEFORE_NUMBERS and following[:1].isdigit())


def _separator(passage: list[Sentence], length: Length) -> str:
    """The separator between the ends of a passage; never longer than the text between them."""
    left, right = passage[0].text, passage[-1].text
    widest = max((sentence.before for sentence in passage[1:]), key=len)
    if not widest or (widest == " " and len(passage) == 2):
        return widest
    if length == "long" and widest != " ":
        return widest
    if not FINISHED.search(left[-8:]) or MARKER.match(right):
        return "\n"
    return "" if WIDE_END.search(left[-8:]) else " "


def _ranked(found: list[Sentence]) -> list[int]:
    """The best sentences, best first, each judged by what it adds to those before it."""
    places: dict[str, int] = {}
    for place, sentence in enumerate(found):
        places.setdefault(sentence.text, place)
    counts = _counts(places)
    weights = _weights(counts)
    scores = _scores([found[place] for place in places.values()], _centralities(counts, weights))
    pool = nlargest(POOL, range(len(scores)), scores.__getitem__)
    vectors = {index: dict(zip(counts[index], weights[index], strict=True)) for index in pool}
    value = {index: scores[index] for index in pool}
    ranked: list[int] = []
    while value and len(ranked) < MAX_SENTENCES:
        best = max(value, key=value.__getitem__)
        if value.pop(best) < NOTHING_NEW and ranked:
            break
        ranked.append(best)
        value = {
            index: min(worth, scores[index] * (1 - _cosine(vectors[best], vectors[index])))
            for index, worth in value.items()
        }
    order = list(places.values())
    return [order[index] for index in ranked]


def _scores(found: list[Sentence], centralities: Iterable[float]) -> list[float]:
    """The score of each sentence, from its centrality, its position and its form."""
    usual = median(len(sentence.text) for sentence in found)
    scores: list[float] = []
    whole = 0  # whole sentences so far: a heading does not take the bonus of the first sentence
    opens = True
    for sentence, centrality in zip(found, centralities, strict=True):
        score = centrality * min(1.0, len(sentence.text) / (SHORT * usual))
        opens = opens or sentence.before == "\n\n"
        if FINISHED.search(sentence.text[-8:]):
            score *= 1 + LEAD_BONUS / (1 + whole) + PARAGRAPH_BONUS * opens
            whole += 1
            opens = False
        else:
            score *= FRAGMENT_FACTOR
        scores.append(score)
    return scores


def _counts(texts: Iterable[str]) -> list[Counter[int]]:
    """The term counts of each sentence; terms are numbered, as integers are fast keys."""
    numbers: defaultdict[str, int] = defaultdict()
    numbers.default_factory = numbers.__len__
    return [Counter(map(numbers.__getitem__, _terms(text))) for text in texts]


def _weights(counts: list[Counter[int]]) -> list[list[float]]:
    """The TF-IDF weight of each sentence's terms, scaled so that its vector has length 1."""
    holders = Counter(chain.from_iterable(counts))
    rarity = [log(1 + len(counts) / holders[term]) for term in range(len(holders))]
    scaled: list[list[float]] = []
    for count in counts:
        weights = [times * rarity[term] for term, times in count.items()]
        length = hypot(*weights) or 1.0
        scaled.append([weight / length for weight in weights])
    return scaled


def _centralities(counts: list[Counter[int]], weights: list[list[float]]) -> Iterator[float]:
    """The cosine between each sentence's vector and the centroid, the sum of all of them."""
    centroid: defaultdict[int, float] = defaultdict(float)
    for terms, row in zip(counts, weights, strict=True):
        for term, weight in zip(terms, row, strict=True):
            centroid[term] += weight
    length = hypot(*centroid.values()) or 1.0
    for terms, row in zip(counts, weights, strict=True):
        yield sum(map(mul, row, map(centroid.__getitem__, terms))) / length


def _cosine(left: dict[int, float], right: dict[int, float]) -> float:
    return sum(weight * right[term] for term, weight in left.items() if term in right)


def _terms(text: str) -> list[str]:
    """The words that carry meaning, cut to six letters, which joins most inflected forms.

    Scripts that do not separate words by spaces give pairs of neighbouring characters.
    """
    words: list[str] = TERM.findall(text)
    terms = [term for word in words if _has_meaning(word) for term in _stems(word)]
    return terms or [word.casefold() for word in words]


def _has_meaning(word: str) -> bool:
    """In Latin, Greek and Cyrillic script, short words are mostly function words."""
    if word[0] > "\u052f":
        return True
    if len(word) > 3:
        return word.lower() not in FUNCTION_WORDS
    return word.isupper() and len(word) > 1


def _stems(word: str) -> list[str]:
    if word[0] > "\u0dff" and IS_UNSPACED.match(word):
        return list(map(add, word, word[1:])) or [word]
    return [word.casefold()[:6]]
