// What one YAML file asks: the whole configuration, declared once. Defaults are the members' initialisers.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/config/keys.h"
#include "experiments/config/calibration.h"
#include "experiments/config/expect.h"
#include "experiments/measure/measures.h"
#include "export/exporter.h"
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

struct MachineConfig : core::Section {
  int64_t cache_bytes = 0;

  void keys(core::Keys& k) override;
};

// Tokens in front of every text (core/nn/prefix.h).
struct PrefixConfig : core::Section {
  static constexpr int64_t kMost = 16;  // tokens

  core::Node tokens;  // null: none; `auto`, or a list of ids

  void keys(core::Keys& k) override;
  void check() const override;
  bool selected() const { return !tokens.is_null(); }
  bool is_auto() const { return tokens.is_scalar(); }
  std::vector<int64_t> ids() const;  // of a list
};

struct RuntimeConfig : core::Section {
  std::string linears = "dense";
  int64_t rows = 64;
  PrefixConfig prefix;

  void keys(core::Keys& k) override;
  bool is_packed() const { return linears != "dense"; }
  bool rounds_inputs() const { return linears == "packed_int8"; }
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
  exports::ExportConfig exports;
  SweepConfig sweep;
  core::Node expect;  // null in every point
  std::string out = "runs";
  int64_t threads = 0;
  bool quiet = false;

  void keys(core::Keys& k) override;
  void check() const override;
  // calibration.targets and calibration.true_sequential, with what auto stands for in its place.
  bool corrects_targets() const;
  bool is_sequential() const;

 private:
  void check_seeds() const;
  void check_sequential() const;
  void check_prefix() const;
  void check_targets() const;
  void check_transforms() const;
  void check_qat() const;
};

}  // namespace experiments
