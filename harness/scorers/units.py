"""Units behind a number: `5\\text{ cm}`, `\\$18.90`, `12 dollars`, `30%`."""

from __future__ import annotations

import re

# The first name of each line is what the others are called here.
_NAMES = """
cm centimeter centimeters centimetre centimetres
mm millimeter millimeters
km kilometer kilometers
m meter meters metre metres
in inch inches
ft foot feet
yd yard yards
mi mile miles
mph
s sec second seconds
min minute minutes
h hr hour hours
day days
week weeks
month months
year years
$ dollar dollars usd
cent cents
degree degrees deg
% percent
g gm gram grams
kg kilogram kilograms
lb lbs pound pounds
l liter liters litre litres
ml milliliter milliliters
unit units
"""
_CANONICAL = {
    name: line.split()[0] for line in _NAMES.strip().splitlines() for name in line.split()
}
_FREE = frozenset(["unit", "degree"])
_BARE_NAMES = "|".join(
    sorted((re.escape(name) for name in _CANONICAL if len(name) > 1), key=len, reverse=True)
)
_EXPONENT = r"(?:\s*\^\s*(?:\{?\s*[23]\s*\}?))?"
_QUOTED = re.compile(
    rf'(.*[^\s"(\[{{,=+*/-])\s*"([^"]*)"\s*{_EXPONENT}\s*(?:"[^"]*"\s*{_EXPONENT})?'
)
_BARE = re.compile(
    rf"(.*[\d)}}\]i])\s*(?:(?:square|cubic|sq)\s+)?\b({_BARE_NAMES})\b\.?{_EXPONENT}"
)
_NOUN = re.compile(r"([-+]?[\d.,/]+)\s+([A-Za-z]{3,}(?:\s+[A-Za-z]+)*)")
# What stands behind a number and changes it.
_SCALES = re.compile(
    r"\b(?:hundred|thousand|million|billion|trillion|dozen|th|st|nd|rd|[ap]\.?m)\b|over"
)


def split_unit(text: str) -> tuple[str, str]:
    """The text without its unit, and the unit's name here ('' for none or one not known).

    >>> split_unit('5" cm"^2'), split_unit("$18.90"), split_unit("30%"), split_unit("12 apples")
    (('5', 'cm'), ('18.90', '$'), ('30', '%'), ('12', ''))
    """
    text = text.strip()
    if "$" in text:
        return text.replace("$", ""), "$"
    if text.endswith("%"):
        return text[:-1], "%"
    match = _QUOTED.fullmatch(text) or _BARE.fullmatch(text) or _NOUN.fullmatch(text)
    if match is None or _SCALES.search(match[2]):
        return text, ""
    return match[1], unit_name(match[2])


def unit_name(words: str) -> str:
    for word in words.lower().replace(".", " ").split():
        if word in _CANONICAL:
            return "" if _CANONICAL[word] in _FREE else _CANONICAL[word]
    return ""
