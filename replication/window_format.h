// Formats in which the weight depends on its own code and on those before it in the tile (replication/tiles.h):
//   ŵ_t = s_g · Σ_i θ_i F[window_t, i],  window_t the L bits of the codes q_t, q_{t−1}, …; codes before the tile are 0
// with a scale s per group of weights of a row and a few numbers θ per tensor, which start as constants. F is what a
// family adds. Every weight of a tile is found by one look-up in the table F θ of 2^L levels. The scale is clip times
// the root mean square of the group: the constants are those for weights of variance 1.
#pragma once

#include <vector>

#include "quant/grids/scale_format.h"
#include "quant/grids/weight_format.h"

namespace replication {

struct WindowFamily {
  std::string name;            // of the format
  int64_t window_bits;         // L, a multiple of the code's bits
  at::Tensor features;         // F: [2^L, n] float32; the newest code is in the low bits of the row's number
  std::string parameter;       // name of θ
  std::vector<float> initial;  // [n]
  core::Node description;      // of the strategy, for refrain.json
};

// Variables of quant.weight that these formats have no use for.
const std::vector<std::string>& window_unread();

class WindowFormat : public quant::SequenceFormat {
 public:
  // Error: a shape that has no whole tiles.
  WindowFormat(const quant::WeightConfig& config, quant::Place place, WindowFamily family, int64_t out_features,
               int64_t in_features);

  std::string name() const override { return family_.name; }
  int64_t groups(int64_t in_features) const override;
  core::Node replication() const override { return family_.description; }

  quant::Parameters fit(const at::Tensor& w, const quant::Statistics& x) const override;
  quant::Encoded encode(const at::Tensor& w, quant::Parameters parameters) const override;
  int64_t column_block() const override { return 16; }
  quant::EncodedColumns encode_columns(const at::Tensor& w, const quant::Parameters& parameters, int64_t first,
                                       int64_t in_features) const override;
  at::Tensor decode(const at::Tensor& codes, const quant::Parameters& parameters) const override;
  std::optional<quant::Parameters> rescaled(const quant::Parameters& parameters,
                                            const at::Tensor& scale) const override {
    return scale_format_.replaced(parameters, scale);
  }
  quant::Parameters layout(int64_t out_features, int64_t in_features) const override;
  at::Tensor noise_scale(const quant::Parameters& parameters, int64_t out_features, int64_t in_features) const override;

  std::optional<quant::PackedForm> packed_form(const quant::Parameters& parameters, int64_t out_features,
                                               int64_t in_features) const override;

  // The same as decode, in tensor operations: the definition, the path of gradients and of other devices.
  at::Tensor decode_reference(const at::Tensor& codes, const quant::Parameters& parameters) const;
  // The level of every window, [2^L]. Differentiable.
  at::Tensor table(const quant::Parameters& parameters) const;

 private:
  at::Tensor levels(const at::Tensor& codes, const at::Tensor& table) const;  // [O, n] -> [O, n], unscaled

  WindowFamily family_;
  quant::ScaleFormat scale_format_;
};

}  // namespace replication
