// Training inside the walk: the parameters of each block are trained for the outputs of the full-precision block, on
// the inputs that the quantized blocks before leave (as in EfficientQAT, arXiv 2407.11062), its codes with them if they
// are asked for, before statistics of the next block are taken. A block that runs several times in a row, or as several
// replicas, is trained as a whole, its replicas with it; where it runs again behind other blocks, on its first step.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/walk.h"
#include "quant/qat/config.h"
#include "quant/qat/optimize.h"

namespace quant {

// What outputs y of a block, [..., D], lose against those wanted. block_mse: the sum of squares of the difference over
// that of the outputs, where a token of massive activations outweighs all others; block_token_mse: the mean over tokens
// of ‖difference‖² / ‖output‖², ‖output‖² at least a thousandth of its median.
at::Tensor block_loss(const std::string& objective, const at::Tensor& y, const at::Tensor& wanted);

class TuneBlocks : public core::Stage {
 public:
  static constexpr int kVersion = 2;  // bumped by hand when trained values change

  // The walk must carry both streams.
  TuneBlocks(const QatConfig& config, FormatFactory format_factory, uint64_t seed)
      : config_(config), format_factory_(std::move(format_factory)), seed_(seed) {}

  struct Report {
    int64_t block;
    Trained trained;
    int64_t values, stored_bits, floated_zeros;  // as of Training
  };

  std::string name() const override { return "tune"; }
  int version() const override { return kVersion; }
  void block(core::BlockContext& context) override;
  std::string record() const override;  // the report of the last block
  void restore(const std::string& record) override;

  const std::vector<Report>& reports() const { return reports_; }

 private:
  QatConfig config_;
  FormatFactory format_factory_;
  uint64_t seed_;
  std::vector<Report> reports_;
};

}  // namespace quant
