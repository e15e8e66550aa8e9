// What a token costs when the codes of a linear are used several times: the forward pass of one linear of 1024 × 1024
// weights of 2 bits under every strategy, beside the plain grid. A table: multiply-accumulates of the bill,
// milliseconds for one token and for 128, each with its ratio to the plain grid. Rounds go through all rows in turn, so
// that a busy machine slows all alike; the least time counts.
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <limits>

#include "quant/grids/draws.h"
#include "quant/linear/quantized_linear.h"
#include "quant/method.h"
#include "replication/config.h"

namespace {

constexpr int64_t kSide = 1024;
constexpr int kRounds = 100;
const quant::Place kPlace{"bench", 1};

struct Row {
  std::string name, replication, weight = "{bits: 2, group_size: 64, symmetry: midrise, range: mse}";
};

const std::vector<Row>& rows() {
  const std::string window = "{bits: 2, group_size: 64}", row = "{bits: 2, group_size: -1}";
  static const std::vector<Row> all{
      {"plain grid", "{}"},
      {"scales, 2, fused", "{strategy: scales}"},
      {"scales, 2, not fused", "{strategy: scales, scales: {collapse: false}}"},
      {"scales, 4, not fused", "{strategy: scales, scales: {replicas: [{}, {}, {}, {}], collapse: false}}"},
      {"scales, 2, own codes", "{strategy: scales, scales: {own_codes: true}}"},
      {"row_column, 1", "{strategy: row_column, row_column: {iterations: 2}}", row},
      {"row_column, 2", "{strategy: row_column, row_column: {replicas: 2, iterations: 2}}", row},
      {"low_rank, rank 4", "{strategy: low_rank}"},
      {"token_adaptive, 4", "{strategy: token_adaptive}"},
      {"shifted, 2", "{strategy: shifted}", window},
      {"shifted, 4", "{strategy: shifted, shifted: {replicas: 4}}", window},
      {"parity_sign, 2, 12 bits", "{strategy: parity_sign}", window},
      {"parity_sign, 3, 16 bits", "{strategy: parity_sign, parity_sign: {replicas: 3, window_bits: 16}}", window},
  };
  return all;
}

std::shared_ptr<quant::QuantizedLinear> linear_of(const Row& row, const at::Tensor& w, const quant::Statistics& x) {
  replication::ReplicationConfig config;
  core::bind(core::parse_yaml(row.replication, "bench"), config, "replication");
  quant::WeightConfig weight;
  core::bind(core::parse_yaml(row.weight, "bench"), weight, "weight");
  core::Slot slot(kPlace.path, core::Role::up_proj, kSide, kSide, /*has_bias=*/false);
  const quant::Coding coding = replication::coding_of(config)(slot, weight, kPlace.seed);
  quant::Encoded encoded = quant::round_to_nearest(w, *coding.format, x);
  if (coding.refinement) encoded = coding.refinement->refine(w, std::move(encoded), x).encoded;
  return std::make_shared<quant::QuantizedLinear>(coding.refinement ? coding.refinement->format() : coding.format,
                                                  std::move(encoded), at::Tensor(), 0, at::kFloat);
}

double milliseconds(core::Linear& linear, const at::Tensor& x) {
  const auto start = std::chrono::steady_clock::now();
  linear.forward(x);
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

int main() {
  at::NoGradGuard no_gradient;
  const at::Tensor w = quant::normal_draw(kPlace, "weights", 0, kSide, kSide),
                   inputs = quant::normal_draw(kPlace, "inputs", 0, 2 * kSide, kSide);
  const quant::Statistics statistics{.hessian = at::mm(inputs.t(), inputs) / (2 * kSide),
                                     .mean_square = at::square(inputs).mean(0),
                                     .absmax = inputs.abs().amax(0),
                                     .kurtosis = 3,
                                     .tokens = 2 * kSide};
  const at::Tensor one = inputs.slice(0, 0, 1), many = inputs.slice(0, 0, 128);
  std::vector<std::shared_ptr<quant::QuantizedLinear>> linears;
  for (const Row& row : rows()) linears.push_back(linear_of(row, w, statistics));
  std::vector<double> alone(linears.size(), std::numeric_limits<double>::infinity()), together = alone;
  for (int round = 0; round < kRounds; ++round) {
    for (size_t i = 0; i < linears.size(); ++i) {
      alone[i] = std::min(alone[i], milliseconds(*linears[i], one));
      together[i] = std::min(together[i], milliseconds(*linears[i], many));
    }
  }
  const auto macs = [&](size_t i) { return static_cast<double>(linears[i]->cost().macs); };
  fmt::print("| strategy | MACs | 1 token, ms | ratio | 128 tokens, ms | ratio |\n|---|---|---|---|---|---|\n");
  for (size_t i = 0; i < linears.size(); ++i) {
    fmt::print("| {} | {:.3f} | {:.2f} | {:.2f} | {:.2f} | {:.2f} |\n", rows()[i].name, macs(i) / macs(0), alone[i],
               alone[i] / alone[0], together[i], together[i] / together[0]);
  }
}
