"""The judge's answer in the text of a reply: which object is the model's own, and harmless variants of how it is written.

The answer is what stands after the last closed thinking block. It has to be the only object there that resembles the wanted
form, and must not stand in the text under judgement: a quoted or injected object is never chosen because it happens to be
valid where the model's own is not. Whatever leaves a doubt is unreadable, which asks the model once more.

Why: docs/decisions.md, "An object beside the answer is a reason to ask again, not a candidate".
"""

from __future__ import annotations

import json
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

T = TypeVar("T", bound=BaseModel)

_OPEN = re.compile(r"<(?:think|thinking|thought|reasoning|seed:think)>|\[THINK\]|◁think▷", re.IGNORECASE)
_CLOSE = re.compile(
    r"</(?:think|thinking|thought|reasoning|seed:think)>|\[/THINK\]|◁/think▷|<\|channel\|>final<\|message\|>",
    re.IGNORECASE,
)
_BLOCK = re.compile(r"\s*```[\w-]*\s*\n?(.*?)```\s*", re.DOTALL)
_SPACE = re.compile(r"(?:[\s\ufeff\u200b]|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\w.])")
_WORDS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}
_WORD = re.compile(r"(?:true|false|null|True|False|None)(?!\w)")
_WHOLE = re.compile(r"[+-]?\d+(?:\.0+)?")
_DEEPEST = 50
_LONGEST_NUMBER = 100
_SHOWN = 5


class UnreadableReply(ValueError):
    """A reply that is not exactly one object of the wanted form; the text says what is wrong with it.

    Attributes:
        no_object: whether it holds nothing that looks like JSON at all.
    """

    def __init__(self, problem: str, no_object: bool = False) -> None:
        super().__init__(problem)
        self.no_object = no_object


def read_reply(model: type[T], text: str, asked: Sequence[str] = ()) -> T:
    """The one object of ``model`` that is the answer in ``text``.

    It may stand alone, in a code fence or between sentences. Accepted are also numbers and null in quotation marks, other case
    of keys and of words that the form lists, a sign before a number, commas at the end, comments, line breaks in strings, the
    object wrapped once or in a string, one text or null where a list of texts is wanted, and more texts than the list holds.

    Args:
        asked: the texts of the question; an object that stands there too is a quotation.

    Raises:
        UnreadableReply: there is no such object, or one cannot be sure that it is the answer.
    """
    whole = _whole(text)
    if whole is None:
        text = _after_thinking(text)
        whole = _whole(text)
    spans = [whole] if whole is not None else list(_objects(text))
    answers: list[tuple[T, str]] = []
    problem, last_is_answer = "the reply holds no JSON object", False
    for start, end, value in spans:
        value = _unwrapped(model, value)
        last_is_answer = False
        if not _resembles(model, value):
            problem = _missing(model)
            continue
        try:
            found = model.model_validate(_coerced(model, value))
        except ValidationError as error:
            raise UnreadableReply(_explain(error)) from None
        answers.append((found, text[start:end]))
        last_is_answer = True
    if not answers:
        raise UnreadableReply(problem, no_object=not spans and "{" not in text)
    (answer, source), others = answers[0], [found for found, _ in answers[1:]]
    different = 1 + sum(found not in [answer, *others[:i]] for i, found in enumerate(others))
    if different > 1:
        raise UnreadableReply(f"the reply holds {different} different valid objects; exactly one is wanted")
    if not last_is_answer or _mentions(model, _outside(text, spans)):
        raise UnreadableReply("beside the object stands another one, or part of one; exactly one is wanted")
    if _quoted(source, answer, asked):
        raise UnreadableReply("the object is a quotation of the text under judgement, not an answer")
    return answer


# --- which part of the text ---


def _after_thinking(text: str) -> str:
    ends = [found.end() for found in _CLOSE.finditer(text)]
    text = text[ends[-1] :] if ends else text
    if _OPEN.search(text):
        raise UnreadableReply("the reply ends inside its thinking; give the answer after it")
    return text


def _whole(text: str) -> tuple[int, int, Any] | None:
    """The object that ``text`` is, if it is nothing else but a fence around it, or a string that holds it."""
    fenced = _BLOCK.fullmatch(text)
    start, stop = fenced.span(1) if fenced is not None else (0, len(text))
    try:
        value, end = _value(text, _skip(text, start), 0)
        if isinstance(value, str):
            inner = value
            value, last = _value(inner, _skip(inner, 0), 0)
            if _skip(inner, last) < len(inner):
                return None
    except _NotJSON:
        return None
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return (start, stop, value) if isinstance(value, dict) and _skip(text, end) >= stop else None


def _objects(text: str) -> Iterator[tuple[int, int, Any]]:
    """The outermost JSON objects written in ``text``, each with where it begins and ends."""
    start = text.find("{")
    while start >= 0:
        try:
            value, end = _value(text, start, 0)
        except _NotJSON:
            end = start + 1
        else:
            yield start, end, value
        start = text.find("{", end)


def _outside(text: str, spans: Sequence[tuple[int, int, Any]]) -> list[str]:
    ends = [0, *(end for _, end, _ in spans)]
    starts = [*(start for start, _, _ in spans), len(text)]
    return [text[end:start] for end, start in zip(ends, starts, strict=True)]


def _mentions(model: type[BaseModel], parts: Sequence[str]) -> bool:
    """Whether a part of another object, or a value of the form in words, stands in the text around the objects."""
    names = "|".join(re.escape(name).replace("_", "[_ ]") for name in sorted(_names(model)))
    quoted = rf"[\"'`“”‘’\\]\s*(?:{names})\s*[\"'`“”‘’\\]+\s*:"
    valued = rf"(?<!\w)(?:{names})\W{{0,4}}(?:[:=]|\bis\b|\bof\b)\W{{0,4}}\d"
    found = re.compile(f"{quoted}|{valued}", re.IGNORECASE)
    return any(found.search(part) for part in parts)


def _quoted(source: str, answer: BaseModel, asked: Sequence[str]) -> bool:
    texts = [_letters(text) for text in asked if "{" in text]
    written = (_letters(source), _letters(answer.model_dump_json()))
    return any(form in text for text in texts for form in written)


def _letters(text: str) -> str:
    return "".join(character for character in text.casefold() if character.isalnum() or character in "+-")


# --- JSON as models write it ---


class _NotJSON(ValueError):
    """No JSON begins here."""


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()


def _value(text: str, at: int, depth: int) -> tuple[Any, int]:
    """The JSON value that begins at ``at``, and where it ends.

    Raises:
        _NotJSON: there is none.
        UnreadableReply: a key stands twice in an object, with different values.
    """
    if depth > _DEEPEST:
        raise _NotJSON
    if text.startswith("{", at):
        return _members(text, at + 1, depth)
    if text.startswith("[", at):
        return _elements(text, at + 1, depth)
    if found := _STRING.match(text, at):
        try:
            return json.loads(found.group(), strict=False), found.end()
        except ValueError:
            raise _NotJSON from None
    if found := _NUMBER.match(text, at):
        number = found.group()
        if len(number) > _LONGEST_NUMBER:  # more than Python converts
            raise _NotJSON
        return (float(number) if re.search(r"[.eE]", number) else int(number)), found.end()
    if found := _WORD.match(text, at):
        return _WORDS[found.group()], found.end()
    raise _NotJSON


def _members(text: str, at: int, depth: int) -> tuple[dict[str, Any], int]:
    found: dict[str, Any] = {}
    at = _skip(text, at)
    while not text.startswith("}", at):
        name = _STRING.match(text, at)
        colon = _skip(text, name.end()) if name else at
        if name is None or not text.startswith(":", colon):
            raise _NotJSON
        key, _ = _value(text, at, depth + 1)
        value, at = _value(text, _skip(text, colon + 1), depth + 1)
        if key in found and found[key] != value:
            raise UnreadableReply(f"{key!r} stands twice in the object, with different values")
        found[key] = value
        at = _after_comma(text, at, "}")
    return found, at + 1


def _elements(text: str, at: int, depth: int) -> tuple[list[Any], int]:
    found: list[Any] = []
    at = _skip(text, at)
    while not text.startswith("]", at):
        value, at = _value(text, at, depth + 1)
        found.append(value)
        at = _after_comma(text, at, "]")
    return found, at + 1


def _after_comma(text: str, at: int, end: str) -> int:
    at = _skip(text, at)
    if text.startswith(",", at):
        return _skip(text, at + 1)
    if not text.startswith(end, at):
        raise _NotJSON
    return at


# --- the form ---


@cache
def _names(model: type[BaseModel]) -> frozenset[str]:
    """Names of the form's fields and of those inside them."""
    found = set(model.model_fields)
    for field in model.model_fields.values():
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                found |= _names(part)
    return frozenset(found)


def _key(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).casefold()


def _resembles(model: type[BaseModel], value: Any) -> bool:
    own = {_key(name) for name in model.model_fields}
    return isinstance(value, dict) and any(_key(name) in own for name in value)


def _unwrapped(model: type[BaseModel], value: Any) -> Any:
    """What is inside an object of one member that is not the form's."""
    if isinstance(value, dict) and len(value) == 1:
        (inner,) = value.values()
        if not _fits(model, value) and _resembles(model, inner):
            return inner
    return value


def _fits(model: type[BaseModel], value: Mapping[str, Any]) -> bool:
    try:
        model.model_validate(_coerced(model, value))
    except (ValidationError, UnreadableReply):
        return False
    return True


def _coerced(model: type[BaseModel], value: Any) -> Any:
    """``value`` with the form's own spelling of keys and values, where only one thing can be meant."""
    if not isinstance(value, Mapping):
        return value
    own = {_key(name): name for name in model.model_fields}
    found: dict[str, Any] = {}
    for given, content in value.items():
        name = str(own.get(_key(given), given))
        if name in found and found[name] != content:
            raise UnreadableReply(f"{name!r} stands twice in the object, with different values")
        found[name] = content
    for name, field in model.model_fields.items():
        if name in found:
            found[name] = _as(field.annotation, field.metadata, found[name])
    return found


def _as(wanted: Any, metadata: Sequence[Any], value: Any) -> Any:
    origin, parts = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        if type(None) in parts and (
            value is None or (isinstance(value, str) and value.strip().casefold() in ("null", "none"))
        ):
            return None
        others = [part for part in parts if part is not type(None)]
        return _as(others[0], metadata, value) if len(others) == 1 else value
    if origin is Literal:
        return _listed(parts, value)
    if wanted in (int, float):
        return _number(value)
    if origin is list:
        return _texts(value, metadata) if parts == (str,) else _all(value, parts[0])
    if isinstance(wanted, type) and issubclass(wanted, BaseModel):
        return _coerced(wanted, value)
    return value


def _all(value: Any, each: Any) -> Any:
    return [_as(each, (), item) for item in value] if isinstance(value, list) else value


def _texts(value: Any, metadata: Sequence[Any]) -> Any:
    if value is None or isinstance(value, str):
        return [value] if value else []
    most = min((item.max_length for item in metadata if getattr(item, "max_length", None) is not None), default=None)
    return value[:most] if isinstance(value, list) else value


def _listed(choices: Sequence[Any], value: Any) -> Any:
    if all(isinstance(choice, int) for choice in choices):
        return _number(value)
    if isinstance(value, str):
        alike = [choice for choice in choices if str(choice).casefold() == value.strip().casefold()]
        return alike[0] if len(alike) == 1 else value
    return value


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value)  # true is not 1
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        return int(float(value))
    return value


def _missing(model: type[BaseModel]) -> str:
    return f"no object has the keys {', '.join(model.model_fields)}"


def _explain(error: ValidationError) -> str:
    parts = []
    for item in error.errors(include_url=False, include_context=False)[:_SHOWN]:
        where = ".".join(str(part) for part in item["loc"])
        parts.append(f"{where}: {item['msg']}" if where else item["msg"])
    return "; ".join(parts)
