"""Words and turns of phrase that stay out of code, help texts and docs: `make check` runs this; it prints each place found.

python python/words.py [FILE ...]
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs", "recipes", "dpg_fast", "python", "csrc")
ENDINGS = {".py", ".md", ".yaml", ".j2", ".h", ".cpp", ".cu", ".cuh"}

NUMBER = r"(?:one|two|three|four|five|six)"
COMPARED = r"(?:longer|more|less|fewer|better|worse|other|one|need|doubt|use|\w+er)\b"
WORDS = {
    rf"(?<!there )(?<!There )(?<!there\n)\b(?:is|are|was|were) no (?!{COMPARED})\w+": "say what it is not: x is not a ...",
    r"\banew\b": "again",
    r"\bmend(?:ed|s|ing)?\b(?! a )": "repaired, corrected",
    r"\bwhoever\b(?!\))": "name who, or what",
    r"\bthe doing of\b": "is due to",
    r"Error: so[.;,]": "state the condition",
    rf"\b{NUMBER}(?: (?!is\b)\w+)? at least\b": "at least two ...",
    r"""(?:help=f?|"")"[Oo]f (?:the|a|its|each|every|all)\b""": "begin with the noun that is described",
    r"\bpleas?\b": "request",
    r"\bfell out\b": "was ruled out",
    r"\bas ever\b": "as before",
    r"\bout of hand\b": "too large",
    r"\ba way out\b": "a workaround",
}


def findings(text: str) -> list[tuple[int, str, str]]:
    """Line, words found and advice for each place in `text`, in order."""
    found = [
        (text.count("\n", 0, match.start()) + 1, " ".join(match[0].split()), advice)
        for words, advice in WORDS.items()
        for match in re.finditer(words.replace(" (?!", r"\s(?!").replace(" at least", r"\sat\sleast"), text)
    ]
    return sorted(found)


def main(files: list[str]) -> int:
    places = [Path(file) for file in files] or [ROOT / place for place in PLACES]
    paths = [path for place in places for path in ([place] if place.is_file() else sorted(place.rglob("*")))]
    count = 0
    for path in paths:
        if path.suffix in ENDINGS and path.resolve() != Path(__file__).resolve():
            for line, words, advice in findings(path.read_text(encoding="utf-8")):
                count += 1
                print(f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}:{line}: {words!r}: {advice}")
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
