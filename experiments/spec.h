// What one YAML file asks: the whole configuration, declared once. Defaults are the members' initialisers.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/config/keys.h"
#include "experiments/calibration.h"
#include "experiments/expect.h"
#include "experiments/measure/generation.h"
#include "experiments/measure/latency.h"
#include "experiments/measure/perplexity.h"
#include "quant/config.h"
#include "quant/qat/config.h"
#include "quant/transform.h"
#include "replication/config.h"

namespace experiments {

struct ModelConfig : core::Section {
  std::string path;
  std::string dtype = "auto";
  std::string residency = "auto";
  double spill_above = 1.0;

  void keys(core::Keys& k) override;
};

struct MeasureConfig : core::Section {
  std::vector<PerplexityConfig> perplexity;
  int64_t batch_tokens = 1024;
  bool kl = true;
  GenerationConfig generation;
  LatencyConfig latency;

  void keys(core::Keys& k) override;
  void check() const override;

  bool writes() const { return given("generation"); }  // `generation` is measured
  bool times() const { return given("latency"); }      // `latency` is measured
};

struct MachineConfig : core::Section {
  int64_t cache_bytes = 0;

  void keys(core::Keys& k) override;
};

struct RuntimeConfig : core::Section {
  std::string linears = "dense";
  int64_t rows = 64;

  void keys(core::Keys& k) override;
  bool is_packed() const { return linears != "dense"; }
};

struct SweepConfig : core::Section {
  core::Node grid;   // dotted key -> list of values
  core::Node cases;  // list of maps dotted key -> value

  void keys(core::Keys& k) override;
};

struct Spec : core::Section {
  std::string name;
  int64_t seed = 42;
  std::vector<int64_t> seeds;  // empty in every point: read_points makes one point per seed
  std::string device = "auto";
  ModelConfig model;
  CalibrationConfig calibration;
  std::vector<quant::TransformItem> transform;
  quant::QuantConfig quant;
  replication::ReplicationConfig replication;
  quant::QatConfig qat;
  MeasureConfig measure;
  RuntimeConfig runtime;
  MachineConfig machine;
  std::string checkpoint = "keep";
  SweepConfig sweep;
  core::Node expect;  // null in every point
  std::string out = "runs";
  int64_t threads = 0;
  bool quiet = false;

  void keys(core::Keys& k) override;
  void check() const override;

 private:
  void check_seeds() const;
  void check_transforms() const;
  void check_qat() const;
};

// One run of a sweep; a file without a sweep has one.
struct Point {
  Spec spec;                                               // without its sweep
  std::vector<std::pair<std::string, std::string>> swept;  // dotted key, value as text; the columns of the table
  std::vector<Expectation> expect;                         // of this point
  int64_t group = 0;                                       // of points that belong together: a replica, its controls
  std::string control;  // what it is among them (experiments/controls.h); "": the point has no controls
};

// All points that a document asks for, each bound and checked. grid: product of its lists; cases: one point each; both:
// every case × the grid. Beside each of them the controls that it asks for: `swept` then says which. Each once per
// seed, if there are `seeds`: `swept` then ends with the seed. `overrides` are assignments "key=value" of the command
// line, stronger than the file.
std::vector<Point> read_points(const std::string& file, const std::vector<std::string>& overrides);

}  // namespace experiments
