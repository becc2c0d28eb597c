"""What situational questions are made from: the facets of the Big Five, and everyday topics.

The thirty facet names are those of IPIP-NEO (public domain). Their descriptions at both ends, the words that would give a facet
away and the list of topics are this project's own; PersonalityBench took its topics from UltraChat, and this is not that list.
"""

from __future__ import annotations

from dataclasses import dataclass

from dpg_fast.personality.scores import Trait


@dataclass(frozen=True)
class Facet:
    """One of a trait's six facets: how it shows when high and low, and beginnings of words that name it."""

    name: str
    high: str
    low: str
    stems: tuple[str, ...]


def _facet(name: str, high: str, low: str, stems: str) -> Facet:
    return Facet(name, high, low, tuple(stems.split()))


FACETS: dict[Trait, tuple[Facet, ...]] = {
    Trait.OPENNESS: (
        _facet("imagination", "lives in a rich inner world", "keeps to what is real and at hand", "imaginati daydream"),
        _facet("artistic interests", "is moved by art, music and nature", "finds little in art", "artistic aesthetic"),
        _facet("emotionality", "notices and values every feeling", "pays feelings little attention", "emotionality"),
        _facet("adventurousness", "wants the new and untried", "prefers the familiar routine", "adventur"),
        _facet("intellect", "enjoys ideas and hard questions", "prefers people and things to ideas", "intellect curio"),
        _facet("liberalism", "questions authority and custom", "trusts tradition and rules", "liberal conservati"),
    ),
    Trait.CONSCIENTIOUSNESS: (
        _facet("self-efficacy", "trusts in getting things done", "doubts own ability", "self-effica efficacious"),
        _facet(
            "orderliness",
            "keeps things tidy and on plan",
            "leaves things lying about",
            "orderl disorderl tidy tidi untid",
        ),
        _facet("dutifulness", "keeps promises and rules", "bends rules when convenient", "dutiful duty duties"),
        _facet("achievement-striving", "works hard for high goals", "is content with getting by", "striv ambiti"),
        _facet("self-discipline", "begins at once and finishes", "puts off and gives up", "disciplin procrastinat"),
        _facet("cautiousness", "thinks before acting", "acts on the spur of the moment", "cautio"),
    ),
    Trait.EXTRAVERSION: (
        _facet("friendliness", "warms to people quickly", "keeps people at a distance", "friendliness"),
        _facet("gregariousness", "seeks company and crowds", "seeks to be alone", "gregari sociable sociabil"),
        _facet("assertiveness", "takes the lead and speaks up", "lets others lead", "assertive"),
        _facet("activity level", "is always busy and quick", "takes things slowly", "energetic"),
        _facet(
            "excitement-seeking", "loves thrills and noise", "avoids thrills and noise", "thrill-seek excitement-seek"
        ),
        _facet("cheerfulness", "is full of joy and shows it", "is sober and reserved", "cheerful"),
    ),
    Trait.AGREEABLENESS: (
        _facet("trust", "believes in others' good intentions", "suspects hidden motives", "trust distrust mistrust"),
        _facet("morality", "is frank and plays fair", "flatters and cheats to get ahead", "moral immoral"),
        _facet("altruism", "finds joy in helping", "finds others' needs a burden", "altruis selfless selfish"),
        _facet("cooperation", "gives way to keep the peace", "fights to win", "cooperat co-operat uncooperat"),
        _facet("modesty", "makes little of own merits", "thinks of self as better than others", "modest immodest"),
        _facet("sympathy", "feels with those who suffer", "judges coolly", "sympath compassion empath"),
    ),
    Trait.NEUROTICISM: (
        _facet("anxiety", "expects the worst", "sees no danger", "anxi"),
        _facet("anger", "is easily irritated", "is hard to annoy", "anger angr"),
        _facet("depression", "often feels sad and worthless", "is content with self", "depress"),
        _facet("self-consciousness", "fears what others think", "does not mind being watched", "self-conscious"),
        _facet("immoderation", "gives in to cravings", "resists cravings easily", "immoderat"),
        _facet("vulnerability", "panics under pressure", "stays clear-headed", "vulnerab"),
    ),
}

# Words that name a trait, as beginnings of words. "open" and "closed" are also doors; only their trait senses count.
TRAIT_STEMS: dict[Trait, tuple[str, ...]] = {
    Trait.OPENNESS: ("openness", "open-mind", "closed-mind", "close-mind", "narrow-mind"),
    Trait.CONSCIENTIOUSNESS: ("conscientious", "unconscientious"),
    Trait.EXTRAVERSION: ("extraver", "extrover", "introver"),
    Trait.AGREEABLENESS: ("agreeab", "disagreeab"),
    Trait.NEUROTICISM: ("neurotic", "calm", "emotionally stable", "emotional stability"),
}
TEST_STEMS = (
    "personalit",
    "big five",
    "ocean model",
    "traits",
    "character trait",
)  # words that betray a personality test

TOPICS: tuple[str, ...] = (
    "a shared kitchen",
    "a group project",
    "a long train journey",
    "a wedding among strangers",
    "a broken household machine",
    "a birthday nobody planned",
    "a new neighbour",
    "a delayed flight",
    "a family dinner",
    "a job interview",
    "a lost wallet",
    "a school reunion",
    "a rainy weekend",
    "an unexpected bill",
    "a colleague's mistake",
    "a museum visit",
    "a sports team",
    "a pet that is ill",
    "moving to another town",
    "learning an instrument",
    "a queue at the post office",
    "a disagreement about money",
    "a message left unanswered",
    "a restaurant with unknown dishes",
    "a night drive",
    "an online discussion",
    "a public speech",
    "a friend in trouble",
    "a garden or balcony",
    "a deadline tomorrow",
    "a film everybody praises",
    "a children's party",
    "a visit to the doctor",
    "a rumour at work",
    "a free afternoon",
    "a holiday with others",
    "a second-hand purchase",
    "a local election",
    "a volunteer day",
    "a power cut",
)
