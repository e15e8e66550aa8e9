"""Writes tests/golden/tasks: what lm-evaluation-harness asks, and what it makes of a model.

    tools/make_golden_tasks.py requests              documents.json: made-up documents of all ten tasks, with the context and
                                                     the continuation of every request, without shots and with two
    tools/make_golden_tasks.py scores MODEL TASKS    <model>.json: of the tasks in the folder TASKS (<task>.jsonl), the
                   [--limit N] [--name NAME] [--batch N]  log-likelihood and greediness of every request and the metrics

MODEL is a folder or a GGUF file that transformers loads; it computes in float32. Of a GGUF file transformers leaves out
what tokenizer.ggml.pre says of digits: --tokenizer names a folder with the tokenizer.json of the model (every checkpoint
that Refrain writes has one). Needs the package lm_eval
(0.4.13, with its Hugging Face models) beside torch and transformers; no network.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import lm_eval
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

OUT = Path(__file__).resolve().parent.parent / "tests" / "golden" / "tasks"
VERSION = "0.4.13"
FILES = {"piqa": "piqa/piqa", "arc_easy": "arc/arc_easy", "arc_challenge": "arc/arc_challenge",
         "hellaswag": "hellaswag/hellaswag", "winogrande": "winogrande/default",
         "lambada_openai": "lambada/lambada_openai", "boolq": "super_glue/boolq/default",
         "openbookqa": "openbookqa/openbookqa", "copa": "super_glue/copa/default", "wikitext": "wikitext/wikitext"}

# Spaces at both ends, brackets, letters beyond ASCII, numbers as labels: whatever the recipes treat.
DOCUMENTS = {
    "piqa": [{"goal": "How do I open a jar?", "sol1": "twist it", "sol2": "eat it\n", "label": 0},
             {"goal": "dry a wet book ", "sol1": "", "sol2": "Fächer sie auf – langsam.", "label": 1},
             {"goal": "mend a \"torn\" map", "sol1": "glue  it", "sol2": " pour tea on it", "label": 0}],
    "arc_easy": [{"question": "Which one melts?", "choices": {"text": ["stone", "ice", "wind"], "label": ["A", "B", "C"]},
                  "answerKey": "B"},
                 {"question": "What do bees make?", "choices": {"text": ["honey", "salt", "wool", "glass", "tar"],
                                                               "label": ["1", "2", "3", "4", "5"]}, "answerKey": "1"},
                 {"question": "Where does a river end?", "choices": {"text": ["in a sea", "in a cup"],
                                                                    "label": ["A", "B"]}, "answerKey": "A"}],
    "hellaswag": [{"activity_label": "Removing ice", "ctx_a": "Then, the MAN writes.", "ctx_b": "then HE laughs [header] ok",
                   "endings": [", and he [title] goes.", "ÉCRIT  la suite", " spaces  ", "[a] [b\n] c"], "label": "2"},
                  {"activity_label": "Élan", "ctx_a": "a dog", "ctx_b": "émile SITS [step] down", "endings":
                   ["one", "two", "three", "four"], "label": "0"},
                  {"activity_label": " Cooking", "ctx_a": "Add  salt [title] and", "ctx_b": "", "endings":
                   ["stir", "[substeps] wait", "leave", "eat"], "label": "3"}],
    "winogrande": [{"sentence": "The cup fell off the shelf because the _ was smooth.", "option1": "cup", "option2": "shelf",
                    "answer": "2"},
                   {"sentence": "_ is late , said Ann to Eve .", "option1": "Ann", "option2": "Eve", "answer": "1"},
                   {"sentence": "Ina paid Uli, so _  left", "option1": "Ina", "option2": "Uli", "answer": "1"}],
    "lambada_openai": [{"text": "He went to the door and opened the door"}, {"text": "Word"},
                       {"text": "“No,” she said.  It was  snow"}],
    "boolq": [{"passage": "Ice floats -- because it is lighter.", "question": "does ice float", "label": 1},
              {"passage": "Copper is a metal. ", "question": "is copper a plant", "label": 0},
              {"passage": "Tea\nis drunk.", "question": "is tea eaten ", "label": 0}],
    "openbookqa": [{"question_stem": "The sun is", "choices": {"text": ["hot", "cold", "near", "square"],
                                                              "label": ["A", "B", "C", "D"]}, "answerKey": " A"},
                   {"question_stem": "A seed may become", "choices": {"text": ["a stone", "a plant", "rain", "a day"],
                                                                     "label": ["A", "B", "C", "D"]}, "answerKey": "B"},
                   {"question_stem": "Wool comes from ", "choices": {"text": ["sheep", "trees", "sand", "fish"],
                                                                    "label": ["A", "B", "C", "D"]}, "answerKey": "A"}],
    "copa": [{"premise": "My body cast a shadow over the grass.", "choice1": "The sun was rising.",
              "choice2": "The grass was cut.", "question": "cause", "label": 0},
             {"premise": " Es regnete? ", "choice1": "Überall Pfützen.", "choice2": "A fire.", "question": "effect",
              "label": 0},
             {"premise": "The lamp went out!", "choice1": "I lit a match.", "choice2": "I slept.", "question": "effect",
              "label": 1}],
    "wikitext": [{"page": " = Title = \n\n The 's of it , and ( a ) [ b ] { c } \" d \" ' e ' @-@ 1 @,@ 000 @.@ 5 ; x : y ! z ? .\n"
                          " = = Two = = \n 20 ° C , N s 'tis /' 7/ ( open\n"},
                 {"page": "one two"}, {"page": " ( ( nested ) ) it 's  ' two ' "}],
}
DOCUMENTS["arc_challenge"] = DOCUMENTS["arc_easy"]


def task_of(name, documents, folder):
    """The harness's task with these documents (a list, or a file) in place of its data set; also as training text."""
    file = documents
    if isinstance(documents, list):
        file = Path(folder) / f"{name}.jsonl"
        file.write_text("".join(json.dumps(d) + "\n" for d in documents))
    config = dict(load_yaml(Path(lm_eval.__file__).parent / "tasks" / (FILES[name] + ".yaml")))
    split = "test" if config.get("test_split") else "validation"
    config.update(dataset_path="json", dataset_name=None, training_split="train", fewshot_split="train",
                  fewshot_config={"sampler": "first_n"}, validation_split=None, test_split=None)
    config.update(dataset_kwargs={"data_files": {split: str(file), "train": str(file)}}, **{f"{split}_split": split})
    for key in ("tag", "dataset_kwargs_extra"):
        config.pop(key, None)
    return ConfigurableTask(config=config)


def requests_of(task, limit=None, shots=0):
    task.set_config(key="num_fewshot", value=shots)
    task.build_all_requests(limit=limit, rank=0, world_size=1)
    return task.instances


def write_requests():
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in FILES:
            task = task_of(name, DOCUMENTS[name], folder)
            result[name] = {"documents": DOCUMENTS[name]}
            for shots in (0,) if name == "wikitext" else (0, 2):
                asked = [[] for _ in DOCUMENTS[name]]
                for instance in requests_of(task, shots=shots):
                    asked[instance.doc_id].append(list(instance.args))
                result[name][f"requests_{shots}"] = asked
    OUT.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"lm_eval": lm_eval.__version__, "tasks": result}, indent=1, ensure_ascii=False)
    (OUT / "documents.json").write_text(text + "\n")


def model_of(path, batch, tokenizer):
    """The harness's model of a folder, or of a GGUF file (which needs the package gguf), in float32 on the CPU."""
    from lm_eval.models.huggingface import HFLM
    where = {"pretrained": str(path)} if path.is_dir() else {"pretrained": str(path.parent), "gguf_file": path.name}
    return HFLM(**where, tokenizer=tokenizer, device="cpu", dtype="float32", batch_size=batch)


def write_scores(model, folder, limit, name, batch, tokenizer):
    lm = model_of(Path(model), batch, tokenizer)
    result = {}
    for file in sorted(Path(folder).glob("*.jsonl")):
        if file.stem not in FILES:
            continue
        task = task_of(file.stem, file, folder)
        asked = requests_of(task, limit)
        kind = asked[0].request_type
        answers = getattr(lm, kind)(asked)
        result[file.stem] = {
            "documents": 1 + max(i.doc_id for i in asked),
            "loglikelihoods": [round(a if kind == "loglikelihood_rolling" else a[0], 5) for a in answers],
            "greedy": [] if kind == "loglikelihood_rolling" else [int(a[1]) for a in answers],
        }
        by_document = {}
        for instance, answer in zip(asked, answers):
            by_document.setdefault(instance.doc_id, []).append(answer)
        documents = dict(task.doc_iterator(limit=limit, rank=0, world_size=1))
        metrics = {}
        for document, found in by_document.items():
            for metric, value in task.process_results(documents[document], found).items():
                metrics.setdefault(metric, []).append(value)
        result[file.stem]["metrics"] = {m: sum(v) / len(v) for m, v in metrics.items() if not isinstance(v[0], tuple)}
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{name}.json").write_text(json.dumps({"lm_eval": lm_eval.__version__, "limit": limit, "tasks": result}) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["requests", "scores"])
    parser.add_argument("model", nargs="?")
    parser.add_argument("tasks", nargs="?")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--name")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--tokenizer")
    options = parser.parse_args()
    assert lm_eval.__version__ == VERSION, f"lm_eval {VERSION} is what the tables of tasks follow"
    if options.what == "requests":
        write_requests()
    else:
        write_scores(options.model, options.tasks, options.limit, options.name or Path(options.model).name, options.batch,
                     options.tokenizer)


if __name__ == "__main__":
    main()
