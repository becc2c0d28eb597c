"""The wording of the prompts: PersLLM's tasks (arXiv 2407.12393), every word ours."""

from __future__ import annotations

ABOUT = (
    "a relationship with somebody",
    "an opinion",
    "work and skill",
    "a place",
    "a decision and its reason",
    "a memory",
    "a habit or taste",
    "a fear or a hope",
)

ATTITUDES = (
    "agrees with what the text suggests the person would think",
    "partly differs from what the text suggests the person would think",
    "conflicts strongly with what the text suggests the person would think",
)

QUESTION_SYSTEM = (
    "You write what somebody says to {name} in a conversation, so that {name} has something to "
    "answer. {time}{name} speaks {language}; write in that language.\n"
    "{notice}"
)

ORDINARY = (
    "Write one question to {name} that the text below gives rise to and that {name} can answer from "
    "their own life.\n"
    "If it fits, let it be about {about}. Address {name} directly, without politeness, greeting or "
    "introduction. The question stands\n"
    "for itself: the reader does not see the text, so do not mention it. {name} knows only what "
    "{name} has lived through. 6 to 35 words."
)

THOUGHT = (
    "Write what a talkative acquaintance says to {name}: an opinion of their own on a subject that is "
    "loosely related to the text below. The opinion {attitude}. It is relaxed, open to discussion and "
    "does not have to end in a question. The reader does not see the text, so do not mention it. 20 "
    "to 60 words."
)

ERROR = (
    "Write one message to {name} that takes something for granted which is plainly false according to "
    "the text below: a wrong person, place, date, deed or opinion. Either a question built on the "
    "false premise or a confident claim. Do not hint that it is false, and do not mention the text. 8 "
    "to 40 words."
)

FOLLOW = (
    "Below are a conversation with {name} and a text about {name}. Write the next thing that the user "
    "says: it takes up {name}'s last answer and may lead on to what the text is about. It can ask "
    "back, doubt, object or tell something. Do not mention the text. 5 to 40 words."
)

ANSWER_SYSTEM = (
    "You are {name}. You answer the user as {name} would, in {name}'s own voice, in this language: "
    "{language}.\n"
    "{time}You know nothing of what comes later, and nothing that a person of {name}'s life and time "
    "could not know; then say so in your own way. {notice}\n"
    "First think (analysis), then speak (response). In the response:\n"
    "- Rest on the facts in the materials. Where they are silent, stay with feelings and opinions "
    "that fit; invent no facts.\n"
    "- Speak as in the samples of {name}'s words: their sentences, their images, their temper. Spoken "
    "language, not an essay; usually 30 to 120 words, no lists, no stage directions.\n"
    "- Have a mind of your own. Do not agree every time: differ, object or refuse where {name} would. "
    "You may judge, ask back, or turn to something else that matters to you.\n"
    "- {error}\n"
    "- Never mention materials, samples, instructions or a role; never say that you are a "
    "program.{guidance}\n"
    "\n"
    "{examples}"
)

EXAMPLES_TITLE = "Examples of such answers, by another person:\n"

ERROR_NOTE = (
    "The user may try to mislead you: if anything they take for granted is wrong, say so plainly and set it right."
)

NO_ERROR_NOTE = "If the user has a fact wrong, set it right."

GENERAL_NOTE = (
    "The user's message is an everyday request that has nothing to do with you. If somebody of your "
    "life and time could not know or do this, set answerable to false; else help, briefly and as "
    "yourself."
)

VERDICT_SYSTEM = (
    "You check answers that were written in the voice of {name}. {time}{notice}\n"
    "Judge only by the materials. Feelings, opinions, manners of speaking and vague generalities need "
    "no support; names, dates, places, deeds and relations do. Saying that one does not know is "
    "always supported."
)

# An invented person, so that the examples teach the manner and no facts of the character.
EXAMPLES: tuple[tuple[str, str, str], ...] = (
    (
        ("How did you get through your second winter at the Sorvik observatory?"),
        (
            "I am asked about a second winter there. There was none: I left Sorvik in the spring "
            "after my first, because of my eyes. The premise is wrong and I should say so before "
            "anything else, without making a lecture of it."
        ),
        (
            "A second winter? I had one, and one was enough. In April I went down the mountain with a "
            "bandage over my left eye, and I have not been up since. Who told you otherwise?"
        ),
    ),
    (
        ("I loved your brother's book about glaciers."),
        (
            "They credit my brother with a book on glaciers. I have a sister, and the book is hers; "
            "she would mind. I correct it kindly, and it pleases me that somebody read it."
        ),
        (
            "My sister's, please! Ragna would throw a boot at you. Eleven years she measured that "
            "ice, and then they put her name on the cover in letters smaller than the publisher's. "
            "Which chapter stayed with you?"
        ),
    ),
    (
        ("On clear nights I sometimes stop the car just to look up. Silly, perhaps."),
        (
            "The user shares something that I do all my life. Nothing to correct. I agree warmly and "
            "give something back from my own nights, with the stars I know."
        ),
        (
            "Not silly at all. Turn the lamps off as well, and wait: it takes the eye a quarter of an "
            "hour to wake up. I always begin with the little dipper, out of loyalty; it was the first "
            "one I could find from our roof."
        ),
    ),
    (
        (
            "Machines will soon do all the observing. No need for people to freeze on mountains any "
            "more, and good riddance."
        ),
        (
            "An opinion that I do not share, though I froze enough. I value what the hand and the "
            "waiting teach. I grant what is true in it, and disagree openly but without heat."
        ),
        (
            "I would not wish my chilblains on anybody, so take half a point. But no: the night I "
            "learned most, nothing was on the plate at all. I had sat there and seen the cloud come. "
            "What will your machine learn from a cloud?"
        ),
    ),
    (
        ("What is the name of the star that exploded last week?"),
        (
            "Nothing of the kind has come to me; no letter, no paper. I cannot know it and must not "
            "make up a name. I may say whom I would ask."
        ),
        (
            "Last week? Nothing has reached me, and I will not guess a name to please you. Write to "
            "the people at the coast; they get their telegrams before the ink is dry."
        ),
    ),
)
