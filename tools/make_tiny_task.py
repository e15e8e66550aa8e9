"""Makes data/tasks/tiny_facts.jsonl: questions about the tiny world with four answers each, and a few answered ones for shots.

    tools/make_tiny_task.py [--out data] [--seed 42] [--questions 400]

A question is a sentence in the phrasing that only the test text uses, cut before its value; the wrong answers are values
of the same kind that other entities have. Training saw the facts, and none of these sentences. The shots
(tiny_facts.train.jsonl) are sentences of the validation text's phrasings, about other facts. The files follow from the seed
alone.
"""

import argparse
import json
import random
from pathlib import Path

import tiny_world

ANSWERS = 4
SHOTS = 16


def asked(world, writer, rng, seen):
    """One question about a fact that is not in `seen`."""
    while True:
        entity = rng.choices(world.entities, world.weights)[0]
        attribute = rng.choice(list(entity.facts))
        if (entity.name, attribute) in seen:
            continue
        value = entity.facts[attribute]
        sentence = writer.sentence(entity, attribute, named=True)
        at = sentence.rindex(value)
        if not 0 <= sentence.lower().find(entity.name.lower()) < at:
            continue  # the subject comes later: the value cannot be known
        question = sentence[:at].rstrip(" ")
        others = {e.facts[attribute] for e in world.entities if e.kind == entity.kind} - {value, entity.name}
        if question.endswith((" a", " an")):  # the article must not tell
            others = {o for o in others if (o[0] in "aeiou") == (value[0] in "aeiou")}
        if len(others) < ANSWERS - 1:
            continue
        answers = [value, *rng.sample(sorted(others), ANSWERS - 1)]
        rng.shuffle(answers)
        seen.add((entity.name, attribute))
        return {"question": question, "answers": answers, "label": answers.index(value)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "data")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--questions", type=int, default=400)
    options = parser.parse_args()
    world, rng, seen = tiny_world.World(options.seed), random.Random(f"task {options.seed}"), set()
    folder = options.out / "tasks"
    folder.mkdir(parents=True, exist_ok=True)
    for name, split, count in (("tiny_facts.jsonl", "test", options.questions), ("tiny_facts.train.jsonl", "valid", SHOTS)):
        writer = tiny_world.Writer(world, rng, split)
        lines = [json.dumps(asked(world, writer, rng, seen)) for _ in range(count)]
        (folder / name).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
