// The documents of a task as a model reads them: found, asked, tokenized and checked before any tensor is read.
#pragma once

#include <string>
#include <vector>

#include "core/model.h"
#include "core/text/tokenizer.h"
#include "experiments/measure/continuations.h"
#include "experiments/measure/task_table.h"

namespace experiments {

struct TaskRequest {
  std::string name;   // of the task, or path of a file <task>.jsonl
  int64_t limit = 0;  // documents at most, the first ones; 0: all
  int64_t shots = 0;  // answered documents before each question: the first ones of <task>.train.jsonl
  std::string where;  // of messages: "configs/a.yaml:7: measure.tasks.names"
};

// The task of a name or a path; UserError with the known names.
const Task& task_of(const TaskRequest& request);

// The texts of a task. Errors name file and line: no such file, a missing or a wrong field, no document.
struct TaskTexts {
  struct Document {
    std::string place;  // "tasks/piqa.jsonl:3"
    Question question;  // with the shots in front of its contexts
    Page page;
  };
  const Task* task = nullptr;
  std::vector<Document> documents;
};
TaskTexts task_texts(const TaskRequest& request);

struct TaskItems {
  struct Choice {
    size_t request;             // among all continuations of all texts, in their order
    int64_t characters, bytes;  // of the answer, without its delimiter; 0 of a window of a page
  };
  struct Item {
    std::vector<Choice> choices;   // of a page: the windows that it is read in
    int64_t gold = 0;              // of a question
    int64_t words = 0, bytes = 0;  // of a page
  };
  const Task* task = nullptr;
  std::vector<Item> items;
  std::vector<Continued> texts;
  int64_t truncated = 0;   // choices whose context was cut from the left
  std::string token_hash;  // of all that is read
};

// Errors name file and line: an answer of no token, or longer than the context of the model.
TaskItems task_items(const TaskTexts& texts, const core::Tokenizer& tokenizer, const core::Shape& shape);

}  // namespace experiments
