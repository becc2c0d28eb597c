"""Who speaks: names taken out of cues, and names of one person merged.

Names are merged by these rules and no others:

1. Spelled alike but for capitals, accents' encoding, spaces, quotation marks and a dot or colon at the end.
2. A first name and the only full name that begins with it ("HARRY", "Harry Potter"), unless the two ever speak in one
   scene, either names a role ("MAN", "DOCTOR") or a group, or what follows the first name tells people apart (a number, "JR",
   "TWO", "IN HAT", a possessive) or repeats it; nor where the first name has many speeches, the full one two at most, and
   nobody else has that surname: such a "full name" is mostly two names or a name and a thing.
3. What the user's alias file says; a name in it is never merged by rule 2.

Rule 2 would be wrong about two people who share a first name, one always called by it and one always by his full name,
who never speak in the same scene: put one of them into the alias file, with an empty list.

Why: docs/decisions.md, "Names are merged by a rule that can be wrong in one way".
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from dpg_fast.data.scripts.script import Script
from dpg_fast.util.errors import DPGError
from dpg_fast.util.reading import read_json

LONGEST_CUE = 200  # characters, extensions included


def word_set(text: str) -> frozenset[str]:
    """The words of a list written as one text."""
    return frozenset(text.split())


_EXTENSION = re.compile(r"\s*\(([^()]*)\)?\s*$")
_BARE_EXTENSION = re.compile(r"[\s,\-]+(V\.? ?O\.?|V/O|O\.? ?[SC]\.?|O/[SC]|(?:CONT|Cont|cont)['’.]?[Dd]\.?)$")
_QUOTES = str.maketrans({"\u2019": "'", "\u2018": "'", "\u201c": '"', "\u201d": '"', "`": "'"})
_JOINED = re.compile(  # "and" and "with" in the languages of scripts; a person's initial would have a dot
    r"\s+(?:AND|WITH|ET|AVEC|UND|MIT|Y|E|CON|COM|OCH|OG|EN|MET|JA|I|И|С|\+)\s+|\s*[&/,+、，]\s*", re.IGNORECASE
)
_GROUPS = word_set(
    "ALL BOTH EVERYBODY EVERYONE OTHERS CROWD CHORUS AUDIENCE KIDS CHILDREN GIRLS BOYS MEN WOMEN GUESTS VOICES TOWNSFOLK "
    "LADIES GENTLEMEN STUDENTS SOLDIERS GUARDS ENSEMBLE GROUP TWINS SEVERAL VARIOUS OMNES MOB "
    "TOUS TOUTES TODOS TODAS TUTTI TUTTE ALLE BEIDE ALLA ВСЕ ОБА CORO CHOEUR CHOR"
)
_ROLES = word_set(
    "MAN WOMAN BOY GIRL KID CHILD BABY GUY LADY GENTLEMAN OFFICER COP POLICEMAN POLICEWOMAN DETECTIVE SERGEANT CAPTAIN "
    "LIEUTENANT COLONEL GENERAL MAJOR PRIVATE DOCTOR NURSE WAITER WAITRESS DRIVER GUARD SOLDIER TEACHER STUDENT PRIEST FATHER "
    "MOTHER BROTHER SISTER SON DAUGHTER UNCLE AUNT GRANDMA GRANDPA GRANDMOTHER GRANDFATHER KING QUEEN PRINCE PRINCESS LORD "
    "JUDGE LAWYER REPORTER ANCHOR ANNOUNCER NARRATOR VOICE RADIO OPERATOR CLERK BARTENDER HOST HOSTESS STRANGER FRIEND "
    "NEIGHBOR NEIGHBOUR WIFE HUSBAND PRESIDENT SENATOR MAYOR MINISTER AGENT PILOT SAILOR SERVANT MAID BUTLER COOK CHEF "
    "MR MRS MS MISS DR PROFESSOR PROF SIR MADAM OLD YOUNG LITTLE BIG TEENAGE THE A AN FIRST SECOND THIRD ANOTHER "
    "DOG CAT DOLL PUPPET ROBOT GHOST DOUBLE CLONE"
)
_TELLS_APART = word_set(
    "JR SR JUNIOR SENIOR II III IV V VI VII VIII IX X ONE TWO THREE FOUR FIVE IN WITH OF FROM AT ON THE AND BY"
)
_FEW, _MANY = 2, 8  # speeches of the full name and of the first name that make their merging doubtful


def split_cue(cue: str) -> tuple[str, tuple[str, ...]]:
    """``"EDWARD (V.O.)(CONT'D)"`` -> ``("EDWARD", ("V.O.", "CONT'D"))``."""
    name, extensions = cue.strip(), []
    if len(name) > LONGEST_CUE:  # no name, and the search below would take quadratic time
        return " ".join(name.split()), ()
    while (found := _EXTENSION.search(name) or _BARE_EXTENSION.search(name)) and found.start() > 0:
        if found.group(1).strip():
            extensions.append(found.group(1).strip())
        name = name[: found.start()]
    return " ".join(name.split()), tuple(reversed(extensions))


def plain_name(name: str) -> str:
    """The form in which names are compared: capitals, composed accents, single spaces, no dot or colon at the end."""
    text = unicodedata.normalize("NFC", name.translate(_QUOTES)).upper()
    text = " ".join(text.split()).strip("*_- ")
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1].strip()
    return text.rstrip(":. ") if not re.search(r"\b[A-Z]\.[A-Z]\.$", text) else text


def is_group(name: str) -> bool:
    """Whether a name stands for several people ("EDWARD AND WILL", "ALL")."""
    plain = plain_name(name)
    if any(word in _GROUPS for word in re.findall(r"[^\W\d_]+", plain)):
        return True
    return plain.startswith(("SOME OF ", "THE OTHER ")) or len([part for part in _JOINED.split(plain) if part]) > 1


def is_role(name: str) -> bool:
    """Whether a name says only what somebody is ("MAN", "OLD WOMAN", "SOLDIER 2")."""
    words = plain_name(name).split()
    return bool(words) and all(word in _ROLES or word.isdigit() for word in words) and not words[0].isdigit()


def members(name: str) -> list[str]:
    """The plain names that a cue joins ("EDWARD AND WILL"); one for a single person."""
    return [part.strip() for part in _JOINED.split(plain_name(name)) if part.strip()]


def merge_speakers(script: Script, aliases: Mapping[str, Sequence[str]] | None = None) -> Script:
    """Give each speech of ``script`` its speaker, by the rules above; what was merged is noted in the script.

    A speaker's name is the alias file's spelling, or else the plain form that most of the speeches have (of two the longer one).

    Raises:
        ValueError: the aliases claim one name for two people.
    """
    of_alias: dict[str, str] = {}
    for person, others in (aliases or {}).items():
        for name in (person, *others):
            plain = plain_name(name)
            if of_alias.setdefault(plain, person) != person:
                raise DPGError(f"the aliases give {name!r} to both {of_alias[plain]!r} and {person!r}")
    scenes: dict[str, set[int]] = defaultdict(set)
    counts: Counter[str] = Counter()
    for scene in script.scenes:
        for speech in scene.speeches:
            scenes[plain_name(speech.cue)].add(scene.number)
            counts[plain_name(speech.cue)] += 1
    words = Counter(word for name in scenes for word in set(name.split()))
    free = {name for name in scenes if name not in of_alias}
    full_names: dict[str, list[str]] = defaultdict(list)
    for name in scenes:
        first, _, rest = name.partition(" ")
        if rest and not is_group(name):
            full_names[first].append(name)
    merged: dict[str, str] = {}
    for name in sorted(free):
        longer = full_names.get(name, [])
        if not longer or " " in name or name in _ROLES or is_group(name):
            continue
        fitting = [full for full in longer if _same_person(full)]
        full = longer[0]
        doubtful = counts[full] <= _FEW and counts[name] >= _MANY and words[full.split()[-1]] == 1
        if len(longer) == 1 and fitting and full in free and not scenes[name] & scenes[full] and not doubtful:
            if counts[name] > counts[full]:
                merged[full] = name
            else:
                merged[name] = full
        else:
            script.unmerged += [(name, full) for full in fitting if full in free]
    for speech in script.speeches():
        plain = plain_name(speech.cue)
        speech.speaker = of_alias.get(plain) or merged.get(plain, plain)
    script.merged = merged | {name: person for name, person in of_alias.items() if name in scenes and name != person}
    return script


def _same_person(full: str) -> bool:
    """Whether the words behind the first name look like a surname."""
    first, *rest = full.split()
    return (
        len(rest) <= 2
        and first not in rest
        and all(
            re.fullmatch(r"[^\W\d_][^\W\d_'.-]*(?:['.-][^\W\d_]+)*\.?", word)
            and not word.endswith(("'S", "S'"))
            and word.rstrip(".") not in _TELLS_APART
            and word.rstrip(".") not in _ROLES
            for word in rest
        )
    )


def count_words(script: Script) -> Counter[str]:
    """Speaker -> words spoken."""
    found: Counter[str] = Counter()
    for speech in script.speeches():
        found[speech.speaker] += len(speech.words.split())
    return found


def load_aliases(path: Path | str) -> dict[str, list[str]]:
    """Read an alias file: JSON, ``{"Harry Potter": ["HARRY", "THE BOY"], "MARY": []}``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not of that form.
    """
    path = Path(path)
    value = read_json(path)
    good = isinstance(value, dict) and all(
        name.strip() and isinstance(others, list) and all(isinstance(other, str) for other in others)
        for name, others in value.items()
    )
    if not good:
        raise DPGError(f'{path.name} is not an alias file; expected: {{"Harry Potter": ["HARRY", "THE BOY"]}}')
    return value
