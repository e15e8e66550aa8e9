#include "experiments/measure/task_table.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "experiments/measure/task_text.h"

namespace experiments {

namespace {

using core::JsonNode;

std::vector<std::string> texts(const JsonNode& list) {
  std::vector<std::string> all;
  for (const JsonNode& item : list.items()) all.push_back(item.text());
  return all;
}

// The place of a label in a list of labels: of answerKey in choices.label.
int64_t place_of(const JsonNode& labels, const std::string& label) {
  const std::vector<std::string> all = texts(labels);
  const auto found = std::find(all.begin(), all.end(), label);
  core::require(found != all.end(), "{}: `{}` is none of them. Mend the line, or leave it out.", labels.where(), label);
  return found - all.begin();
}

// A number, also one that is written as a text ("3"), less the first of its kind.
int64_t number(const JsonNode& node, int64_t first = 0) {
  if (!node.value().is_string()) return node.integer() - first;
  const std::string text = node.text();
  core::require(!text.empty() && text.size() < 10 && std::all_of(text.begin(), text.end(), ::isdigit),
                "{}: a number is expected, not `{}`. Mend the line, or leave it out.", node.where(), text);
  return std::stoll(text) - first;
}

// Several answers behind one context.
Question choose(const std::string& context, const std::vector<std::string>& answers, int64_t gold) {
  Question question{.choices = {}, .gold = gold};
  for (const std::string& answer : answers) question.choices.push_back({context, " " + answer, answer});
  return question;
}

std::string asked(const std::string& question) { return fmt::format("Question: {}\nAnswer:", question); }

Question lettered(const JsonNode& d, const std::string& context, const std::string& key) {
  const JsonNode choices = d.at("choices");
  return choose(context, texts(choices.at("text")), place_of(choices.at("label"), key));
}

Question way(const JsonNode& d) {
  return choose(asked(d.at("goal").text()), {d.at("sol1").text(), d.at("sol2").text()}, number(d.at("label")));
}

Question school(const JsonNode& d) { return lettered(d, asked(d.at("question").text()), d.at("answerKey").text()); }

Question open_book(const JsonNode& d) {
  return lettered(d, d.at("question_stem").text(), left_stripped(d.at("answerKey").text()));
}

Question yes_or_no(const JsonNode& d) {
  return choose(fmt::format("{}\n{}", d.at("passage").text(), asked(d.at("question").text() + "?")), {"no", "yes"},
                number(d.at("label")));
}

Question fact(const JsonNode& d) {
  return choose(d.at("question").text(), texts(d.at("answers")), number(d.at("label")));
}

// One text behind two contexts: the sentence with each of the options in the place of its gap.
Question gap(const JsonNode& d) {
  const std::string sentence = d.at("sentence").text();
  const size_t at = sentence.find('_');
  core::require(at != std::string::npos, "{}: the sentence has no _. Mend the line, or leave it out.",
                d.at("sentence").where());
  const std::string rest = stripped(sentence.substr(at + 1));
  Question question{.choices = {}, .gold = number(d.at("answer"), 1)};
  for (const char* option : {"option1", "option2"})
    question.choices.push_back({sentence.substr(0, at) + d.at(option).text(), " " + rest, rest});
  return question;
}

Question last_word(const JsonNode& d) {
  const std::string text = d.at("text").text();
  const size_t at = text.rfind(' ');
  const std::string before = at == std::string::npos ? "" : text.substr(0, at);
  const std::string word = " " + (at == std::string::npos ? text : text.substr(at + 1));
  return {.choices = {{before, word, word}}, .gold = 0};
}

// A cause or an effect of a premise; the answers begin with a space of their own.
Question because(const JsonNode& d) {
  std::string premise = stripped(d.at("premise").text());
  core::require(!premise.empty(), "{}: it is empty. Mend the line, or leave it out.", d.at("premise").where());
  const std::string kind = d.at("question").text();
  core::require(kind == "cause" || kind == "effect", "{}: cause or effect is expected, not `{}`. Mend the line.",
                d.at("question").where(), kind);
  const std::string context = without_last(premise) + (kind == "cause" ? " because" : " therefore");
  return choose(context,
                {" " + with_small_first(d.at("choice1").text()), " " + with_small_first(d.at("choice2").text())},
                number(d.at("label")));
}

Question ending(const JsonNode& d) {
  std::vector<std::string> endings = texts(d.at("endings"));
  for (std::string& one : endings) one = without_brackets(one);
  const std::string context =
      fmt::format("{}: {} {}", d.at("activity_label").text(), d.at("ctx_a").text(), capitalized(d.at("ctx_b").text()));
  return choose(without_brackets(context), endings, number(d.at("label")));
}

Page whole(const JsonNode& d) {
  const std::string page = d.at("page").text();
  return {.text = detokenized(page), .words = pieces_between_spaces(page), .bytes = static_cast<int64_t>(page.size())};
}

std::vector<Task> made_table() {
  return {
      {.name = "piqa",
       .help = "which of two ways reaches a goal (Bisk 2020, arXiv 1911.11641)",
       .metrics = {kAcc, kAccNorm},
       .ask = way},
      {.name = "arc_easy",
       .help = "questions of science at school, the easy set (Clark 2018, arXiv 1803.05457)",
       .metrics = {kAcc, kAccNorm},
       .ask = school},
      {.name = "arc_challenge",
       .help = "the same, the set that needs more than words in common",
       .metrics = {kAcc, kAccNorm},
       .ask = school},
      {.name = "hellaswag",
       .help = "how a scene goes on (Zellers 2019, arXiv 1905.07830)",
       .metrics = {kAcc, kAccNorm},
       .ask = ending},
      {.name = "winogrande",
       .help = "whom a pronoun means: the rest of a sentence behind either (Sakaguchi 2019, arXiv 1907.10641)",
       .metrics = {kAcc},
       .ask = gap},
      {.name = "lambada_openai",
       .help = "the last word of a passage (Paperno 2016, arXiv 1606.06031)",
       .metrics = {kAcc, kTaskPerplexity},
       .ask = last_word},
      {.name = "boolq",
       .help = "yes or no, from a passage (Clark 2019, arXiv 1905.10044)",
       .metrics = {kAcc},
       .ask = yes_or_no},
      {.name = "openbookqa",
       .help = "elementary science beside a book of facts that is not shown (Mihaylov 2018, arXiv 1809.02789)",
       .metrics = {kAcc, kAccNorm},
       .ask = open_book},
      {.name = "copa", .help = "a cause or an effect (Roemmele 2011)", .metrics = {kAcc}, .ask = because},
      {.name = "wikitext",
       .help = "perplexity of whole pages of WikiText-2 per word and byte (Merity 2016, arXiv 1609.07843)",
       .metrics = {kWordPerplexity, kBytePerplexity, kBitsPerByte},
       .page = whole},
      {.name = "tiny_facts",
       .help = "facts of the invented world that the embedded models know (data/README.md)",
       .metrics = {kAcc, kAccNorm},
       .ask = fact},
  };
}

}  // namespace

bool Task::has(const std::string& metric) const {
  return std::find(metrics.begin(), metrics.end(), metric) != metrics.end();
}

const std::vector<Task>& task_table() {
  static const std::vector<Task> table = made_table();
  return table;
}

const Task* find_task(const std::string& name) {
  for (const Task& task : task_table()) {
    if (task.name == name) return &task;
  }
  return nullptr;
}

}  // namespace experiments
