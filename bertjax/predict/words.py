"""Words of running text with their places, as the data sets of entities have them.

White space parts words. A run of letters, digits and what belongs to them (accents that stand alone, vowel signs,
joiners, low lines) is a word; every other character is one of its own, and so is each Chinese or Japanese one, since
those data sets label characters.
"""

import unicodedata

# Where writing has no spaces between words: ideographs, kana.
_ALONE = (
    (0x3040, 0x30FF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFD),
)


def words_of(text: str) -> list[tuple[int, int]]:
    """Where each word begins and ends."""
    found: list[tuple[int, int]] = []
    open_word = False  # whether the last word may go on
    for place, character in enumerate(text):
        category = unicodedata.category(character)
        alone = any(first <= ord(character) <= last for first, last in _ALONE)
        if character.isspace():
            open_word = False
        elif category in ("Mn", "Mc", "Me", "Cf") and found and found[-1][1] == place:
            found[-1] = found[-1][0], place + 1  # goes with what it stands on, be that a word or an emoji
        elif open_word and not alone and (category[0] in "LN" or character == "_"):
            found[-1] = found[-1][0], place + 1
        else:
            found.append((place, place + 1))
            open_word = not alone and (category[0] in "LNM" or character == "_")
    return found
