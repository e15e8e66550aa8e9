#include "experiments/runner.h"

#include <fmt/chrono.h>
#include <spdlog/spdlog.h>

#include <chrono>

#include "core/interrupt.h"
#include "core/io/csv.h"
#include "core/io/files.h"
#include "experiments/results/table.h"

namespace experiments {

namespace {

std::string utc_now() {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}",
                     fmt::gmtime(std::chrono::system_clock::to_time_t(std::chrono::system_clock::now())));
}

// One line per finished run, for ever.
void append_to_index(const Spec& spec, const Json& results) {
  const Json& measured = results["quantized"]["perplexity"];
  const std::string first = measured.empty() ? "" : core::csv_cell(measured[0]["ppl"].get<double>());
  const Json& bits = results["bits"]["with_parameters"];
  const std::vector<std::string> cells{utc_now(),
                                       spec.name,
                                       results["id"],
                                       spec.model.path,
                                       spec.quant.method,
                                       bits.is_null() ? "" : core::csv_cell(bits.get<double>()),
                                       measured.empty() ? "" : measured[0]["corpus"].get<std::string>(),
                                       first};
  core::append_line(spec.out + "/index.csv", core::csv_line(cells),
                    "time,name,id,model,method,bits_with_parameters,corpus,ppl");
}

Json swept(const Point& point) {
  Json swept = Json::object();
  for (const auto& [key, value] : point.swept) swept[key] = value;
  return swept;
}

Json failure(const Point& point, const std::string& reason) { return {{"swept", swept(point)}, {"failed", reason}}; }

}  // namespace

Outcome run_points(const std::vector<Point>& points, Inputs& inputs, bool force) {
  Outcome outcome;
  for (size_t i = 0; i < points.size(); ++i) {
    const Point& point = points[i];
    const Spec& spec = point.spec;
    const std::string id = run_id(spec, inputs);
    if (points.size() > 1) spdlog::info("{} {}/{}: {}", spec.name, i + 1, points.size(), label(point.swept));
    Json results = force ? Json(nullptr) : finished_results(run_directory(spec, id));
    if (!results.is_null()) {
      spdlog::info("finished before; --force runs it again");
      results["swept"] = swept(point);  // another sweep may have run it
    } else {
      try {
        results = run_point(point, inputs);
        append_to_index(spec, results);
      } catch (const core::Interrupted&) {
        throw;
      } catch (const std::exception& error) {
        if (points.size() == 1) throw;
        spdlog::error("{}", error.what());  // our own bugs keep their stack here; the table gets the first line
        const std::string_view reason = error.what();
        results = failure(point, std::string(reason.substr(0, reason.find('\n'))));
        outcome.failed = true;
      }
    }
    outcome.rows.push_back(std::move(results));
    const Table table = make_table(outcome.rows);
    const std::string folder = spec.out + "/" + spec.name;
    core::create_directories(folder);
    core::write_atomically(folder + "/summary.csv", table.csv());
    core::write_atomically(folder + "/summary.md", table.markdown());
  }
  return outcome;
}

}  // namespace experiments
