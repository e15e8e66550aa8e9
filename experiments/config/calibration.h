// The `calibration` section: which text shows the quantizer what the inputs of linears look like.
#pragma once

#include <string>

#include "core/config/keys.h"

namespace experiments {

struct CalibrationConfig : core::Section {
  std::string corpus = "tiny/train";
  int64_t samples = 64;
  int64_t seq_len = 256;
  std::string sampling = "random";
  bool propagate_error = true;
  std::string true_sequential = "auto";
  std::string targets = "auto";
  double target_share = 1;
  double target_damp = 0.05;
  int64_t batch_tokens = 1024;
  bool all_experts = false;
  double min_token_fraction = 0.005;
  std::string fallback = "rtn";
  std::string imatrix;

  void keys(core::Keys& k) override;
  void check() const override;
};

}  // namespace experiments
