#include "experiments/runner.h"

#include <fmt/chrono.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>

#include "core/interrupt.h"
#include "core/io/csv.h"
#include "core/io/file_lock.h"
#include "core/io/files.h"
#include "experiments/results/control_table.h"
#include "experiments/results/latency_table.h"
#include "experiments/stages.h"
#include "replication/mix.h"

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

// The columns of this sweep; another one may have made the run.
Json swept(const Point& point) {
  Json swept = Json::object();
  for (const auto& [key, value] : point.swept) swept[key] = value;
  return swept;
}

Json failure(const Point& point, const std::string& reason) { return {{"swept", swept(point)}, {"failed", reason}}; }

// One file's points on their way to a table, beside other processes that may work on the same ones.
class Sweep {
 public:
  Sweep(const std::vector<Point>& points, Inputs& inputs) : points_(points), inputs_(inputs), rows_(points.size()) {
    for (const Point& point : points) directories_.push_back(run_directory(point.spec, run_id(point.spec, inputs)));
  }

  // Runs a point, or finds that it is finished; false when another runner holds it.
  bool run(size_t i, bool force) {
    const Point& point = points_[i];
    if (points_.size() > 1) spdlog::info("{} {}/{}: {}", point.spec.name, i + 1, points_.size(), label(point.swept));
    try {
      check_point(point.spec, inputs_);  // before the first tensor of the point: its control may not exist
      if (force || !is_finished(i))
        take(i, run_point(point, inputs_, force));
      else
        spdlog::info("finished before; --force runs it again");
    } catch (const core::HeldElsewhere& held) {
      if (points_.size() == 1) throw;
      spdlog::info("held by another runner ({}); the others first", held.holder);
      rows_[i] = failure(point, fmt::format("held by another runner ({})", held.holder));
      return false;
    } catch (const core::Interrupted&) {
      throw;
    } catch (const replication::NoControl& none) {
      spdlog::info("no control: {}", none.what());
      rows_[i] = failure(point, std::string("no control: ") + none.what());
    } catch (const core::NoPlace&) {  // the next point would not find any either
      throw;
    } catch (const std::exception& error) {
      if (points_.size() == 1) throw;
      spdlog::error("{}", error.what());  // our own bugs keep their stack here; the table gets the first line
      const std::string_view reason = error.what();
      rows_[i] = failure(point, std::string(reason.substr(0, reason.find('\n'))));
      failed_ = true;
    }
    write_summary();
    return true;
  }

  // Tables of all points that anybody has finished. Behind a lock, so that the one written last knows the most.
  void write_summary() {
    const Spec& spec = points_.front().spec;
    const std::string folder = spec.out + "/" + spec.name;
    core::create_directories(folder);
    const core::FileLock lock = core::FileLock::wait(folder + "/.summary.lock");
    std::vector<Json> rows;
    for (size_t i = 0; i < points_.size(); ++i) {
      if (is_finished(i) || !rows_[i].is_null()) rows.push_back(rows_[i]);
    }
    const Table table = make_table(rows);
    core::write_atomically(folder + "/summary.csv", table.csv());
    core::write_atomically(folder + "/summary.md", table.markdown());
    const Table speed = latency_table(rows);
    if (speed.rows.empty()) return;
    core::write_atomically(folder + "/latency.csv", speed.csv());
    core::write_atomically(folder + "/latency.md", speed.markdown());
  }

  // Replicas against their controls, once all are there.
  Table write_controls() {
    if (std::all_of(points_.begin(), points_.end(), [](const Point& point) { return point.control.empty(); }))
      return {};
    const Spec& spec = points_.front().spec;
    const std::string folder = spec.out + "/" + spec.name;
    const core::FileLock lock = core::FileLock::wait(folder + "/.summary.lock");
    write_exchange();
    Table table = control_table(points_, rows_, directories_);
    core::write_atomically(folder + "/controls.csv", table.csv());
    core::write_atomically(folder + "/controls.md", table.markdown());
    return table;
  }

  // What the curve of the single replica says of a replica is known behind the other runs: its results get it then.
  void write_exchange() {
    for (size_t i = 0; i < points_.size(); ++i) {
      if (points_[i].control != replication::ReplicationConfig::kNone) continue;
      const auto found = kl_exchange_of(points_, rows_, i);
      if (!found) continue;
      Json results = finished_results(directories_[i]);
      for (Json* row : {&results, &rows_[i]}) {
        (*row)["replication"]["eta_kl"] = found->eta ? Json(*found->eta) : Json(nullptr);
        (*row)["replication"]["gain_bits_kl"] = found->gain_bits;
      }
      core::write_atomically(directories_[i] + "/results.json", results.dump(2) + "\n");
    }
  }

  Outcome outcome(Table controls) && { return {std::move(rows_), failed_, std::move(controls)}; }

 private:
  void take(size_t i, Ran ran) {
    if (ran.now) append_to_index(points_[i].spec, ran.results);
    if (!ran.now) spdlog::info("finished by another runner");
    rows_[i] = std::move(ran.results);
    rows_[i]["swept"] = swept(points_[i]);
  }

  // Whether the point has its row; what another runner has finished meanwhile is taken over.
  bool is_finished(size_t i) {
    if (!rows_[i].is_null() && !rows_[i].contains("failed")) return true;
    Json results = finished_results(directories_[i]);
    if (results.is_null() || !outdated(results).empty()) return false;
    results["swept"] = swept(points_[i]);
    rows_[i] = std::move(results);
    return true;
  }

  const std::vector<Point>& points_;
  Inputs& inputs_;
  std::vector<std::string> directories_;
  std::vector<Json> rows_;  // null: nothing is known yet
  bool failed_ = false;
};

}  // namespace

void check_points(const std::vector<Point>& points, Inputs& inputs) {
  for (const Point& point : points) {
    try {
      check_point(point.spec, inputs);
    } catch (const replication::NoControl&) {
    }
  }
}

Outcome run_points(const std::vector<Point>& points, Inputs& inputs, bool force) {
  Sweep sweep(points, inputs);
  std::vector<size_t> held;
  for (size_t i = 0; i < points.size(); ++i) {
    if (!sweep.run(i, force)) held.push_back(i);
  }
  for (const size_t i : held) sweep.run(i, /*force=*/false);
  sweep.write_summary();
  Table controls = sweep.write_controls();
  return std::move(sweep).outcome(std::move(controls));
}

}  // namespace experiments
