# SPDX-License-Identifier: Apache-2.0
"""The strings that tokenizers are compared on: many scripts, and what breaks tokenizers.

A string follows from its number and the seed alone, so that a report can name it and anyone can make it again.
"""

from __future__ import annotations

import hashlib
import json
import random
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, TypeAlias, TypeVar

Item = TypeVar("Item")
Make: TypeAlias = "Callable[[random.Random], str]"

DEFAULT_COUNT = 4000
_SCRIPTS: Mapping[str, str | tuple[int, int]] = {
    "Latin": "aäáàbcçdðeéèfgğhiıíìjklłmnñoöøópqrsşßtþuüúvwxyzæœ",
    "Greek": "αάβγδεέζηήθιίκλμνξοόπρσςτυύφχψωώ",
    "Cyrillic": "абвгґдеёєжзиіїйклмнопрстуўфхцчшщъыьэюя",
    "Armenian": (0x561, 0x586),
    "Hebrew": (0x5D0, 0x5EA),
    "Arabic": (0x621, 0x64A),
    "Syriac": (0x710, 0x72C),
    "Thaana": (0x780, 0x7A5),
    "N'Ko": (0x7CA, 0x7EA),
    "Devanagari": (0x904, 0x94D),
    "Bengali": (0x985, 0x9B9),
    "Gurmukhi": (0xA05, 0xA39),
    "Gujarati": (0xA85, 0xAB9),
    "Oriya": (0xB05, 0xB39),
    "Tamil": (0xB85, 0xBCD),
    "Telugu": (0xC05, 0xC4D),
    "Kannada": (0xC85, 0xCCD),
    "Malayalam": (0xD05, 0xD4D),
    "Sinhala": (0xD85, 0xDC6),
    "Thai": (0xE01, 0xE4E),
    "Lao": (0xE81, 0xECD),
    "Tibetan": (0xF40, 0xF7E),
    "Myanmar": (0x1000, 0x103F),
    "Georgian": (0x10D0, 0x10FA),
    "Ethiopic": (0x1200, 0x135A),
    "Cherokee": (0x13A0, 0x13F4),
    "Khmer": (0x1780, 0x17D3),
    "Mongolian": (0x1820, 0x1877),
    "Hiragana": (0x3041, 0x3096),
    "Katakana": (0x30A1, 0x30FA),
    "Han": (0x4E00, 0x9FA5),
    "Hangul": (0xAC00, 0xD7A3),
    "Jamo": (0x1100, 0x11FF),
    "Gothic": (0x10330, 0x1034A),
    "Cuneiform": (0x12000, 0x120FF),
    "Rare Han": (0x20000, 0x200FF),
}
_EMOJI = ("😀", "👍🏽", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇨🇭", "1️⃣", "☃️", "❤", "🫠", "🧑🏿‍🚀", "🇺🇳🇺🇳", "\U0001f9d1\u200d")
_SPACES = (
    " ",
    "  ",
    "\t",
    "\n",
    "\r\n",
    "\u00a0",
    "\u2009",
    "\u200b",
    "\u3000",
    "\u2028",
    "\u2029",
    "\u0085",
    "\u1680",
)
_CONTROLS = (
    "\x00",
    "\x01",
    "\x07",
    "\x1b",
    "\x7f",
    "\x9f",
    "\ufeff",
    "\ufffd",
    "\ufffe",
    "\u200e",
    "\u202e",
    "\u2066",
    "\u00ad",
)
_MARKS = ("\u0301", "\u0308", "\u0327", "\u20d7", "\u0345", "\u0483", "\u3099", "\ufe0f", "\u200d")
_ODD = (
    "İstanbul",
    "ſtraße",
    "ΌΔΟΣ",
    "ﬁnance",
    "Ａｂｃ１２",
    "½ ¾ ⅓",
    "①②③",
    "ⅫⅣ",
    "㍿",
    "ǅ",
    "ẞ",
    "İI ıi",
    "\ue000\uf8ff",
    "\U000e0041",
    "\U0010ffff",
)
_WORDS = (
    "the cat sat on a mat",
    "don't",
    "it's John's",
    "we'll they've",
    "e-mail",
    "C++",
    "3.14159",
    "1,000,000.00",
    "-273.15°C",
    "https://example.org/a?b=c&d=%20#e",
    "user@example.com",
    "#tag @name",
    "2026-11-30T03:40:00Z",
    "$9.99 €5 ¥100",
    "def f(x):\n    return x**2",
    "<b>bold</b>",
    '{"a": [1, null]}',
    "AAAAAAAAAA",
    "supercalifragilisticexpialidocious",
    "...",
    "—–-",
    "“quoted”",
    "‘x’",
    "¿qué?",
    "ＨＥＬＬＯ",
)
_TOKENS = (
    "[CLS]",
    "[SEP]",
    "[PAD]",
    "[MASK]",
    "[UNK]",
    "<s>",
    "</s>",
    "<pad>",
    "<mask>",
    "<unk>",
    "<|endoftext|>",
    "▁",
    "Ġ",
    "##ing",
    "</w>",
)
_FORMS: tuple[Literal["NFC", "NFD", "NFKC", "NFKD"], ...] = ("NFC", "NFD", "NFKC", "NFKD")


def draw_strings(count: int, seed: int = 0, tokens: Sequence[str] = ()) -> Iterator[str]:
    """Yield `count` strings: a few fixed ones first, then drawn ones. `tokens` are texts special to a tokenizer."""
    special = (*_TOKENS, *(token for token in tokens if token))
    fixed = [*_fixed(), *special, *_ODD, *_WORDS]
    makers = _makers(special)
    for number in range(count):
        if number < len(fixed):
            yield fixed[number]
        else:
            draw = random.Random(f"{seed}/{number}")  # noqa: S311 - not for secrets, and seeded
            yield makers[number % len(makers)](draw)


def found_texts(
    encode: Callable[[str], Sequence[int]], decode: Callable[[Sequence[int]], str], count: int, tokens: Sequence[str]
) -> list[str]:
    """Return what a tokenizer makes of each of `count` strings, short: the number of ids, and a digest of both ways."""
    found = []
    for text in draw_strings(count, tokens=tokens):
        ids = list(map(int, encode(text)))
        both = json.dumps([ids, decode(ids)], ensure_ascii=True)
        found.append(f"{len(ids)} ids {hashlib.sha256(both.encode()).hexdigest()[:16]}")
    return found


def _fixed() -> list[str]:
    return [
        "",
        " ",
        "\n",
        "\t \t",
        "\x00",
        "a",
        "é",
        "e\u0301",
        "東京",
        "🙂",
        "a" * 300,
        "word " * 2000,
        "ab" * 5000,
        "x" * 20000,
        "\u0301" * 500,
        "\U0001f468\u200d" * 400,
        "١٢٣٤٥",
        "0" * 999,
        ". " * 600,
        "\u202eabc\u202c",
    ]


def _makers(special: Sequence[str]) -> list[Make]:
    of_scripts: list[Make] = [_script(name) for name in _SCRIPTS]
    others: list[Make] = [
        lambda draw: _joined(draw, _EMOJI, 1, 9),
        lambda draw: _joined(draw, _CONTROLS + _WORDS, 2, 8),
        lambda draw: _joined(draw, _SPACES + _WORDS, 2, 12),
        lambda draw: _joined(draw, (*special, *_WORDS, " "), 2, 8),
        lambda draw: _joined(draw, _ODD + _WORDS, 1, 6),
        lambda draw: "".join(character + _draw(draw, _MARKS) for character in _script_word(draw)),
        lambda draw: unicodedata.normalize(_draw(draw, _FORMS), _sentence(draw)),
        _anything,
        lambda draw: _draw(draw, (str.upper, str.title, str.swapcase))(_sentence(draw)),
        lambda draw: " ".join(_sentence(draw) for _ in range(draw.randint(2, 60))),
        lambda draw: (
            _draw(draw, _SPACES) * draw.randint(0, 3) + _sentence(draw) + _draw(draw, _SPACES) * draw.randint(0, 3)
        ),
        lambda draw: str(draw.randint(-(10**9), 10 ** draw.randint(1, 30))) + _draw(draw, _WORDS),
    ]
    return [make for pair in zip(of_scripts, others * 3, strict=True) for make in pair]


def _draw(draw: random.Random, choices: Sequence[Item]) -> Item:
    return choices[draw.randrange(len(choices))]


def _joined(draw: random.Random, parts: Sequence[str], least: int, most: int) -> str:
    return "".join(_draw(draw, parts) + _draw(draw, ("", " ")) for _ in range(draw.randint(least, most)))


def _script(name: str) -> Make:
    return lambda draw: " ".join(_word(draw, name) for _ in range(draw.randint(1, 12)))


def _word(draw: random.Random, name: str) -> str:
    letters = _SCRIPTS[name]
    length = draw.randint(1, 12)
    if isinstance(letters, str):
        return "".join(_draw(draw, letters) for _ in range(length))
    return "".join(chr(draw.randint(*letters)) for _ in range(length))


def _script_word(draw: random.Random) -> str:
    return _word(draw, _draw(draw, tuple(_SCRIPTS)))


def _sentence(draw: random.Random) -> str:
    return _draw(draw, (" ", ", ", " - ", "")).join(_script_word(draw) for _ in range(draw.randint(1, 6)))


def _anything(draw: random.Random) -> str:
    """Return characters from all of Unicode but surrogates, which no text can hold."""
    points = (
        draw.choice((draw.randrange(0xD800), draw.randrange(0xE000, 0x110000))) for _ in range(draw.randint(1, 40))
    )
    return "".join(map(chr, points))
