"""Prints summaries of ten texts: the extracted one, and that of the small local model.

.venv/bin/python -m scripts.compare_summaries http://127.0.0.1:8000 [key]

It shows why /summarize stays extractive where only the small local model answers.
"""

from __future__ import annotations

import json
import sys
import time
from urllib.request import Request, urlopen

from webapp.local_model import MODEL

TEXTS = (
    "A weir is a low barrier across a river. It raises the water upstream and lets the rest flow "
    "over its crest. Mills were built at weirs, since the fall of the water turns a wheel. Today "
    "weirs mostly measure and regulate the flow.",
    "The council met on Tuesday to decide about the old tram depot. After three hours of debate, "
    "twelve members voted to sell it to a housing cooperative and nine voted against. The "
    "cooperative plans 84 flats, a third of them at reduced rent. Neighbours fear for the trees in "
    "the yard. The mayor promised that the seven lime trees will stay. Work is to begin in spring.",
    "Photosynthesis is how plants turn light into sugar. In the leaves, chlorophyll takes up light "
    "and splits water into oxygen and hydrogen. The oxygen leaves through pores. The hydrogen and "
    "carbon dioxide from the air, become sugar, which feeds the plant and, in the end, almost "
    "every animal.",
    "Dear team, the release of version 4.2 is moved from Monday 3 March to Thursday 6 March. The "
    "reason is a bug in the import of calendars, which loses the time zone. Anna has a fix, which "
    "needs two days of testing. Please do not merge anything but fixes until then. Support will be "
    "told by Peter. Thank you for your patience.",
    "In 1847 Ignaz Semmelweis saw that women died of childbed fever far more often in the ward of "
    "the doctors than in that of the midwives. The doctors came from dissections. He made them "
    "wash their hands in chlorinated lime, and mortality fell from 18 to 2 percent. His colleagues "
    "mocked him; only after his death did germ theory prove him right.",
    "The battery lasts for eleven hours of video, an hour more than that of its predecessor. The "
    "screen is brighter, but reflects more. The keyboard is excellent. The fans are loud under "
    "load, and the camera is poor in dim light. At 1,299 euros it costs as much as last year. For "
    "those who write a lot it is the best laptop of its class; players should look elsewhere.",
    "Sourdough needs only flour, water and salt. The starter, a mix of flour and water in which "
    "wild yeast and bacteria live, has to be fed for five days before the first loaf. The dough "
    "rests for twelve hours in the cold. The oven must be as hot as it can be, with steam for the "
    "first fifteen minutes. The loaf is done when it sounds hollow.",
    "The storm reached the coast on Friday night with gusts of 140 kilometres an hour. Forty "
    "thousand households were without electricity, and ferries stayed in port. Nobody was hurt. By "
    "Sunday all but 900 households had power again. The damage is put at 30 million euros, most of "
    "it to roofs and greenhouses.",
    "A hash table stores values under keys. A function turns each key into the number of a bucket. "
    "If two keys get the same bucket, they collide, and the table looks through both. Lookups take "
    "constant time on average as long as few keys share a bucket; when the table fills up, it "
    "grows to twice its size and all keys move.",
    "The swift spends almost its whole life in the air. It eats, drinks, mates and even sleeps on "
    "the wing, and lands only to breed. Young swifts that leave the nest may fly for two years "
    "without a rest. In autumn they cross the Sahara to central Africa. Where old buildings are "
    "renovated, their nests under the roofs are lost, and their number has halved since 1995.",
)


def summary(url: str, key: str, text: str, model: str | None) -> tuple[str, float]:
    body = {"text": text, "length": "short"} | ({"model": model} if model else {})
    headers = {"X-API-Key": key, "Content-Type": "application/json", "Cache-Control": "no-cache"}
    request = Request(f"{url}/summarize", json.dumps(body).encode(), headers)  # noqa: S310 as given
    began = time.perf_counter()
    with urlopen(request) as answer:  # noqa: S310
        return json.load(answer)["summary"], time.perf_counter() - began


def main() -> None:
    url, key = sys.argv[1], (sys.argv[2:] or ["prod_key_456"])[0]
    for number, text in enumerate(TEXTS, 1):
        print(f"{number}. {text}")
        for name, model in (("extracted", None), ("model", MODEL)):
            found, seconds = summary(url, key, text, model)
            print(f"   {name} ({seconds:.2f} s, {len(found)} of {len(text)} characters): {found}")


if __name__ == "__main__":
    main()
