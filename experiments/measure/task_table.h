// Downstream tasks: what a model is asked, which answers are scored, and what is right. All tasks stand in one table
// (task_table.cpp), as lm-evaluation-harness 0.4.13 has them, so that numbers agree with it to the digit; a new task
// of these kinds is one entry.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/text/json_node.h"

namespace experiments {

// One document as a task asks it. A choice is what follows a context; all that a task measures follows from the
// log-likelihoods of its choices.
struct Question {
  struct Choice {
    std::string context;
    std::string continuation;  // with the delimiter in front of it
    std::string answer;        // without: its length is what acc_norm divides by
  };
  std::vector<Choice> choices;
  int64_t gold = 0;  // index of the right choice
};

// A page that is read as a whole, for perplexity per word and byte.
struct Page {
  std::string text;              // as the model reads it
  int64_t words = 0, bytes = 0;  // of the page as it was written
};

struct Task {
  std::string name;
  std::string help;                                                  // one line, for --list tasks
  std::vector<std::string> metrics;                                  // names below
  std::function<Question(const core::JsonNode& document)> ask = {};  // of a task of questions
  std::function<Page(const core::JsonNode& document)> page = {};     // of one of pages

  bool has(const std::string& metric) const;
};

// Names of metrics. acc: the choice of the largest log-likelihood is the right one (of a single choice: every token of
// it is the likeliest one); acc_norm: of the largest log-likelihood per character of the answer, and with it acc_bytes,
// per byte; perplexity: exp of minus the mean log-likelihood of the single choice; word_perplexity, byte_perplexity,
// bits_per_byte: of pages.
inline constexpr const char* kAcc = "acc";
inline constexpr const char* kAccNorm = "acc_norm";
inline constexpr const char* kAccBytes = "acc_bytes";
inline constexpr const char* kTaskPerplexity = "perplexity";
inline constexpr const char* kWordPerplexity = "word_perplexity";
inline constexpr const char* kBytePerplexity = "byte_perplexity";
inline constexpr const char* kBitsPerByte = "bits_per_byte";

const std::vector<Task>& task_table();
const Task* find_task(const std::string& name);  // null: there is none

}  // namespace experiments
