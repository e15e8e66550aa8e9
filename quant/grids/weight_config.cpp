#include "quant/grids/weight_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "core/error.h"
#include "core/io/ggml_types.h"

namespace quant {

void RangeSearch::keys(core::Keys& k) {
  k.key("grid", grid, "candidates are p = 1 - i/grid", {1, 10000});
  k.key("max_shrink", max_shrink, "for i < grid * max_shrink", {0, 1, /*low_open=*/true});
  k.key("norm", norm, "exponent of the error that is least: sum of |w - w'|^norm", {0.1, 16});
  core::Key& signs = k.key(
      "both_signs", both_signs,
      "also try the range mirrored at 0, which matters to signed_full: its level of largest magnitude has one sign");
  if (!both_signs) signs.only_if_given();
}

void NoiseConfig::keys(core::Keys& k) {
  k.key("sigma", sigma, "standard deviation in steps: every weight becomes w' + sigma * s * N(0,1); stored nowhere",
        {0, 1000});
  k.key("at", at,
        "inference: one fixed draw per module and seed; train: a new draw per optimizer step and none when measuring",
        {"inference", "train"});
}

void IncoherenceConfig::keys(core::Keys& k) {
  k.key("hadamard", hadamard,
        "the weight is coded between Hadamard matrices, which the product undoes: of its inputs and outputs, or of its "
        "inputs alone; of a width without one the largest blocks that have one",
        {"none", "input", "both"});
  k.key("signs", signs, "random signs before each matrix, drawn from the seed");
}

std::vector<std::string> presets() {
  std::vector<std::string> names;
  for (const core::GgmlType* type : core::coded_ggml_types()) {
    std::string name = type->name;
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
    names.push_back(std::move(name));
  }
  return names;
}

void WeightConfig::keys(core::Keys& k) {
  std::vector<std::string> choices = presets();
  choices.insert(choices.begin(), "none");
  k.key("preset", preset,
        "the grid of an element type of GGUF files, in place of the keys that make it; the resolved file holds those",
        choices)
      .only_if_given();
  k.key("bits", bits,
        "bits of a code, 1 to 8; 16 leaves the module in full precision and out of the bill's denominator", {1, 16});
  k.key("group_size", group_size,
        "weights of one row that share a scale and a zero point; -1: the whole row; 0: the whole matrix", {-1, 65536});
  core::Key& symmetric = k.key(
      "symmetry", symmetry,
      "how scale and levels follow from a group's range: asymmetric stores a zero point; narrow (2 bits or more), "
      "span, signed_full, noclip (2 or more) have level 0 at code 2^(bits-1); midrise has levels +-s/2, +-3s/2, ...",
      {"asymmetric", "narrow", "span", "signed_full", "noclip", "midrise"});
  core::Key& zero = k.key(
      "zero_point", zero_point,
      "read by symmetry: asymmetric; int: stored in `bits` bits; float: stored like the scale; min: in its place the "
      "lowest level m, stored like the scale (two-level: a code, and one float per scale_group), level s k + m",
      {"int", "float", "min"});
  k.key("scale_dtype", scale_dtype, "dtype in which scales and float zero points are stored",
        {"float16", "bfloat16", "float32"});
  k.key("scale_bits", scale_bits,
        "two-level scales: bits of a group's scale relative to one in scale_dtype that groups share; 0: one level",
        {0, 8});
  k.key("scale_group", scale_group, "groups of a row that share the upper of two levels; -1: all of the row",
        {-1, 65536});
  core::Key& zero_scale = k.key(
      "scale_zero", scale_zero,
      "two-level scales: the multiple of a group is its code, counted from 0 (with a sign from -2^(scale_bits-1)), "
      "as in the K types of GGUF; false: from 1");
  k.key("range", range,
        "range of a group: minmax; mse: shrunk to the least error; importance: error weighted by the mean square of "
        "the inputs; auto: mse at 3 bits and fewer, where minmax spends its few levels on the ends, else minmax",
        {"auto", "minmax", "mse", "importance"});
  k.section("range_search", range_search, "how mse and importance look for the range");
  k.key("clip", clip, "factor on the range, after the search", {0, 1, /*low_open=*/true});
  k.key("offset", offset, "shift of all levels in steps of the scale; one stored number per tensor", {-256, 256});
  k.key("rounding", rounding,
        "nearest: half to even; stochastic: up with a probability equal to the fractional part, drawn from the seed",
        {"nearest", "stochastic"});
  k.section("noise", noise, "noise on the quantized weights");
  core::Key& rotations =
      k.section("incoherence", incoherence, "random rotations around a linear, which spread outliers");
  if (!incoherence.selected()) rotations.only_if_given();
  k.key("codebook", codebook,
        "levels of a code: uniform (equal steps, as symmetry says), or a table t per tensor with level s * t[k], "
        "s = max|w| / max|t|, for which symmetry and zero_point must not be given: lloyd_max (fitted to the tensor), "
        "normal_float (quantiles of a normal distribution, 2 bits or more), levels (as listed)",
        {"uniform", "lloyd_max", "normal_float", "levels"});
  core::Key& listed = k.key("levels", levels, "the 2^bits ascending numbers t of codebook: levels");
  if (!unread("symmetry").empty()) symmetric.only_if_given();
  if (!unread("zero_point").empty()) zero.only_if_given();
  if (!unread("levels").empty()) listed.only_if_given();
  if (!scale_zero) zero_scale.only_if_given();
}

std::string WeightConfig::range_kind() const {
  if (range != "auto") return range;
  return bits <= 3 ? "mse" : "minmax";
}

std::string WeightConfig::unread(std::string_view key) const {
  const bool uniform = codebook == "uniform";
  if ((key == "symmetry" || key == "zero_point") && !uniform) return "codebook: " + codebook;
  if (key == "levels" && codebook != "levels") return "codebook: " + codebook;
  if (key == "zero_point" && symmetry != "asymmetric") return "symmetry: " + symmetry;
  if (key == "scale_zero" && scale_bits == 0) return "scale_bits: 0";
  return {};
}

void WeightConfig::check_levels() const {
  const size_t codes = size_t{1} << bits;
  core::require(levels.size() == codes, "{} needs {} numbers at {} bits, not {}.", where("levels"), codes, bits,
                levels.size());
  core::require(std::is_sorted(levels.begin(), levels.end(), std::less_equal<>()),
                "{} must be ascending, without equal neighbours.", where("levels"));
}

void WeightConfig::check() const {
  core::require(preset == "none", "{}: a preset stands for keys, and has no place here. Write the keys.",
                where("preset"));
  if (!covered()) return;
  core::require(bits <= 8, "{} must be 1 to 8, or 16 for full precision, not {}.", where("bits"), bits);
  const bool one_sided = unread("symmetry").empty() && (symmetry == "narrow" || symmetry == "noclip");
  core::require(!(one_sided && bits < 2), "{}: {} has no scale at 1 bit. Use 2 bits or more, or midrise.",
                where("symmetry"), symmetry);
  core::require(!(codebook == "normal_float" && bits < 2),
                "{}: normal_float has levels on both sides of 0 from 2 bits on. Use 2 or more.", where("codebook"));
  if (codebook == "levels") check_levels();
  core::require(scale_bits != 1 || symmetry != "signed_full" || codebook != "uniform",
                "{}: signed_full needs a bit for the sign of its scales. Use scale_bits 2 or more.",
                where("scale_bits"));
}

}  // namespace quant
