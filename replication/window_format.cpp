#include "replication/window_format.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "core/error.h"
#include "core/nn/fused.h"
#include "replication/tiles.h"
#include "replication/viterbi.h"

namespace replication {

using quant::Parameters;

namespace {

// One tile: codes and out are rows of 16, `stride` apart. level: [2^L].
REFRAIN_SIMD void decode_tile(const uint8_t* codes, int64_t stride, const float* level, int64_t bits, int64_t symbols,
                              float* out) {
  constexpr int64_t kBefore = 16;  // codes before the tile: zeros
  int32_t code[kBefore + kTileWeights] = {};
  for (int64_t row = 0; row < kTileSide; ++row) {
    for (int64_t j = 0; j < kTileSide; ++j) code[kBefore + row * kTileSide + j] = codes[row * stride + j];
  }
  int32_t window[kTileWeights];
  for (int64_t t = 0; t < kTileWeights; ++t) window[t] = code[kBefore + t];
  for (int64_t r = 1; r < symbols; ++r) {
#pragma omp simd
    for (int64_t t = 0; t < kTileWeights; ++t) window[t] |= code[kBefore + t - r] << (bits * r);
  }
  for (int64_t row = 0; row < kTileSide; ++row) {
#pragma omp simd
    for (int64_t j = 0; j < kTileSide; ++j) out[row * stride + j] = level[window[row * kTileSide + j]];
  }
}

}  // namespace

const std::vector<std::string>& window_unread() {
  static const std::vector<std::string> keys{"symmetry", "zero_point", "offset", "range", "rounding", "codebook"};
  return keys;
}

WindowFormat::WindowFormat(const quant::WeightConfig& config, quant::Place place, WindowFamily family,
                           int64_t out_features, int64_t in_features)
    : SequenceFormat(config, std::move(place)), family_(std::move(family)), scale_format_(config, /*is_signed=*/false) {
  core::require(
      out_features % kTileSide == 0 && in_features % kTileSide == 0,
      "{}: {} codes tiles of 16 × 16 weights, but this weight is {} × {}. Leave it out by a rule with weight: "
      "{{bits: 16}}.",
      this->place().path, family_.name, out_features, in_features);
  core::require(config.group_size <= 0 || in_features % config.group_size == 0,
                "{}: group_size {} does not divide {} input features. Choose a divisor, or -1.", this->place().path,
                config.group_size, in_features);
}

int64_t WindowFormat::groups(int64_t in_features) const {
  return config().group_size > 0 ? in_features / config().group_size : 1;
}

Parameters WindowFormat::layout(int64_t O, int64_t I) const {
  Parameters all = scale_format_.layout({config().group_size == 0 ? 1 : O, groups(I)});
  all.push_back({family_.parameter,
                 {},
                 core::Kind::table,
                 scale_format_.bits(),
                 {static_cast<int64_t>(family_.initial.size())},
                 scale_format_.dtype()});
  return all;
}

Parameters WindowFormat::fit(const at::Tensor& w, const quant::Statistics&) const {
  Parameters fitted = layout(w.size(0), w.size(1));
  const at::Tensor grouped =
      config().group_size == 0 ? w.reshape({1, 1, -1}) : w.reshape({w.size(0), groups(w.size(1)), -1});
  const at::Tensor rms = at::square(grouped).mean(-1).sqrt();  // [O, G]
  for (quant::Parameter& p : scale_format_.stored(rms * config().clip)) fitted.at(p.name) = p.tensor;
  fitted.at(family_.parameter) = scale_format_.rounded(at::tensor(family_.initial, w.options()));
  return fitted;
}

at::Tensor WindowFormat::noise_scale(const Parameters& parameters, int64_t O, int64_t) const {
  const at::Tensor scale = scale_format_.scale(parameters);
  return scale.expand({O, scale.size(1)});
}

std::optional<quant::PackedForm> WindowFormat::packed_form(const Parameters& parameters, int64_t O, int64_t I) const {
  const at::Tensor level = table(parameters).detach().cpu().contiguous();
  const float* levels = level.const_data_ptr<float>();
  return quant::PackedForm{{.scale = noise_scale(parameters, O, I).contiguous(),
                            .shift = {},
                            .group_size = I / groups(I),
                            .top = (int64_t{1} << code_bits()) - 1,
                            .table = {levels, levels + level.numel()},
                            .dither = {}},
                           {},
                           {},
                           family_.window_bits};
}

at::Tensor WindowFormat::table(const Parameters& parameters) const {
  const at::Tensor theta = parameters.at(family_.parameter);
  return at::mv(family_.features.to(theta.device()), theta);
}

// ---- codes -> weights ----

at::Tensor WindowFormat::levels(const at::Tensor& codes, const at::Tensor& table) const {
  const int64_t O = codes.size(0), n = codes.size(1), tiles = n / kTileSide;
  const at::Tensor out = at::empty({O, n}, table.options()), source = codes.contiguous();
  const auto* from = source.const_data_ptr<uint8_t>();
  const auto* level = table.const_data_ptr<float>();
  auto* to = out.mutable_data_ptr<float>();
  at::parallel_for(0, O / kTileSide * tiles, core::kGrain / kTileWeights, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t at = tile / tiles * kTileSide * n + tile % tiles * kTileSide;
      decode_tile(from + at, n, level, code_bits(), family_.window_bits / code_bits(), to + at);
    }
  });
  return out;
}

at::Tensor WindowFormat::decode(const at::Tensor& codes, const Parameters& parameters) const {
  const at::Tensor scale = scale_format_.scale(parameters), levels_of = table(parameters);
  if (!core::can_fuse({scale, levels_of}) || !codes.is_cpu()) return decode_reference(codes, parameters);
  const at::Tensor w = levels(codes, levels_of);
  w.view({scale.size(0), scale.size(1), -1}).mul_(scale.unsqueeze(-1));
  return w;
}

at::Tensor WindowFormat::decode_reference(const at::Tensor& codes, const Parameters& parameters) const {
  const at::Tensor tiles = to_tiles(codes).to(at::kLong);
  at::Tensor window = tiles.clone();
  for (int64_t r = 1; r < family_.window_bits / code_bits(); ++r)
    window += at::constant_pad_nd(tiles, {r, 0}).narrow(1, 0, kTileWeights) * (int64_t{1} << (code_bits() * r));
  const at::Tensor w = from_tiles(table(parameters).index({window}), codes.size(0), codes.size(1));
  const at::Tensor scale = scale_format_.scale(parameters);
  return (w.reshape({scale.size(0), scale.size(1), -1}) * scale.unsqueeze(-1)).reshape(codes.sizes());
}

// ---- weights -> codes ----

quant::EncodedColumns WindowFormat::encode_columns(const at::Tensor& w, const Parameters& parameters, int64_t first,
                                                   int64_t in_features) const {
  const int64_t O = w.size(0), n = w.size(1);
  const at::Tensor scale = noise_scale(parameters, O, in_features).detach().cpu();  // [O, G]
  const at::Tensor group = at::arange(first, first + n, at::kLong).div(in_features / scale.size(1), "floor");
  const at::Tensor step = scale.index_select(1, group);  // [O, n]
  const at::Tensor level = table(parameters).detach().cpu().contiguous();
  const at::Tensor x = to_tiles(w.cpu() / step).contiguous();
  const at::Tensor codes = at::empty(x.sizes(), at::kByte);
  viterbi({code_bits(), family_.window_bits, level.const_data_ptr<float>()}, x.const_data_ptr<float>(), x.size(0),
          kTileWeights, codes.mutable_data_ptr<uint8_t>());
  const at::Tensor matrix = from_tiles(codes, O, n);
  return {matrix.to(w.device()), (levels(matrix, level) * step).to(w.device())};
}

quant::Encoded WindowFormat::encode(const at::Tensor& w, Parameters parameters) const {
  return {encode_columns(w, parameters, 0, w.size(1)).codes, std::move(parameters)};
}

}  // namespace replication
