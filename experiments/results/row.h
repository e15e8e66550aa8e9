// A row of a table: a finished run as its results.json tells it, read once and checked, or the reason why there is
// none.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "experiments/json.h"
#include "experiments/measure/measure.h"

namespace experiments {

// One stage of a run. Parts are what it is made of and the versions of their code.
struct StageRecord {
  std::string name;
  int version = 0;
  double seconds = 0;
  int64_t peak_rss_bytes = 0;  // most resident memory during the stage
  bool cached = false;
  std::map<std::string, int> parts = {};
};

// What one model was measured to be: by name of the measure its measurements, a single section's being one.
using MeasuredModel = std::map<std::string, std::vector<Json>>;

class Row {
 public:
  // results.json, or {"swept": …, "failed": reason}. UserError: a field that tables read has another type.
  Row(Json json);  // NOLINT: a row is its results
  static Row failed(const std::vector<std::pair<std::string, std::string>>& swept, const std::string& reason);

  const Json& json() const { return json_; }      // all of it, for `expect`
  operator const Json&() const { return json_; }  // NOLINT: likewise
  const Json& operator[](const char* field) const { return json_.at(field); }
  bool contains(const char* field) const { return json_.contains(field); }

  bool finished() const { return failure_.empty(); }
  const std::string& failure() const { return failure_; }  // empty: it is finished

  const std::vector<std::pair<std::string, std::string>>& swept() const { return swept_; }
  void set_swept(const std::vector<std::pair<std::string, std::string>>& swept);
  std::string swept(const std::string& key) const;  // its value as text; "" if it was not swept

  const std::string& id() const { return id_; }
  int64_t seed() const { return seed_; }
  const std::vector<StageRecord>& stages() const { return stages_; }
  double seconds() const;  // of all stages

  // The number at a path, "bits/with_parameters"; none where it is null or not there.
  std::optional<double> number(const std::string& path) const { return number_at(json_, path); }
  // Puts a number there, null for none.
  void set_number(const std::string& path, std::optional<double> value);
  bool has(const std::string& path) const;  // be it null

  const std::optional<MeasuredModel>& baseline() const { return baseline_; }  // none for a model without full precision
  const MeasuredModel& quantized() const { return quantized_; }

  static std::optional<double> number_at(const Json& json, const std::string& path);

 private:
  void parse();

  Json json_;
  std::string failure_, id_;
  std::vector<std::pair<std::string, std::string>> swept_;
  int64_t seed_ = 0;
  std::vector<StageRecord> stages_;
  std::optional<MeasuredModel> baseline_;
  MeasuredModel quantized_;
};

// The results of a finished run, stale or not (experiments/run/stages.h); none when there are none that can be read.
std::optional<Row> finished_results(const std::string& directory);

}  // namespace experiments
