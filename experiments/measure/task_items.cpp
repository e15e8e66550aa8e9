#include "experiments/measure/task_items.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "core/config/nearest.h"
#include "core/error.h"
#include "core/io/data_roots.h"
#include "core/io/files.h"
#include "core/io/hash.h"
#include "core/io/json_text.h"
#include "core/text/utf8.h"
#include "core/text/windows.h"
#include "experiments/measure/task_text.h"

namespace experiments {

namespace {

namespace fs = std::filesystem;

// "piqa" of "some/where/piqa.jsonl".
std::string name_in(const std::string& name_or_path) {
  const std::string name = fs::path(name_or_path).filename();
  return name.substr(0, name.find('.'));
}

// The file of a task's documents. part: "" or ".train".
std::string file_of(const TaskRequest& request, const std::string& part) {
  const Task& task = task_of(request);
  const std::string name = task.name + part + ".jsonl";
  if (request.name != task.name) {
    const std::string beside = (fs::path(request.name).parent_path() / name).string();
    const std::string path = part.empty() ? request.name : beside;
    core::require(core::is_file(path), "{}: {} is not there. Name a file of JSON lines, or a task.", request.where,
                  path);
    return path;
  }
  for (const std::string& root : core::data_roots()) {
    if (const std::string path = root + "/tasks/" + name; core::is_file(path)) return path;
  }
  core::fail("{}: tasks/{} is in none of the data folders ({}). tools/get_tasks fetches it where the network is there.",
             request.where, name, core::joined(core::data_roots()));
}

// The documents of a file of JSON lines, each with its file and line for messages; at most `limit` of them, 0: all.
struct Documents {
  std::vector<nlohmann::json> values;
  std::vector<std::string> places;

  Documents(const std::string& file, int64_t limit) {
    const std::string text = core::read_file(file);
    core::require_utf8(text, file);
    int64_t line = 0;
    for (size_t at = 0; at < text.size() && (limit == 0 || count() < limit);) {
      const size_t end = std::min(text.find('\n', at), text.size());
      const std::string_view one = std::string_view(text).substr(at, end - at);
      const std::string place = fmt::format("{}:{}", file, ++line);
      at = end + 1;
      if (one.find_first_not_of(" \t\r") == std::string_view::npos) continue;
      values.push_back(core::parse_json(one, {place, "the line", "Mend it, or leave it out."}));
      places.push_back(place);
    }
    core::require(count() > 0, "{}: there is no document in it. Each line is one, as JSON.", file);
  }
  int64_t count() const { return static_cast<int64_t>(values.size()); }
  core::JsonNode at(int64_t i) const { return {values[i], places[i], ""}; }
};

// The question of a document whose gold answer is one of its choices.
Question question_of(const Task& task, const core::JsonNode& document) {
  Question question = task.ask(document);
  const auto choices = static_cast<int64_t>(question.choices.size());
  core::require(question.gold >= 0 && question.gold < choices,
                "{}: the right answer is number {}, and there are {}. Mend the line, or leave it out.",
                document.where(), question.gold, choices);
  return question;
}

std::string shots_of(const TaskRequest& request, const Task& task) {
  if (request.shots == 0) return {};
  const std::string file = file_of(request, ".train");
  const Documents documents(file, request.shots);
  core::require(documents.count() == request.shots, "{}: {} documents, and {} shots are asked for. Ask for fewer.",
                file, documents.count(), request.shots);
  std::string text;
  for (int64_t i = 0; i < documents.count(); ++i) {
    const Question question = question_of(task, documents.at(i));
    const Question::Choice& gold = question.choices[static_cast<size_t>(question.gold)];
    text += gold.context + " " + gold.answer + "\n\n";
  }
  return text;
}

// What lm-evaluation-harness makes of texts: BOS in front where the tokenizer says so, and in front of nothing.
class Encoder {
 public:
  Encoder(const core::Tokenizer& tokenizer, const core::Shape& shape) : tokenizer_(tokenizer), shape_(shape) {}

  std::vector<int32_t> plain(const std::string& text, const std::string& place) const {
    const std::vector<int32_t> ids = tokenizer_.encode(text);
    core::require_in_embedding(place, ids, shape_.vocabulary);
    return ids;
  }
  std::vector<int32_t> with_bos(const std::string& text, const std::string& place) const {
    std::vector<int32_t> ids = plain(text, place);
    const bool has_it = !ids.empty() && tokenizer_.bos_id() == ids.front();
    if (tokenizer_.adds_bos() && tokenizer_.bos_id() && !has_it) ids.insert(ids.begin(), *tokenizer_.bos_id());
    return ids;
  }
  // What the first token of a text is predicted from.
  int32_t nothing(const std::string& place) const {
    if (tokenizer_.bos_id()) return *tokenizer_.bos_id();
    core::require(!tokenizer_.eos_ids().empty(),
                  "{}: nothing stands before the first token, and the tokenizer has neither BOS nor EOS.", place);
    return tokenizer_.eos_ids().front();
  }
  // Tokens of a context and of what continues it: those of both together behind those of the context alone.
  std::pair<std::vector<int32_t>, std::vector<int32_t>> pair(std::string context, std::string continuation,
                                                             const std::string& place) const {
    if (context.empty()) {
      std::vector<int32_t> ids = plain(continuation, place), before{nothing(place)};
      if (!ids.empty() && ids.front() == before.front()) ids.erase(ids.begin());
      return {before, ids};
    }
    const std::string kept = right_stripped(context);
    continuation = context.substr(kept.size()) + continuation;
    if (kept.empty()) return pair("", continuation, place);
    const std::vector<int32_t> both = with_bos(kept + continuation, place);
    std::vector<int32_t> before = with_bos(kept, place);
    const auto length = static_cast<std::ptrdiff_t>(std::min(before.size(), both.size()));
    return {std::move(before), {both.begin() + length, both.end()}};
  }

 private:
  const core::Tokenizer& tokenizer_;
  const core::Shape& shape_;
};

// Collects texts; equal contexts one after the other are one text.
class Collector {
 public:
  Collector(TaskItems& all, int64_t context) : all_(all), context_(context) {}

  void begin_item() { shares_ = false; }
  // Adds what the model is to read; contexts are cut from the left to its context length. Returns the request.
  size_t add(std::vector<int32_t> context, std::vector<int32_t> continuation, const std::string& place) {
    const auto count = static_cast<int64_t>(continuation.size());
    core::require(count > 0, "{}: an answer has no token. Mend the line, or leave it out.", place);
    core::require(count <= context_, "{}: an answer of {} tokens is longer than the context of the model ({}).", place,
                  count, context_);
    const int64_t room = context_ + 1 - count;  // the last token is not read
    if (static_cast<int64_t>(context.size()) > room) {
      context.erase(context.begin(), context.end() - room);
      ++all_.truncated;
    }
    if (shares_ && all_.texts.back().context == context) {
      all_.texts.back().continuations.push_back(std::move(continuation));
    } else {
      all_.texts.push_back({std::move(context), {std::move(continuation)}});
    }
    shares_ = true;
    return requests_++;
  }

 private:
  TaskItems& all_;
  int64_t context_;
  size_t requests_ = 0;
  bool shares_ = false;
};

// The windows of a page: as long as the context, each token is predicted once, the last window reaches back.
void add_page(const Page& page, const Encoder& encoder, int64_t context, const std::string& place,
              TaskItems::Item& item, Collector& collector) {
  const std::vector<int32_t> ids = encoder.with_bos(page.text, place);
  core::require(!ids.empty(), "{}: a page has no token. Leave the line out.", place);
  const auto count = static_cast<int64_t>(ids.size());
  for (int64_t done = 0; done < count;) {
    const int64_t predicted = std::min(context, count - done), end = done + predicted;
    std::vector<int32_t> before;
    if (done == 0) before.push_back(encoder.nothing(place));
    const int64_t first = std::max<int64_t>(0, end - context - 1);
    if (done > 0) before.assign(ids.begin() + first, ids.begin() + done);
    item.choices.push_back({collector.add(std::move(before), {ids.begin() + done, ids.begin() + end}, place), 0, 0});
    done = end;
  }
  item.words = page.words;
  item.bytes = page.bytes;
}

std::string hash_of(const std::vector<Continued>& texts) {
  std::vector<int32_t> all;
  const auto add = [&](const std::vector<int32_t>& ids) {
    all.push_back(static_cast<int32_t>(ids.size()));
    all.insert(all.end(), ids.begin(), ids.end());
  };
  for (const Continued& text : texts) {
    add(text.context);
    for (const auto& continuation : text.continuations) add(continuation);
  }
  return core::token_hash(all);
}

}  // namespace

const Task& task_of(const TaskRequest& request) {
  const std::string name = name_in(request.name);
  if (const Task* task = find_task(name)) return *task;
  std::vector<std::string> known;
  for (const Task& task : task_table()) known.push_back(task.name);
  core::fail("{}: `{}` is no task.{} Tasks: {}.", request.where, name, core::did_you_mean(name, known),
             core::joined(known));
}

TaskTexts task_texts(const TaskRequest& request) {
  const Task& task = task_of(request);
  TaskTexts all{.task = &task, .documents = {}};
  core::require(request.shots == 0 || task.ask, "{}: {} reads pages, before which no shots stand. Leave shots out.",
                request.where, task.name);
  const Documents documents(file_of(request, ""), request.limit);
  const std::string shots = shots_of(request, task);
  for (int64_t i = 0; i < documents.count(); ++i) {
    const core::JsonNode json = documents.at(i);
    TaskTexts::Document& document =
        all.documents.emplace_back(TaskTexts::Document{.place = json.where(), .question = {}, .page = {}});
    if (task.page) document.page = task.page(json);
    if (task.ask) document.question = question_of(task, json);
    for (Question::Choice& choice : document.question.choices) choice.context = shots + choice.context;
  }
  return all;
}

TaskItems task_items(const TaskTexts& texts, const core::Tokenizer& tokenizer, const core::Shape& shape) {
  TaskItems all{.task = texts.task, .items = {}, .texts = {}, .token_hash = {}};
  const Encoder encoder(tokenizer, shape);
  Collector collector(all, shape.context);
  for (const TaskTexts::Document& document : texts.documents) {
    TaskItems::Item& item = all.items.emplace_back();
    collector.begin_item();
    if (texts.task->page) add_page(document.page, encoder, shape.context, document.place, item, collector);
    for (const Question::Choice& choice : document.question.choices) {
      auto [context, continuation] = encoder.pair(choice.context, choice.continuation, document.place);
      item.choices.push_back({collector.add(std::move(context), std::move(continuation), document.place),
                              characters(choice.answer), static_cast<int64_t>(choice.answer.size())});
    }
    item.gold = document.question.gold;
  }
  all.token_hash = hash_of(all.texts);
  return all;
}

}  // namespace experiments
