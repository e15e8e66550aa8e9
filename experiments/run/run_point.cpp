#include "experiments/run/run_point.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "core/hidden_store.h"
#include "core/io/file_lock.h"
#include "core/io/files.h"
#include "core/machine.h"
#include "core/warn_once.h"
#include "experiments/run/directories.h"
#include "experiments/run/pipeline.h"
#include "experiments/run/record.h"
#include "experiments/run/resume.h"
#include "experiments/run/stages.h"
#include "export/checkpoint.h"

namespace experiments {

namespace fs = std::filesystem;

namespace {

// Every key that the run reads, with its value; keys of the whole file that it does not read as comments.
std::string resolved_text(const Run& run) {
  Spec copy = run.spec();
  core::Node node = core::to_node(copy);
  const std::vector<std::string> unread = copy.replication.unread();
  if (core::Node* weight = node.find("quant")->find("weight")) {
    std::erase_if(weight->entries,
                  [&](const auto& entry) { return std::count(unread.begin(), unread.end(), entry.first) > 0; });
  }
  std::string text = core::to_yaml(node);
  const quant::WeightConfig& weight = copy.quant.weight;
  const bool reads_range =
      run.quantizes() && !copy.quant.brings_codes() && std::count(unread.begin(), unread.end(), "range") == 0;
  if (reads_range && weight.range == "auto" && weight.covered())
    text += fmt::format("# quant.weight.range: auto is {} at {} bits\n", weight.range_kind(), weight.bits);
  for (const InactiveKey& key : run.point.inactive)
    text += fmt::format("# not read with {}: {}: {}\n", key.reason, key.key, key.value);
  return text;
}

void log_inactive(const Run& run) {
  std::vector<std::string> keys;
  for (const InactiveKey& key : run.point.inactive) keys.push_back(fmt::format("{} ({})", key.key, key.reason));
  if (!keys.empty()) spdlog::info("keys of the file that this run does not read: {}", fmt::join(keys, ", "));
}

// Lines of this run go to its log.txt too, and those that were logged when its model was checked.
class RunLog {
 public:
  RunLog(const std::string& directory, const std::string& model)
      : sink_(std::make_shared<spdlog::sinks::basic_file_sink_mt>(directory + "/log.txt")) {
    sink_->set_pattern("%Y-%m-%d %H:%M:%S %l %v");
    for (const std::string& line : core::warnings_about(model)) spdlog::logger("", sink_).warn("{}", line);
    spdlog::default_logger()->sinks().push_back(sink_);
  }
  ~RunLog() {
    auto& sinks = spdlog::default_logger()->sinks();
    sinks.erase(std::find(sinks.begin(), sinks.end(), sink_));
  }
  RunLog(const RunLog&) = delete;
  RunLog& operator=(const RunLog&) = delete;

  // What is for log.txt alone, and what is printed too.
  void write(const Found& found) const {
    if (!found.log_file.empty()) spdlog::logger("", sink_).info("{}", found.log_file);
    for (const std::string& line : found.log) spdlog::info("{}", line);
  }

 private:
  spdlog::sink_ptr sink_;
};

// Everything behind the lock.
Row run_in_directory(const Run& run, Resources& resources) {
  const Spec& spec = run.spec();
  const std::string& directory = run.directory;
  const RunLog log(directory, run.files->path);
  log_inactive(run);
  const Threads threads(resume(directory, spec));
  if (residency_of(spec, weights_of(spec, *run.files)) == exports::Residency::stream) core::return_freed_tensors();
  core::limit_hidden_states(static_cast<int64_t>(spec.model.spill_above * 1e9), spec.out + "/.cache");
  core::write_atomically(directory + "/resolved.yaml", resolved_text(run));

  resources.write_generated(*run.files, spec, run.shape);
  const RunRecord record = compute(run, resources);
  for (const auto& found : record.quantized) {
    if (found) log.write(*found);
  }
  report(record.training, stored_bits(record.bill.all));

  core::write_atomically(directory + "/modules.csv", modules_csv(record.modules));
  for (const auto& [name, content] : item_files(run, record)) core::write_atomically(directory + "/" + name, content);
  if (!record.training.empty()) core::write_atomically(directory + "/qat_log.csv", training_csv(record.training));
  const std::string checkpoint = checkpoint_directory(directory);
  if (spec.checkpoint == "discard") fs::remove_all(checkpoint);
  Json results = results_json(run, record, fs::exists(checkpoint) ? exports::bytes_on_disk(checkpoint) : 0);
  core::write_atomically(directory + "/results.json", results.dump(2) + "\n");
  fs::remove_all(progress_directory(directory));
  fs::remove_all(untrained_directory(directory));
  return Row(std::move(results));
}

}  // namespace

Ran run_point(const Run& run, Resources& resources, bool force) {
  const std::string& directory = run.directory;
  const bool made = !fs::exists(directory);
  core::create_directories(directory);
  const core::FileLock lock = core::FileLock::directory(directory);
  if (std::optional<Row> found = force ? std::nullopt : finished_results(directory)) {
    const std::string reason = outdated(*found);
    if (reason.empty()) return {std::move(*found), false};
    spdlog::info("a stale run is made anew: {}", reason);
  }
  try {
    return {run_in_directory(run, resources), true};
  } catch (const core::UserError&) {
    std::error_code ignored;
    if (made && !has_progress(directory)) fs::remove_all(directory, ignored);
    throw;
  }
}

}  // namespace experiments
