#include "experiments/run/runner.h"

#include <fmt/chrono.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <deque>

#include "core/interrupt.h"
#include "core/io/csv.h"
#include "core/io/file_lock.h"
#include "core/io/files.h"
#include "experiments/results/control_table.h"
#include "experiments/run/exports.h"
#include "experiments/run/run_point.h"
#include "experiments/run/stages.h"

namespace experiments {

namespace {

std::string utc_now() {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}",
                     fmt::gmtime(std::chrono::system_clock::to_time_t(std::chrono::system_clock::now())));
}

// One line per finished run, for ever.
void append_to_index(const Spec& spec, const Row& row) {
  const auto [measured_on, value] = headline(row);
  const std::optional<double> bits = row.number("bits/with_parameters");
  const std::vector<std::string> cells{
      utc_now(),   spec.name, row.id(), spec.model.path, spec.quant.method, bits ? core::csv_cell(*bits) : "",
      measured_on, value};
  core::append_line(spec.out + "/index.csv", core::csv_line(cells),
                    "time,name,id,model,method,bits_with_parameters,measured_on,result");
}

// One file's points on their way to a table, beside other processes that may work on the same ones.
class Sweep {
 public:
  explicit Sweep(Resources& resources) : resources_(resources) {}

  void add(std::vector<Run> runs) {
    for (Run& run : runs) {
      if (run.no_control.empty()) identify(run, resources_);
      rows_.push_back(Row::failed(run.point.swept, kUnknown));
      runs_.push_back(std::move(run));
    }
  }
  size_t size() const { return runs_.size(); }

  // Runs a point, or finds that it is finished; false when another runner holds it.
  bool run(size_t i, bool force) {
    const Run& run = runs_[i];
    if (runs_.size() > 1) spdlog::info("{} {}/{}: {}", run.spec().name, i + 1, runs_.size(), label(run.point.swept));
    try {
      if (!run.no_control.empty()) {
        spdlog::info("no control: {}", run.no_control);
        rows_[i] = Row::failed(run.point.swept, "no control: " + run.no_control);
      } else if (force || !is_finished(i)) {
        take(i, run_point(run, resources_, force));
      } else {
        spdlog::info("finished before; --force runs it again");
      }
      if (run.no_control.empty()) write_exports(run);
    } catch (const core::HeldElsewhere& held) {
      if (runs_.size() == 1) throw;
      spdlog::info("held by another runner ({}); the others first", held.holder);
      rows_[i] = Row::failed(run.point.swept, fmt::format("held by another runner ({})", held.holder));
      return false;
    } catch (const core::Interrupted&) {
      throw;
    } catch (const replication::NoControl& none) {  // once its linears were ranked
      spdlog::info("no control: {}", none.what());
      rows_[i] = Row::failed(run.point.swept, std::string("no control: ") + none.what());
    } catch (const core::NoPlace&) {  // the next point would not find any either
      throw;
    } catch (const std::exception& error) {
      if (runs_.size() == 1) throw;
      spdlog::error("{}", error.what());  // our own bugs keep their stack here; the table gets the first line
      const std::string_view reason = error.what();
      rows_[i] = Row::failed(run.point.swept, std::string(reason.substr(0, reason.find('\n'))));
      failed_ = true;
    }
    write_summary();
    return true;
  }

  // Tables of all points that anybody has finished. Behind a lock, so that the one written last knows the most.
  void write_summary() {
    const std::string folder = folder_of_tables();
    core::create_directories(folder);
    const core::FileLock lock = core::FileLock::wait(folder + "/.summary.lock");
    std::vector<Row> known;
    for (size_t i = 0; i < runs_.size(); ++i) {
      if (is_finished(i) || rows_[i].failure() != kUnknown) known.push_back(rows_[i]);
    }
    write_table(make_table(known), folder + "/summary");
    for (const auto& [name, table] : detail_tables(known)) write_table(table, folder + "/" + name);
  }

  // Replicas against their controls, once all are there.
  Table write_controls() {
    const std::vector<Point> points = this->points();
    if (std::all_of(points.begin(), points.end(), [](const Point& point) { return point.control.empty(); })) return {};
    const core::FileLock lock = core::FileLock::wait(folder_of_tables() + "/.summary.lock");
    write_exchange(points);
    std::vector<std::string> directories;
    for (const Run& run : runs_) directories.push_back(run.directory);
    Table table = control_table(points, rows_, directories);
    write_table(table, folder_of_tables() + "/controls");
    return table;
  }

  const std::vector<Row>& rows() const { return rows_; }
  Outcome outcome(Table controls) && {
    std::vector<Point> points = this->points();
    return {std::move(rows_), std::move(points), failed_, std::move(controls)};
  }

 private:
  static constexpr const char* kUnknown = "not run yet";

  std::string folder_of_tables() const { return runs_.front().spec().out + "/" + runs_.front().spec().name; }

  static void write_table(const Table& table, const std::string& file) {
    core::write_atomically(file + ".csv", table.csv());
    core::write_atomically(file + ".md", table.markdown());
  }

  std::vector<Point> points() const {
    std::vector<Point> points;
    for (const Run& run : runs_) points.push_back(run.point);
    return points;
  }

  // What the curve of the single replica says of a replica is known behind the other runs: its results get it then.
  void write_exchange(const std::vector<Point>& points) {
    for (size_t i = 0; i < runs_.size(); ++i) {
      if (points[i].control != replication::ReplicationConfig::kNone) continue;
      const auto found = kl_exchange_of(points, rows_, i);
      if (!found) continue;
      std::optional<Row> results = finished_results(runs_[i].directory);
      for (Row* row : {&*results, &rows_[i]}) {
        row->set_number("replication/eta_kl", found->eta);
        row->set_number("replication/gain_bits_kl", found->gain_bits);
      }
      core::write_atomically(runs_[i].directory + "/results.json", results->json().dump(2) + "\n");
    }
  }

  void take(size_t i, Ran ran) {
    if (ran.now) append_to_index(runs_[i].spec(), ran.row);
    if (!ran.now) spdlog::info("finished by another runner");
    rows_[i] = std::move(ran.row);
    rows_[i].set_swept(runs_[i].point.swept);  // another sweep may have made the run
  }

  // Whether the point has its row; what another runner has finished meanwhile is taken over.
  bool is_finished(size_t i) {
    if (rows_[i].finished()) return true;
    if (!runs_[i].no_control.empty()) return false;
    std::optional<Row> found = finished_results(runs_[i].directory);
    if (!found || !outdated(*found).empty()) return false;
    found->set_swept(runs_[i].point.swept);
    rows_[i] = std::move(*found);
    return true;
  }

  Resources& resources_;
  std::deque<Run> runs_;
  std::vector<Row> rows_;  // kUnknown: nothing is known yet
  bool failed_ = false;
};

std::vector<Run> resolved(std::vector<Point> points, Resources& resources) {
  std::vector<Run> runs;
  for (Point& point : points) runs.push_back(resolve(std::move(point), resources));
  check_export_paths(runs);
  return runs;
}

}  // namespace

Experiment open_experiment(std::unique_ptr<PointSource> source, Resources& resources) {
  std::vector<Run> runs = resolved(source->next({}), resources);
  return {std::move(source), std::move(runs)};
}

Experiment open_experiment(const std::string& file, const std::vector<std::string>& overrides, Resources& resources) {
  return open_experiment(std::make_unique<ListedPoints>(read_points(file, overrides)), resources);
}

Outcome run_experiment(Experiment experiment, Resources& resources, bool force) {
  Sweep sweep(resources);
  std::vector<Run> generation = std::move(experiment.runs);
  while (!generation.empty()) {
    const size_t first = sweep.size();
    sweep.add(std::move(generation));
    std::vector<size_t> held;
    for (size_t i = first; i < sweep.size(); ++i) {
      if (!sweep.run(i, force)) held.push_back(i);
    }
    for (const size_t i : held) sweep.run(i, /*force=*/false);
    generation = resolved(experiment.source->next(sweep.rows()), resources);
  }
  sweep.write_summary();
  Table controls = sweep.write_controls();
  return std::move(sweep).outcome(std::move(controls));
}

}  // namespace experiments
