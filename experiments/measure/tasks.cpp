#include "experiments/measure/tasks.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <filesystem>
#include <set>

#include "core/error.h"
#include "core/io/csv.h"
#include "core/io/files.h"
#include "core/progress.h"
#include "experiments/measure/measures.h"

namespace experiments {

void TasksConfig::keys(core::Keys& k) {
  std::string known;
  for (const Task& task : task_table()) known += (known.empty() ? "" : ", ") + task.name;
  k.key("names", names, "tasks: " + known + "; or paths of files <task>.jsonl");
  k.key("limit", limit, "documents of each task, the first ones; 0: all", {0, 1 << 30});
  k.key("shots", shots, "answered documents before each question, the first ones of <task>.train.jsonl", {0, 1 << 10});
}

void TasksConfig::check() const {
  core::require(!names.empty(), "{}: names is empty. Name a task, e.g. [piqa].", where(""));
  std::set<std::string> seen;
  for (const std::string& name : names)
    core::require(seen.insert(task_of(request(name)).name).second, "{}: {} is there twice. Name each once.",
                  where("names"), name);
}

TaskRequest TasksConfig::request(const std::string& name) const {
  return {.name = name, .limit = limit, .shots = shots, .where = where("names")};
}

namespace {

// Texts that are scored between two looks at what is kept of an interrupted measurement.
constexpr int64_t kPortion = 1 << 16;  // tokens

// What an interrupted measurement has found, and goes on from.
class Unfinished {
 public:
  Unfinished(std::string file, std::string token_hash) : file_(std::move(file)), token_hash_(std::move(token_hash)) {
    if (file_.empty() || !std::filesystem::exists(file_)) return;
    const Json json = Json::parse(core::read_file(file_), nullptr, /*allow_exceptions=*/false);
    if (!json.is_object() || json.value("token_hash", "") != token_hash_) return;
    texts = json["texts"].get<size_t>();
    for (const Json& one : json["found"]) found.push_back({one[0].get<double>(), one[1].get<bool>()});
  }
  void keep() const {
    if (file_.empty()) return;
    Json all = Json::array();
    for (const Likelihood& one : found) all.push_back({one.sum, one.greedy});
    core::write_atomically(file_, Json{{"token_hash", token_hash_}, {"texts", texts}, {"found", all}}.dump());
  }

  void forget() const {
    std::error_code none;
    if (!file_.empty()) std::filesystem::remove(file_, none);
  }

  size_t texts = 0;  // that are scored
  std::vector<Likelihood> found;

 private:
  std::string file_, token_hash_;
};

std::vector<Likelihood> scored(const TaskItems& items, const Subject& subject) {
  const bool is_full = static_cast<bool>(subject.keep);
  const std::string what = items.task->name + (is_full ? " in full precision" : "");
  const std::string file = subject.progress.empty() ? ""
                                                    : fmt::format("{}/{}{}.json", subject.progress, items.task->name,
                                                                  is_full ? "-full" : "");
  Unfinished done(file, items.token_hash);
  if (done.texts > 0) spdlog::info("{}: goes on behind {} of {} texts", what, done.texts, items.texts.size());
  core::Progress bar(what, subject.quiet);
  const auto all = static_cast<int64_t>(items.texts.size());
  while (done.texts < items.texts.size()) {
    const auto first = items.texts.begin() + static_cast<std::ptrdiff_t>(done.texts);
    auto last = first;
    for (int64_t tokens = 0; last != items.texts.end() && (last == first || tokens + last->tokens() <= kPortion);
         ++last)
      tokens += last->tokens();
    const auto before = static_cast<int64_t>(done.texts), count = static_cast<int64_t>(last - first);
    const std::vector<Likelihood> found = likelihoods(
        subject.model, subject.source, {first, last},
        {.batch_tokens = subject.settings.batch_tokens,
         .on_step = [&](int64_t step, int64_t steps) { bar.update(before * steps + count * step, all * steps); }});
    done.found.insert(done.found.end(), found.begin(), found.end());
    done.texts += static_cast<size_t>(count);
    done.keep();
  }
  done.forget();
  return done.found;
}

// One row of items.csv per answer, or window of a page. What is right or chosen is told of the answer in question, so
// that sums over the rows of an item are about the item.
std::vector<std::vector<std::string>> rows_of(const TaskItems& items, const std::vector<Likelihood>& found) {
  std::vector<int64_t> tokens;
  for (const Continued& text : items.texts) {
    for (const auto& continuation : text.continuations) tokens.push_back(static_cast<int64_t>(continuation.size()));
  }
  const Task& task = *items.task;
  const auto flag = [](bool value) { return std::string(value ? "1" : "0"); };
  std::vector<std::vector<std::string>> rows;
  for (size_t n = 0; n < items.items.size(); ++n) {
    const TaskItems::Item& item = items.items[n];
    const bool several = item.choices.size() > 1;
    const Chosen won = task.ask ? chosen(item, found) : Chosen{};
    for (size_t i = 0; i < item.choices.size(); ++i) {
      const TaskItems::Choice& choice = item.choices[i];
      const Likelihood& one = found[choice.request];
      const auto index = static_cast<int64_t>(i);
      const auto right = [&](int64_t winner) {
        return flag(several ? index == item.gold && index == winner : one.greedy);
      };
      std::vector<std::string>& row = rows.emplace_back();
      row = {task.name,
             core::csv_cell(static_cast<int64_t>(n)),
             core::csv_cell(index),
             core::csv_cell(one.sum),
             core::csv_cell(tokens[choice.request]),
             core::csv_cell(choice.characters),
             core::csv_cell(choice.bytes),
             flag(one.greedy)};
      row.push_back(task.ask ? flag(index == item.gold) : "");
      row.push_back(task.ask && several ? core::csv_cell(index == won.plain ? index : 0) : "");
      row.push_back(task.ask ? right(won.plain) : "");
      row.push_back(task.has(kAccNorm) ? right(won.by_character) : "");
      row.push_back(several && task.ask ? "" : core::csv_cell(-one.sum));
    }
  }
  return rows;
}

Found measured(const TaskItems& items, int64_t shots, const Subject& subject) {
  const std::vector<Likelihood> found = scored(items, subject);
  Found all{.values = {{"task", items.task->name},
                       {"items", static_cast<int64_t>(items.items.size())},
                       {"shots", shots},
                       {"requests", static_cast<int64_t>(found.size())},
                       {"truncated", items.truncated},
                       {"token_hash", items.token_hash}},
            .items = rows_of(items, found)};
  all.values.update(task_metrics(items, found));
  return all;
}

}  // namespace

Prepared TasksConfig::prepare(Texts& texts) const {
  TORCH_CHECK(names.size() == 1, "a measurement is of one task");
  const auto items = std::make_shared<const TaskItems>(
      task_items(task_texts(request(names.front())), texts.tokenizer(), texts.shape()));
  return {items->token_hash,
          [items, shots = shots](const Subject& subject) { return measured(*items, shots, subject); }};
}

std::vector<Column> TasksConfig::columns() const {
  const auto share = [](const char* heading, const char* path, const char* deviation = "") {
    return Column{.heading = heading,
                  .path = path,
                  .digits = 2,
                  .unit = Column::Unit::percent,
                  .less_is_better = false,
                  .optional = true,
                  .deviation_of = deviation};
  };
  return {share("acc", "acc"),
          share("±", "acc_stderr", "acc"),
          share("acc_norm", "acc_norm"),
          {.heading = "ppl of answers", .path = "perplexity", .optional = true},
          {.heading = "ppl of words", .path = "word_perplexity", .optional = true},
          {.heading = "bits per byte", .path = "bits_per_byte", .optional = true}};
}

ItemFile TasksConfig::items() const {
  return {.name = "items.csv",
          .columns = {"task", "item", "choice", "loglikelihood", "tokens", "characters", "bytes", "greedy", "gold",
                      "chosen", "acc", "acc_norm", "nll"},
          .count = "items",
          .tokens = "items",
          .quantities = {{.column = "acc", .name = "acc", .less_is_better = false, .is_share = true},
                         {.column = "acc_norm", .name = "acc_norm", .less_is_better = false, .is_share = true},
                         {.column = "nll", .name = "NLL of an item"}},
          .item = "item",
          .answer = "chosen"};
}

std::string TasksConfig::label(const Json& values) const {
  const auto shots = values.value("shots", int64_t{0});
  return values.at("task").get<std::string>() + (shots > 0 ? fmt::format(" ({} shots)", shots) : "");
}

MeasureKind make_tasks() {
  return {.help = "downstream tasks, scored as lm-evaluation-harness 0.4.13 does; nothing unless given",
          .is_list = true,
          .make = [] { return TasksConfig{}; },
          .each =
              [](const Measure& given) {
                std::vector<core::Polymorphic<Measure>> all;
                const auto& config = dynamic_cast<const TasksConfig&>(given);
                for (const std::string& name : config.names) {
                  TasksConfig one = config;
                  one.names = {name};
                  all.emplace_back(one);
                }
                return all;
              }};
}

}  // namespace experiments
