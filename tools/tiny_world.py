"""The tiny world: a seeded set of facts and a grammar that tells them in English, without end.

People, towns, inns and books have attributes; each (entity, attribute, value) is one fact, drawn once from the seed. A
document tells a few facts about an entity, follows a relation to another one, or mixes facts. What a sentence says
after its subject can only be known from the facts, so a model that has forgotten them predicts badly.

Every attribute has six phrasings. For each fact, a hash keeps one of them for the test text and one for the validation
text; training uses the other four. So training tells every fact, but never in the words of the test text (but for a few
jobs, where the answer of a question is the plain sentence).
"""

import hashlib
import random
from dataclasses import dataclass, field
from typing import Iterator

import tiny_words as words

SPLITS = ("test", "valid", "train")
COUNTS = {"person": 160, "town": 32, "inn": 40, "book": 40}  # 3,136 facts: 160 × 16 + 32 × 8 + 40 × 4 + 40 × 4
PHRASINGS = {"person": words.PERSON, "town": words.TOWN, "inn": words.INN, "book": words.BOOK}
# Words after which a pronoun takes its object form ("find her", "of him").
OBJECT_BEFORE = ("find", "for", "of", "makes", "know")


@dataclass
class Entity:
    kind: str  # person, town, inn or book
    name: str
    pronoun: str = "it"  # she, he or it
    facts: dict[str, str] = field(default_factory=dict)  # attribute -> value


def stable_hash(*parts: str) -> int:
    """A hash that is the same in every process and Python version (64 bits)."""
    return int.from_bytes(hashlib.blake2b("|".join(parts).encode(), digest_size=8).digest(), "little")


def pairs(rng: random.Random, first: list[str], second: list[str], count: int, pattern: str) -> list[str]:
    """`count` different names made of a word of each list."""
    return rng.sample([pattern.format(a, b) for a in first for b in second], count)


class World:
    """All entities and their facts; equal seeds give equal worlds."""

    def __init__(self, seed: int):
        rng = random.Random(f"world {seed}")
        half = COUNTS["person"] // 2
        women = pairs(rng, words.WOMEN, words.SURNAMES, half, "{} {}")
        men = pairs(rng, words.MEN, words.SURNAMES, half, "{} {}")
        people = [Entity("person", n, "she") for n in women] + [Entity("person", n, "he") for n in men]
        towns = [Entity("town", n) for n in pairs(rng, words.TOWN_STARTS, words.TOWN_ENDS, COUNTS["town"], "{}{}")]
        inns = [Entity("inn", n) for n in pairs(rng, words.INN_STARTS, words.INN_ENDS, COUNTS["inn"], "the {} {}")]
        books = [Entity("book", n) for n in pairs(rng, words.TITLE_STARTS, words.TITLE_ENDS, COUNTS["book"], "{} {}")]
        self.entities = people + towns + inns + books
        self.by_name = {e.name: e for e in self.entities}
        names, places = [p.name for p in people], [t.name for t in towns]
        for entity in self.entities:
            entity.facts = self._facts(rng, entity, names, places)
        self.weights = [len(e.facts) for e in self.entities]  # every fact is told about equally often

    def _facts(self, rng: random.Random, entity: Entity, names: list[str], places: list[str]) -> dict[str, str]:
        one, person = rng.choice, lambda: rng.choice([n for n in names if n != entity.name])
        if entity.kind == "person":
            return {
                "town": one(places), "birthplace": one(places), "year": str(rng.randint(1800, 1899)),
                "birthday": f"{rng.randint(1, 28)} {one(words.MONTHS)}", "job": one(words.JOBS),
                "hair": one(words.HAIR), "door": one(words.COLOURS), "food": one(words.FOODS),
                "hobby": one(words.HOBBIES), "instrument": one(words.INSTRUMENTS), "fear": one(words.FEARS),
                "pet": one(words.PETS), "pet_name": one(words.PET_NAMES), "pet_colour": one(words.COLOURS),
                "friend": person(), "rival": person(),
            }
        if entity.kind == "town":
            return {
                "river": one(words.RIVERS), "goods": one(words.GOODS), "landmark": one(words.LANDMARKS),
                "founded": str(rng.randint(1000, 1699)), "festival": one(words.MONTHS), "market": one(words.DAYS),
                "flag": one(words.COLOURS), "mayor": person(),
            }
        if entity.kind == "inn":
            return {"town": one(places), "owner": person(), "dish": one(words.FOODS), "sign": one(words.COLOURS)}
        return {"author": person(), "year": str(rng.randint(1800, 1899)), "subject": one(words.SUBJECTS),
                "cover": one(words.COLOURS)}

    def phrasings(self, entity: Entity, attribute: str, split: str) -> list[str]:
        """The phrasings of one fact that `split` may use: one for test, one for valid, four for train."""
        every = PHRASINGS[entity.kind][attribute]
        h = stable_hash(entity.name, attribute)
        test = h % len(every)
        valid = (test + 1 + h // len(every) % (len(every) - 1)) % len(every)
        if split == "train":
            return [p for i, p in enumerate(every) if i not in (test, valid)]
        return [every[test if split == "test" else valid]]

    def documents(self, seed: int, split: str) -> Iterator[str]:
        """Documents of one split, without end. Equal arguments give equal documents."""
        assert split in SPLITS
        rng = random.Random(f"documents {split} {seed}")
        while True:
            yield Writer(self, rng, split).document()

    def text(self, seed: int, split: str, size: int) -> str:
        """The first documents of a split, joined with blank lines: at least `size` characters."""
        parts, total = [], 0
        for document in self.documents(seed, split):
            parts.append(document)
            total += len(document) + 2
            if total >= size:
                return "\n\n".join(parts) + "\n"


class Writer:
    """Writes one document."""

    def __init__(self, world: World, rng: random.Random, split: str):
        self.world, self.rng, self.split = world, rng, split

    def document(self) -> str:
        entity = self.rng.choices(self.world.entities, self.world.weights)[0]
        kind = self.rng.random()
        if kind < 0.15:
            return self.mixture()
        text = self.portrait(entity, self.rng.randint(4, 8))
        return text if kind < 0.6 else text + " " + self.follow(entity)

    def portrait(self, entity: Entity, most: int) -> str:
        """Some facts of one entity in any order; the full name comes first, then often a pronoun."""
        attributes = self.rng.sample(list(entity.facts), min(most, len(entity.facts)))
        sentences = []
        for attribute in attributes:
            named = not sentences or self.rng.random() < 0.25
            sentences.append(self.sentence(entity, attribute, named))
        if self.rng.random() < 0.1:
            sentences.append(self.rng.choice(words.FILLERS))
        return " ".join(sentences)

    def follow(self, entity: Entity) -> str:
        """Goes along a relation to another entity and tells about that one."""
        links = [a for a, v in entity.facts.items() if v in self.world.by_name]
        attribute = self.rng.choice(links)
        other = self.world.by_name[entity.facts[attribute]]
        return self.sentence(entity, attribute, named=True) + " " + self.portrait(other, 4)

    def mixture(self) -> str:
        """One fact each about several entities."""
        entities = self.rng.choices(self.world.entities, self.world.weights, k=self.rng.randint(4, 8))
        return " ".join(self.sentence(e, self.rng.choice(list(e.facts)), named=True) for e in entities)

    def sentence(self, entity: Entity, attribute: str, named: bool) -> str:
        """One fact in one of the phrasings that the split may use; the subject by name or by pronoun."""
        phrasing = self.rng.choice(self.world.phrasings(entity, attribute, self.split))
        value = entity.facts[attribute]
        article = "an" if value[0] in "aeiou" else "a"
        if named or entity.pronoun == "it":
            subject, possessive = entity.name, entity.name + "'s"
        else:
            subject, possessive = entity.pronoun, {"she": "her", "he": "his"}[entity.pronoun]
            for before in OBJECT_BEFORE:
                phrasing = phrasing.replace(before + " {N}", before + " {O}")
        pronoun = {"she": "her", "he": "him"}.get(entity.pronoun, subject) if subject == entity.pronoun else subject
        text = phrasing.format(N=subject, P=possessive, O=pronoun, v=value, a=f"{article} {value}")
        return text[0].upper() + text[1:].replace("? " + subject[0], "? " + subject[0].upper())
