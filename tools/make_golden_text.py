"""Makes tests/golden/text: small tokenizers trained on text written here, and what the reference libraries make of it.

For each tokenizer.json: the ids that Hugging Face's `tokenizers` gives for many strings. For the tokenizer.model: the
ids and the decoded text of the `sentencepiece` package. characters.json: vocabularies of characters and flags of added
tokens, ids and text by `tokenizers`. settings.json: what transformers 5 makes of the files beside a tokenizer. With --data (the folder of REFRAIN_DATA) also data.json: count,
first and last ids and a hash of the ids of whole corpora.

    python tools/make_golden_text.py [--data DIR]
"""

import argparse
import io
import json
import pathlib
import random
import shutil
import tempfile

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "text"

QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")

PEOPLE = ["Anna", "Bertrand", "Çelik", "Dvořák", "Ebru", "Fjodor", "Ἑλένη", "李雷", "Наташа", "Ømund"]
THINGS = ["lantern", "harbour", "bread", "violin", "naïveté", "小舟", "вишня", "piñata", "Straße", "theatre"]
VERBS = ["carried", "didn't see", "had lost", "found", "couldn't mend", "they're painting", "sold", "weighed"]


def training_text():
    """Sentences with facts of many scripts, digits and signs; the same in every call."""
    pick = random.Random(7)
    lines = []
    for year in range(1900, 2300):
        who, whom, what = pick.choice(PEOPLE), pick.choice(PEOPLE), pick.choice(THINGS)
        verb, price = pick.choice(VERBS), pick.randrange(10**6)
        lines.append(f"In {year}, {who} {verb} the {what} of {whom} for {price:,} crowns;")
        lines.append(f"    if ({what}_{year % 17} >= {pick.random():.4f}) return \"{whom}'s {what}\";\n")
    return lines


STRINGS = [
    "", " ", "  ", "   ", "\t", "\n", "\n\n", "\n\n\n", "\t\n", "a", "a ", " a", "  a  b   c    d", "Hello world",
    " Hello World!\n", "ied 4 ½ months", "Führer", "w048 7tuijk dsdfhu", "3", "33", "333", "3333", "33333333",
    "don't DON'T Don'T they'LL we've I'm you'd it'S 'ſ 'ſx x'ſ", "'re''ve'\n'll", "1,234,567.89 and ²³ ⅷ ٣٤٥ १२३ 𝟘𝟙",
    "trailing spaces   ", "line  \n   next  \r\n\r\n  last \n ", " \r \n \r\n", "a\u00a0b\u00a0\u00a0c\u3000d\u2003 e\u1680f",
    "x\u0085y\u2028z\u2029w\u200bv\ufeffu", "mongolian\u180evowel \u180e separator", "\x00\x01\x7f nul\x00inside",
    "e\u0301 é A\u030a Å \u212b \u1e9b\u0323 \ufb01 \u0344", "\u1112\u1161\u11ab 한 \uac00\u11a8", "q\u0307\u0323 q\u0323\u0307",
    "🦙.cpp 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪", "Ἑλένη Наташа 李雷 小舟 ไทยภาษา हिन्दी العربية עברית", "̀combining first",
    "snake_case CamelCase kebab-case a.b.c (x)[y]{z} <tag/> #!/bin/sh && || ++i;", "!!!???...---===***", "日本語とカタカナ、句読点。",
    "<|endoftext|>", "a<|endoftext|>b", " <|endoftext|> ", "<|endoftext|><|im_start|>", "<|im_start", "<|im_start|>user\nhi<|im_end|>\n",
    "<|im_start|>extra", "<|im_start|>extra|>", "Å<tool>Å", "A\u030angstro\u0308m Ångström", "xÅngströmx <tool> < tool>",
    "if (lantern_3 >= 0.25) return \"Anna's lantern\";", "In 1999, Dvořák found the piñata of 李雷 for 12,345 crowns;",
    "a" * 300, "ab" * 200, " " * 100 + "x", "\n" * 50 + " x", "lantern" * 60, "中" * 100 + "   中文 text",
]  # fmt: skip


def random_strings():
    """Short strings over an alphabet of everything that the patterns treat differently."""
    pick = random.Random(11)
    alphabet = list("aZs'tlrev .,!_09\t\n\r  ") + list("\u00a0\u3000\u0085éßſΩж中한½²٣\u0301\u200d🦙\u180e")
    alphabet += ["the", "lantern", "<|im_end|>", "<tool>", "A\u030a", "Å", "'ll", "\r\n"]
    return ["".join(pick.choice(alphabet) for _ in range(pick.randrange(1, 24))) for _ in range(400)]


def train(tokenizer, size, special, added=()):
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_text(), trainer)
    tokenizer.add_tokens(list(added))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def byte_level(prefix=False, regex=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)


def qwen():
    """NFC, one digit at a time, special tokens, a token sought in the raw and one in the normalized text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split(QWEN), byte_level()])
    added = [
        AddedToken("<tool>", normalized=False),
        AddedToken("A\u030angstro\u0308m", normalized=True),
        AddedToken("<|im_start|>extra", normalized=False),
    ]
    return train(tokenizer, 700, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], added)


def llama3():
    """Three digits at a time, whole words before merges: some tokens of the vocabulary have no merges."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split(LLAMA3), byte_level()])
    train(tokenizer, 600, ["<|begin_of_text|>", "<|endoftext|>"])
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)]),
        ]
    )
    description = json.loads(tokenizer.to_str())
    for word in ["Ġworld", "Hello", "333", "aaaaaaaa", "Ġtext"]:
        description["model"]["vocab"].setdefault(word, len(description["model"]["vocab"]))
    return Tokenizer.from_str(json.dumps(description))


def gpt2():
    """ByteLevel's own pattern, a space put in front, runs of digits, merges in the old notation."""
    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level(True, True)])
    train(tokenizer, 500, ["<|endoftext|>"])
    return tokenizer


def deepseek():
    """A chain of splits; `$` is the end of a line to the reference's engine."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            split(r"[\r\n]"),
            split(r"\s?[A-Za-zµÀ-ÖØ-öø-ƺΑ-Ωα-ωА-я]+"),
            split(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
            split(r"\s+$"),
            split(r"[一-龥ࠀ-一가-퟿]+"),
            pre_tokenizers.Digits(individual_digits=True),
            byte_level(),
        ]
    )
    return train(tokenizer, 500, ["<|endoftext|>"])


def line_ends():
    """`^`, `$`, a lookbehind, an empty match and a literal: small patterns on which engines like to differ."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split(r"^\s*|\s+$"), split(r"(?<=[aeiou])t+"), pre_tokenizers.Split("an", "isolated"), byte_level()]
    )
    return train(tokenizer, 400, ["<|endoftext|>"])


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n")


def write_bpe(name, tokenizer):
    description = json.loads(tokenizer.to_str())
    if name == "gpt2":
        description["model"]["merges"] = [" ".join(pair) for pair in description["model"]["merges"]]
    tokenizer = Tokenizer.from_str(json.dumps(description))
    write(OUT / name / "tokenizer.json", description)
    strings = STRINGS + random_strings()
    vectors = [[text, tokenizer.encode(text, add_special_tokens=False).ids] for text in strings]
    write(OUT / name / "vectors.json", vectors)


def write_sentencepiece():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line.strip() for line in training_text()),
        model_writer=model,
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        num_threads=1,
        minloglevel=2,
    )
    folder = OUT / "sentencepiece"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    encoded = [(text, processor.encode(text)) for text in STRINGS + random_strings()]
    write(folder / "vectors.json", [[text, ids, processor.decode(ids)] for text, ids in encoded])


SPACE = "\u2581"
FLAGS = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
ADDED = {
    "<plain>": {},
    "<right>": {"rstrip": True},
    "<both>": {"lstrip": True, "rstrip": True},
    "<left>": {"lstrip": True, "special": False},
    "<word>": {"single_word": True},
    "<normal>": {"normalized": True, "special": False},
    "gh": {"single_word": True, "normalized": True, "special": False},
}
MERGES = ["a b", "▁ a", "▁ ab", "▁a b", "c d", "▁ ▁", "▁▁ ▁", "▁ c", "▁c d", "▁ cd", "e f", "▁▁ e", "i j", "j ▁"]


def spaced_strings(count):
    """Short strings of spaces, letters, characters without a token and added tokens."""
    pick = random.Random(13)
    alphabet = list("abcdefghij") * 2 + [" "] * 9 + list("\n\t\u00a0\u3000▁▁é中😀_9.²Ⓐ\u0301") + ["  ", "<s>", "</s>", "<unk>"]
    alphabet += list(ADDED) * 2
    first = ["", " ", "a", " a", "  a", "\n a", "▁a", "<s>", "<plain> a", "a <plain>", "<plain>", " <both> a"]
    return first + ["".join(pick.choice(alphabet) for _ in range(pick.randrange(1, 20))) for _ in range(count)]


def listed(first, tokens=None):
    tokens = ADDED if tokens is None else tokens
    return [{"id": first + i, "content": t} | FLAGS | f for i, (t, f) in enumerate(tokens.items())]


def characters(without=(), parts=None, **model):
    """A tokenizer.json of characters with bytes as a fallback; `without`: tokens that lose their names."""
    vocabulary = {t: i for i, t in enumerate(["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)])}
    vocabulary |= {c: len(vocabulary) + i for i, c in enumerate(SPACE + "abcdefghij\n")}
    for merge in MERGES:
        vocabulary.setdefault(merge.replace(" ", ""), len(vocabulary))
    vocabulary = {f"-{t}" if t in without else t: i for t, i in vocabulary.items()}
    special = listed(0, {"<unk>": {}, "<s>": {}, "</s>": {}})
    decoder = [replace(SPACE, " "), {"type": "ByteFallback"}, {"type": "Fuse"}]
    decoder += [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    rest = {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, "merges": MERGES}
    added = special + listed(len(vocabulary))
    description = {"version": "1.0", "added_tokens": added, "normalizer": None, "pre_tokenizer": metaspace("first")}
    description |= {"post_processor": None, "decoder": sequence("decoders", decoder)}
    return description | (parts or {}) | {"model": rest | {"vocab": vocabulary} | model}


def replace(pattern, content, kind="String"):
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def metaspace(scheme, split=False):
    return {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": split}


def sequence(name, parts):
    return {"type": "Sequence", name: parts}


def prepend():
    return sequence("normalizers", [{"type": "Prepend", "prepend": SPACE}, replace(" ", SPACE)])


def write_characters():
    """What differs from `characters()`, whether bytes are the units, and ids and text of strings."""
    cut = {"type": "Split", "pattern": {"Regex": r"[ab]|\s"}, "invert": False}
    cases = [{"parts": {"pre_tokenizer": metaspace(s, split)}} for s in ("first", "always", "never") for split in (0, 1)]
    for case in cases:
        case["parts"]["pre_tokenizer"]["split"] = bool(case["parts"]["pre_tokenizer"]["split"])
    for behavior in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        cutting = [cut | {"behavior": behavior, "invert": behavior == "Removed"}, metaspace("first")]
        cases.append({"parts": {"pre_tokenizer": sequence("pretokenizers", cutting)}})
    by_pattern = [replace(r"\A +| +\z", "", "Regex"), replace(" {2,}", " ", "Regex"), replace(" ", SPACE)]
    cases += [
        {"parts": {"normalizer": prepend(), "pre_tokenizer": None}},
        {"parts": {"normalizer": prepend(), "pre_tokenizer": None}, "model": {"ignore_merges": True}},
        {"parts": {"normalizer": sequence("normalizers", by_pattern), "pre_tokenizer": metaspace("always")}},
        {"parts": {"decoder": metaspace("first")}},
        {"parts": {"decoder": metaspace("never")}},
        {"parts": {"decoder": None}},
        {"model": {"byte_fallback": False}},
        {"model": {"byte_fallback": False, "fuse_unk": False}},
        {"without": ["<0xE4>", "<0xCC>"]},
        {"without": ["<0xE4>", "<0xCC>"], "model": {"fuse_unk": False}},
        {"bytes": True},
    ]
    for case in cases:
        description = characters(case.get("without", ()), case.get("parts"), **case.get("model", {}))
        if case.get("bytes"):
            level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
            alphabet = {s: i for i, s in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
            description |= {"pre_tokenizer": level, "decoder": level, "added_tokens": listed(256)}
            description["model"] |= {"vocab": alphabet, "merges": [], "byte_fallback": False, "unk_token": None}
            case["parts"] = {key: description[key] for key in ("pre_tokenizer", "decoder", "added_tokens", "model")}
        tokenizer = Tokenizer.from_str(json.dumps(description))
        strings = [(text, tokenizer.encode(text, add_special_tokens=False).ids) for text in spaced_strings(60)]
        case["vectors"] = [[text, ids, tokenizer.decode(ids, skip_special_tokens=False)] for text, ids in strings]
    write(OUT / "characters.json", {"base": characters(), "cases": cases})


def write_settings():
    """Folders: tokenizer.model of the golden one, or tokenizer.json; the files beside it; ids, text, BOS."""
    from transformers import AutoTokenizer

    llama, other = {"tokenizer_class": "LlamaTokenizer"}, {"tokenizer_class": "PreTrainedTokenizerFast"}
    decoder = {"added_tokens_decoder": {str(t.pop("id")): t for t in listed(400)}}
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    new = {"added_tokens.json": {"<plain>": 400, "<left>": 401}, "special_tokens_map.json": {"pad_token": "<plain>"}}
    flags = {"added_tokens_decoder": {"1": {"content": "<s>"} | FLAGS | {"rstrip": True}}}
    flags["added_tokens_decoder"]["400"] = {"content": "cd"} | FLAGS | {"lstrip": True}
    legacy = characters(parts={"normalizer": prepend(), "pre_tokenizer": None})
    cases = [
        {"config": names | llama | decoder},
        {"config": names | llama | decoder | {"legacy": True, "add_bos_token": True}},
        {"config": names | llama | decoder | {"add_prefix_space": False}},
        {"config": names | other | decoder},
        {"config": names | other | decoder | {"legacy": False, "add_bos_token": False}},
        {"config": names | llama, "files": new},
        {"config": names | other | flags, "json": characters()},
        {"config": names | llama | {"add_bos_token": True}, "json": legacy},
        {"config": names | llama | {"legacy": True}, "json": legacy},
        {"config": names | {"tokenizer_class": "LlamaTokenizerFast", "add_prefix_space": False}, "json": legacy},
    ]
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            if "json" not in case:
                shutil.copy(OUT / "sentencepiece" / "tokenizer.model", folder)
            files = {"tokenizer_config.json": case["config"], "config.json": {"model_type": "llama"}}
            files |= case.get("files", {}) | ({"tokenizer.json": case["json"]} if "json" in case else {})
            for name, value in files.items():
                (pathlib.Path(folder) / name).write_text(json.dumps(value))
            tokenizer = AutoTokenizer.from_pretrained(folder)
        # At its beginning a text is sentencepiece's, which puts a space before a space, too; LlamaTokenizer does not.
        texts = [t for t in spaced_strings(80) if "json" in case or t[:1] not in {" ", SPACE}]
        strings = [(text, tokenizer(text, add_special_tokens=False).input_ids) for text in texts]
        case["vectors"] = [[text, ids, tokenizer.decode(ids)] for text, ids in strings]
        case["begins"] = tokenizer("a").input_ids[:1] == [1]
        if case.get("json") == legacy:
            case["json"] = "legacy"
        elif "json" in case:
            case["json"] = "characters"
    write(OUT / "settings.json", {"legacy": legacy, "cases": cases})


def fnv1a(ids):
    """64-bit FNV-1a of the ids as little-endian int32."""
    value = 0xCBF29CE484222325
    for byte in b"".join(i.to_bytes(4, "little") for i in ids):
        value = ((value ^ byte) * 0x100000001B3) & (2**64 - 1)
    return f"{value:016x}"


def corpus_row(model, corpus, ids):
    row = {"model": model, "corpus": corpus, "tokens": len(ids)}
    return row | {"first": ids[:24], "last": ids[-8:], "fnv1a": fnv1a(ids)}


def write_data(data):
    names = json.loads((OUT.parent.parent.parent / "data" / "corpora.json").read_text())
    rows = []
    for model in ["wiki-qwen3", "wiki-deepseek-moe", "stories260K/hf_llama"]:
        folder = data / "models" / model
        if (folder / "tokenizer.json").exists():
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids  # noqa: E731
        else:
            encode = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).encode
        for corpus in ["wikitext2/test", "wikitext2/valid", "wikitext2-unk/valid", "tinystories/valid", "shakespeare"]:
            text = (data / names[corpus]["file"]).read_bytes().decode()
            rows.append(corpus_row(model, corpus, encode(text)))
    (OUT / "data.json").write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=pathlib.Path)
    data = parser.parse_args().data
    for make in [qwen, llama3, gpt2, deepseek, line_ends]:
        write_bpe(make.__name__, make())
    write_sentencepiece()
    write_characters()
    write_settings()
    if data:
        write_data(data)


if __name__ == "__main__":
    main()
