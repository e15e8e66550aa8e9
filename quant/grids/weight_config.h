// The variables of weight quantization (docs/keys.md), for the whole model or, through rules, for one module.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/config/keys.h"

namespace quant {

// How a range is searched, when it is.
struct RangeSearch : core::Section {
  int64_t grid = 100;
  double max_shrink = 0.8;
  double norm = 2.4;
  bool both_signs = false;

  void keys(core::Keys& k) override;
};

// Gaussian noise on the decoded weights, in steps of the scale.
struct NoiseConfig : core::Section {
  double sigma = 0.0;
  std::string at = "inference";

  void keys(core::Keys& k) override;
  bool in_inference() const { return sigma > 0 && at == "inference"; }
};

// Random rotations around a linear (quant/linear/rotation.h).
struct IncoherenceConfig : core::Section {
  std::string hadamard = "none";
  bool signs = true;

  void keys(core::Keys& k) override;
  bool selected() const { return hadamard != "none"; }
};

std::vector<std::string> presets();  // "q2_0", ...: every type of GGUF files whose blocks are made of codes

struct WeightConfig : core::Section {
  static constexpr int64_t kFullPrecision = 16;  // `bits` of a module that is left as it is

  std::string preset = "none";  // only in documents, see quant/grids/ggml_grid.h
  int64_t bits = 4;
  int64_t group_size = 64;
  std::string symmetry = "asymmetric";
  std::string zero_point = "int";
  std::string scale_dtype = "float16";
  int64_t scale_bits = 0;
  int64_t scale_group = 16;
  bool scale_zero = false;
  std::string range = "auto";
  RangeSearch range_search;
  double clip = 1.0;
  double offset = 0.0;
  std::string rounding = "nearest";
  NoiseConfig noise;
  IncoherenceConfig incoherence;
  std::string codebook = "uniform";
  std::vector<double> levels;

  void keys(core::Keys& k) override;
  void check() const override;
  bool covered() const { return bits != kFullPrecision; }
  // `range`, with what auto stands for in its place: minmax, mse or importance.
  std::string range_kind() const;
  // Whether a group's lowest level is stored in place of a zero point.
  bool stores_minimum() const { return codebook == "uniform" && symmetry == "asymmetric" && zero_point == "min"; }
  // Why these values leave a key unread ("symmetry: narrow"); empty: they do not. Giving both is a mistake, and the
  // resolved file leaves the key out.
  std::string unread(std::string_view key) const;

 private:
  void check_levels() const;
};

}  // namespace quant
