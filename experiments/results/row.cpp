#include "experiments/results/row.h"

#include <filesystem>

#include "core/error.h"
#include "core/io/files.h"
#include "experiments/measure/measures.h"

namespace experiments {

namespace {

Json::json_pointer pointer(const std::string& path) { return Json::json_pointer("/" + path); }

// The field of an object as a T; `standard` where it is not there.
template <class T>
T field(const Json& object, const char* name, T standard) {
  if (!object.contains(name)) return standard;
  try {
    return object.at(name).get<T>();
  } catch (const Json::exception&) {
    core::fail("results.json: {} is {}. Run it again with --force.", name, object.at(name).dump().substr(0, 40));
  }
}

MeasuredModel measured_of(const Json& json) {
  MeasuredModel all;
  for (const MeasureKind& kind : measure_kinds()) {
    if (!json.contains(kind.name)) continue;
    const Json& found = json.at(kind.name);
    core::require(kind.is_list ? found.is_array() : found.is_object(),
                  "results.json: {} is not what this measure finds. Run it again with --force.", kind.name);
    if (!kind.is_list) all[kind.name] = {found};
    if (kind.is_list) all[kind.name] = found.get<std::vector<Json>>();
  }
  return all;
}

StageRecord stage_of(const Json& json) {
  core::require(json.is_object(), "results.json: its stages cannot be read. Run it again with --force.");
  return {.name = field<std::string>(json, "name", ""),
          .version = field<int>(json, "version", 0),
          .seconds = field<double>(json, "seconds", 0),
          .peak_rss_bytes = field<int64_t>(json, "peak_rss_bytes", 0),
          .cached = field<bool>(json, "cached", false),
          .parts = field<std::map<std::string, int>>(json, "parts", {})};
}

}  // namespace

Row::Row(Json json) : json_(std::move(json)) { parse(); }

Row Row::failed(const std::vector<std::pair<std::string, std::string>>& swept, const std::string& reason) {
  Json fields = Json::object();
  for (const auto& [key, value] : swept) fields[key] = value;
  return Row({{"swept", fields}, {"failed", reason}});
}

void Row::parse() {
  core::require(json_.is_object(), "results.json is no object. Run it again with --force.");
  const Json swept = field(json_, "swept", Json::object()), stages = field(json_, "stages", Json::array());
  for (const auto& [key, value] : swept.items()) {
    core::require(value.is_string(), "results.json: swept.{} is no text. Run it again with --force.", key);
    swept_.emplace_back(key, value.get<std::string>());
  }
  failure_ = field<std::string>(json_, "failed", "");
  if (!finished()) return;
  id_ = field<std::string>(json_, "id", "");
  seed_ = field<int64_t>(json_, "seed", 0);
  for (const Json& stage : stages) stages_.push_back(stage_of(stage));
  if (json_.contains("baseline") && !json_["baseline"].is_null()) baseline_ = measured_of(json_["baseline"]);
  if (json_.contains("quantized")) quantized_ = measured_of(json_["quantized"]);
}

void Row::set_swept(const std::vector<std::pair<std::string, std::string>>& swept) {
  Json fields = Json::object();
  for (const auto& [key, value] : swept) fields[key] = value;
  json_["swept"] = std::move(fields);
  swept_ = swept;
}

std::string Row::swept(const std::string& key) const {
  for (const auto& [name, value] : swept_) {
    if (name == key) return value;
  }
  return {};
}

double Row::seconds() const {
  double sum = 0;
  for (const StageRecord& stage : stages_) sum += stage.seconds;
  return sum;
}

std::optional<double> Row::number_at(const Json& json, const std::string& path) {
  const Json::json_pointer place = pointer(path);
  if (!json.contains(place) || json.at(place).is_null()) return std::nullopt;
  const Json& value = json.at(place);
  core::require(value.is_number(), "results.json: {} is {}, no number. Run it again with --force.", path,
                value.dump().substr(0, 40));
  return value.get<double>();
}

void Row::set_number(const std::string& path, std::optional<double> value) {
  json_[pointer(path)] = value ? Json(*value) : Json(nullptr);
}

bool Row::has(const std::string& path) const { return json_.contains(pointer(path)); }

std::optional<Row> finished_results(const std::string& directory) {
  const std::string file = directory + "/results.json";
  if (!std::filesystem::exists(file)) return std::nullopt;
  Json results = Json::parse(core::read_file(file), nullptr, /*allow_exceptions=*/false);
  if (!results.is_object() || results.value("schema", Json()) != 1) return std::nullopt;
  try {
    return Row(std::move(results));
  } catch (const core::UserError&) {
    return std::nullopt;
  }
}

}  // namespace experiments
