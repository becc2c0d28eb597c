"""Published inventories of the International Personality Item Pool: their keys, and where their texts come from.

The items are in the public domain (ipip.ori.org). The texts are not part of this package: those of IPIP-NEO are downloaded from
a pinned commit of five-factor-e (MIT), those of the 50 items are read from the user's file. Keys are facts and stand here:

- IPIP-NEO-120 (Johnson 2014) and -300 (Goldberg 1999): the 30 facets take turns, N1 E1 O1 A1 C1 N2 ...; the reversed items are
  those of five-factor-e 1.13.
- IPIP-50 (Goldberg 1992 markers) in the order of IPIP's sample questionnaire: E A C N O in turn. IPIP scores its fourth factor
  as emotional stability; here it is neuroticism, so its keys are the opposite ones.
- Mini-IPIP (Donnellan et al. 2006): twenty of those fifty.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from dpg_fast.data.questions.published import PinnedFile, fetch_file
from dpg_fast.personality.scores import Trait
from dpg_fast.questionnaire.inventory import OPTIONS, Inventory, Item, bundled_inventory, load_inventory, read_questions
from dpg_fast.text.facets import FACETS
from dpg_fast.util.errors import DPGError
from dpg_fast.util.reading import read_text
from dpg_fast.util.smollm2 import cache_root
from dpg_fast.util.words import counted

COMMIT = "618c85f69a19e90dd8fc9153a2126519106f0341"
URL = f"https://raw.githubusercontent.com/NeuroQuestAi/five-factor-e/{COMMIT}/data/IPIP-NEO"
IPIP_HOME = "https://ipip.ori.org"
BUNDLED = "everyday-60"
PUBLISHED = ("ipip-neo-120", "ipip-neo-300", "ipip-50", "mini-ipip")
_FILES = {
    120: PinnedFile("120/questions.json", "questions_120.json", "git:28ec498c6b34f4cc3d283cfd4f8c83c0f03a0500"),
    300: PinnedFile("300/questions.json", "questions_300.json", "git:54dd90434077af77e21d954e16670f7b5d7a8e63"),
}
_REVERSED = {
    120: "9 19 24 30 39-40 48-49 51 53-54 60 62 67-70 73-75 78-81 83-85 88-90 92 94 96-111 113-116 118-120",
    300: "69 99 109 118 120 129 138-139 144 148-152 156-160 162-165 167-169 171 173-176 178-190 192-199 201 203-206 208-231 "
    "233-236 238-300",
}
# IPIP-50: one sign an item, by factor (every fifth item from the first, second, ...); N as neuroticism.
_SIGNS_50 = {"E": "+-+-+-+-+-", "A": "-+-+-+-+++", "C": "+-+-+-+-++", "N": "+-+-++++++", "O": "+-+-+-++++"}
# Beginnings of the SHA-256 of the texts' letters, to notice a file whose items stand in another order.
_DIGESTS_50 = (
    "779c45 c5ec6a 5ec97b 438a7d 0486aa 5d6e10 25e4f4 344109 740f3d 586565 b00f82 7f39a4 081467 c7d2c7 eae2ec e73039 642c05 "
    "c6b744 7fbbbf 6291dc a12fba 01fc39 31d7a9 dba262 6bb791 3ad258 4ae96d b28bda 241db1 bab540 7d4315 a98967 0270a8 8b63ab "
    "b2894e 779e16 0dedac df9c8e ed2343 826050 c39edc 7dcd36 7f53d3 69e7fe a1aa91 ff9ceb 0c567b 4dd8fd b366df 68b9b7"
)
# The twenty of Mini-IPIP, in its order, as numbers of the fifty.
_MINI = (1, 17, 23, 39, 15, 6, 22, 28, 9, 20, 31, 42, 33, 29, 10, 16, 32, 18, 19, 30)


def find_inventory(name: str, texts: Path | str | None = None) -> Inventory:
    """The inventory of that name: "bundled", a published one (see `load_published`), or a file of `load_inventory`'s format.

    Raises:
        ValueError: neither a known name nor a file, or a file that is not of its format.
        OSError: texts that could not be downloaded.
    """
    key = name.lower()
    if key in ("bundled", BUNDLED):
        return bundled_inventory()
    if key in PUBLISHED:
        return load_published(key, texts)
    if not Path(name).is_file():
        raise DPGError(
            f"{name!r} is not an inventory: accepted are bundled, {', '.join(PUBLISHED)}, or a file that is there"
        )
    return load_inventory(name)


def load_published(
    name: str, texts: Path | str | None = None, *, base_url: str = URL, rephrased: bool = False
) -> Inventory:
    """A published inventory with its key.

    Args:
        name: one of `PUBLISHED`.
        texts: for IPIP-NEO a file in the JSON format of five-factor-e (a translation, say); default: downloaded once and
            checked. For "ipip-50" and "mini-ipip" a text file with the fifty items one a line, in the order of IPIP's sample
            questionnaire (for mini-ipip the twenty in its own order will do).
        base_url: a mirror of the downloads.
        rephrased: accept texts of the fifty that are not IPIP's wording (a translation); their order is then not checked.

    Raises:
        ValueError: an unknown name, a file that is not of its format, or items that are not where they belong.
        OSError: the download failed.
    """
    if name in ("ipip-neo-120", "ipip-neo-300"):
        return _neo(int(name[-3:]), texts, base_url)
    if name not in PUBLISHED:
        raise DPGError(f"unknown inventory {name!r}; accepted: {', '.join(PUBLISHED)}")
    if texts is None:
        raise DPGError(
            f"the texts of {name} do not come with this package: put the items, one a line in the order of the published "
            f"questionnaire ({IPIP_HOME}), into a text file and name it"
        )
    return _from_lines(name, Path(texts), rephrased)


def neo_key(number: int, items: int) -> tuple[Trait, str, bool]:
    """(trait, facet, whether reversed) of item ``number`` (from 1) of the IPIP-NEO with 120 or 300 ``items``.

    Raises:
        ValueError: another inventory or number.
    """
    if items not in _REVERSED or not 1 <= number <= items:
        raise DPGError(f"IPIP-NEO has 120 or 300 items, numbered from 1; not item {number} of {items}")
    position = (number - 1) % 30
    trait = Trait.parse("NEOAC"[position % 5])
    return trait, FACETS[trait][position // 5].name, number in _numbers(_REVERSED[items])


def ipip50_key(number: int) -> tuple[Trait, bool]:
    """(trait, whether reversed) of item ``number`` (from 1) of IPIP's 50-item sample questionnaire.

    Raises:
        ValueError: another number.
    """
    if not 1 <= number <= 50:
        raise DPGError(f"IPIP-50 has items 1 to 50, not {number}")
    letter = "EACNO"[(number - 1) % 5]
    return Trait.parse(letter), _SIGNS_50[letter][(number - 1) // 5] == "-"


def _neo(items: int, texts: Path | str | None, base_url: str) -> Inventory:
    file = _FILES[items]
    if texts is None:
        target = cache_root() / "five-factor-e" / COMMIT[:7] / file.name
        texts = fetch_file(f"{base_url}/{file.path}", target, file.checksum)
    questions, options = read_questions(texts)
    if len(questions) != items or len(options) != 5:
        raise DPGError(
            f"{Path(texts).name}: {counted(len(questions), 'item')} and {counted(len(options), 'option')}; "
            f"IPIP-NEO-{items} has {items} and 5"
        )
    found = []
    for number, text in questions:
        trait, facet, reverse = neo_key(number, items)
        found.append(Item(str(number), text, trait, reverse, facet))
    stem = "I" if _letters(questions[0][1]) == "worryaboutthings" else ""  # translations are whole sentences
    return Inventory(f"ipip-neo-{items}", tuple(found), options, stem, "five-factor-e, ipip.ori.org", "public domain")


def _from_lines(name: str, path: Path, rephrased: bool) -> Inventory:
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    mini = name == "mini-ipip"
    if mini and len(lines) == 20:
        numbers: tuple[int, ...] = _MINI
    elif len(lines) == 50:
        numbers = tuple(range(1, 51))
    else:
        wanted = "20 or 50" if mini else "50"
        raise DPGError(f"{path.name}: {len(lines)} lines with text; {name} needs {wanted}, one item a line")
    digests = _DIGESTS_50.split()
    for line, number in zip(lines, numbers, strict=True):
        if not rephrased and hashlib.sha256(_letters(line).encode()).hexdigest()[:6] != digests[number - 1]:
            raise DPGError(
                f"{path.name}: {line!r} is not the wording of item {number} of IPIP-50; check the order, or pass "
                "rephrased=True for another wording"
            )
    text_of = dict(zip(numbers, lines, strict=True))
    items = []
    for place, number in enumerate(_MINI if mini else numbers, 1):
        trait, reverse = ipip50_key(number)
        items.append(Item(str(place), text_of[number], trait, reverse))
    stem = "" if rephrased or text_of[1].startswith("I ") else "I"
    return Inventory(name, tuple(items), OPTIONS, stem, IPIP_HOME, "public domain")


def _numbers(text: str) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split():
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def _letters(text: str) -> str:
    """The letters, in lower case, without a leading "I"."""
    words = text.casefold().split()
    return "".join(letter for letter in " ".join(words[words[:1] == ["i"] :]) if letter.isalpha())
